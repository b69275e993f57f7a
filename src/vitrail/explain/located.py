"""How much of a map's weight lies on the cause, where that is known: on synthetic slides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from numpy.typing import NDArray

    from vitrail.explain.saliency import Saliency

    Masks = Mapping[str, NDArray[np.bool_]]


def weight_inside(values: NDArray[np.floating[Any]], inside: NDArray[np.bool_]) -> float:
    """Return the share of a map's positive part that lies in a region; NaN where the map has none.

    Parameters
    ----------
    values, inside
        `[h, w]`, at one resolution.
    """
    positive = np.maximum(values, 0).astype(np.float64)
    total = positive.sum()
    return float(positive[inside].sum() / total) if total > 0 else np.nan


def locate(saliencies: Mapping[str, Saliency], masks: Masks) -> Iterator[dict[str, Any]]:
    """Measure how much of each map of one tile lies in each region.

    Parameters
    ----------
    saliencies
        The maps, by key.
    masks
        The regions at the tile's resolution, `[h, w]` each; what `Truth.masks` returns.

    Yields
    ------
    `key`, `region`, `weight` (share of the map's positive part inside) and `area` (share of the tile's area).
    """
    (size,) = {mask.shape for mask in masks.values()}
    for key, saliency in saliencies.items():
        values = saliency.upsample((size[0], size[1]))
        for region, mask in masks.items():
            yield {"key": key, "region": region, "weight": weight_inside(values, mask), "area": float(mask.mean())}
