"""How much of a map lies on the cause, where that is known: on synthetic slides.

More relevance than the region's area would give is no proof: maps may favour the middle of a tile or keep clear of its
border whatever it shows, and so may nuclei. What a map knows of its own tile is what it has beyond maps that know
nothing of it: those of other tiles, and itself turned and mirrored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from vitrail.explain.saliency import Saliency

    Values = NDArray[np.floating[Any]]

CAUSE = "atypical_nuclei"
"""The region that makes a synthetic tile tumor, on which a map has to lie."""


def relevance_mass(values: Values, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the share of a map's positive part that lies in each region (Arras et al. 2022, arXiv:2003.07258).

    Parameters
    ----------
    values
        The map, `[h, w]`. Of one that is not signed, what lies above its lowest value; see `locate`.
    inside
        The regions, `[regions, h, w]`.

    Returns
    -------
    NDArray[np.float64]
        `[regions]`; NaN where the map has no positive part.
    """
    positive = np.maximum(values, 0).astype(np.float64).ravel()
    total = positive.sum()
    shares: NDArray[np.float64] = inside.reshape(len(inside), -1) @ positive / (total if total > 0 else np.nan)
    return shares


def turned(values: Values) -> Iterator[Values]:
    """Yield the seven other ways in which a square map `[side, side]` can lie: turned, mirrored, or both."""
    for turns in range(1, 8):
        yield np.rot90(values if turns < 4 else values.T, turns % 4)


def locate(
    saliencies: Mapping[str, Saliency], masks: Mapping[str, NDArray[np.bool_]], others: Mapping[str, Sequence[Saliency]]
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
    dict[str, Any]
        `key`, `region`, `weight` (share of the map's positive part inside), `others` and `turned` (the mean of the same
        share of other tiles' maps, and of this one turned and mirrored), and `area` (share of the tile's area).
    """
    inside = np.stack(list(masks.values()))
    size = inside.shape[1], inside.shape[2]
    for key, saliency in saliencies.items():
        maps = [each.upsample(size) for each in (saliency, *others[key])]
        if not saliency.signed:  # such a map counts from its lowest value, for its zero means nothing
            maps = [values - values.min() for values in maps]
        mean_mass = {}
        for name, compared in (("weight", maps[:1]), ("others", maps[1:]), ("turned", turned(maps[0]))):
            masses = np.array([relevance_mass(values, inside) for values in compared]).reshape(-1, len(inside))
            defined = masses[~np.isnan(masses).any(1)]  # maps that point anywhere
            mean_mass[name] = defined.mean(0) if len(defined) else np.full(len(inside), np.nan)
        for number, (region, mask) in enumerate(masks.items()):
            numbers = {name: float(mass[number]) for name, mass in mean_mass.items()}
            yield {"key": key, "region": region, **numbers, "area": float(mask.mean())}
