"""How much of a map's weight lies on the cause, where that is known: on synthetic slides.

More weight than the region's area would give is no proof: maps may favour the middle of a tile or keep clear of its
border whatever it shows, and so may nuclei. What a map knows of its own tile is what it has beyond maps that know
nothing of it: those of other tiles, and itself turned and mirrored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from vitrail.explain.saliency import Saliency

    Values = NDArray[np.floating[Any]]
    Masks = Mapping[str, NDArray[np.bool_]]


def weights_inside(values: Values, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the share of a map's positive part that lies in each region, `[regions]`; NaN where the map has none.

    Of a map that is not signed what lies above its lowest value is meant; see `locate`.

    Parameters
    ----------
    values, inside
        `[h, w]` and `[regions, h, w]`.
    """
    positive = np.maximum(values, 0).astype(np.float64).ravel()
    total = positive.sum()
    shares: NDArray[np.float64] = inside.reshape(len(inside), -1) @ positive / (total if total > 0 else np.nan)
    return shares


def turned(values: Values) -> Iterator[Values]:
    """Yield the seven other ways in which a square map `[side, side]` can lie: turned, mirrored, or both."""
    for turns in range(8):
        if turns:
            yield np.rot90(values if turns < 4 else values.T, turns % 4)


def locate(
    saliencies: Mapping[str, Saliency], masks: Masks, others: Mapping[str, Sequence[Saliency]]
) -> Iterator[dict[str, Any]]:
    """Measure how much of each map of one square tile lies in each region.

    Parameters
    ----------
    saliencies
        The maps, by key.
    masks
        The regions at the tile's resolution, `[side, side]` each; what `Truth.masks` returns.
    others
        By key, maps of other tiles.

    Yields
    ------
    `key`, `region`, `weight` (share of the map's positive part inside), `others` and `turned` (the mean of the same
    share of other tiles' maps, and of this one turned and mirrored), and `area` (share of the tile's area).
    """
    (size,) = {mask.shape for mask in masks.values()}
    inside = np.stack(list(masks.values()))
    for key, saliency in saliencies.items():
        values = _weights(saliency, size)
        weights = weights_inside(values, inside)
        strangers = _mean_weights((_weights(other, size) for other in others[key]), inside)
        turns = _mean_weights(turned(values), inside)
        for number, (region, mask) in enumerate(masks.items()):
            yield {
                "key": key, "region": region, "weight": float(weights[number]), "others": float(strangers[number]),
                "turned": float(turns[number]), "area": float(mask.mean()),
            }  # fmt: skip


def _weights(saliency: Saliency, size: tuple[int, ...]) -> Values:
    """Return a map over its tile; one that is not signed counts from its lowest value, for its zero means nothing."""
    values = saliency.upsample((size[0], size[1]))
    return values if saliency.signed else values - values.min()


def _mean_weights(maps: Iterable[Values], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean of `weights_inside` over the maps that point anywhere; NaN where none does."""
    weights = np.array([weights_inside(values, inside) for values in maps]).reshape(-1, len(inside))
    known = weights[~np.isnan(weights).any(1)]
    return known.mean(0) if len(known) else np.full(len(inside), np.nan)
