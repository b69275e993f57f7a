"""How often outlines cross themselves and each other: what mending and joining them costs grows with it.

Of 20,000 crossings make_valid takes a second, of a million minutes and gigabytes; outlines that a person drew or a
program traced have a few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import shapely

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from shapely import MultiPolygon

    Lines = NDArray[np.object_]

MOST_CROSSINGS = 20_000
MOST_CORNERS = 2_000_000

_PAIRS = 1 << 19
"""Pairs of sides looked at in one go, at most, if each meets each."""

_NEIGHBOURS = 14
"""Sides that a side touches without crossing any, itself among them, where four outlines meet at each of its ends."""


def corners(areas: Sequence[MultiPolygon]) -> int:
    """Return how many corners areas have together."""
    return int(shapely.get_num_coordinates(areas).sum())


def cross_too_often(areas: Sequence[MultiPolygon]) -> bool:
    """Tell whether the sides of areas cross more than `MOST_CROSSINGS` times, without counting any further."""
    sides = _sides(areas)
    tree = shapely.STRtree(sides)
    return _meet(tree, sides, predicate=None) and _meet(tree, sides, predicate="intersects")


def _meet(tree: shapely.STRtree, sides: Lines, predicate: Literal["intersects"] | None) -> bool:
    """Tell whether more pairs meet than could without crossings; of boxes alone it is five times as quick."""
    left, step = 2 * MOST_CROSSINGS + _NEIGHBOURS * len(sides), max(1, _PAIRS // max(1, len(sides)))
    for start in range(0, len(sides), step):
        left -= tree.query(sides[start : start + step], predicate=predicate).shape[1]
        if left < 0:
            return True
    return False


def _sides(areas: Sequence[MultiPolygon]) -> Lines:
    """Return every side of every ring as a line."""
    rings = shapely.get_rings(shapely.get_parts(areas))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    pairs = np.stack([points[:-1], points[1:]], axis=1)
    lines: Lines = shapely.linestrings(pairs[ring[1:] == ring[:-1]])
    return lines
