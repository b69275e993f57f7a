"""Fewer vertices, within a stated distance, with common borders kept common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from shapely import Polygon

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Points = NDArray[np.float64]

_TRIES = 6
_TOUCH = 1e-9
"""An overlap of this many square pixels is the rounding of an intersection's coordinates."""


def simplify_coverage(polygons: list[Polygon], tolerance: float) -> list[Polygon]:
    """Simplify polygons that do not overlap and share the vertices of their common borders.

    Coverage simplification after Visvalingam and Whyatt (1993, doi:10.1179/000870493786962263) leaves out vertices of
    small triangles, never so that borders cross, and the same ones on both sides of a border. It bounds the size of
    each triangle, not the distance: wherever a vertex ends up farther than the tolerance from its segment, that
    stretch is simplified after Douglas and Peucker instead, which does. The Hausdorff distance between an outline and
    its simplification is therefore at most the tolerance.

    Parameters
    ----------
    polygons
        Valid; together a coverage.
    tolerance
        In the unit of the coordinates; 0 leaves out nothing but vertices on straight lines.

    Returns
    -------
    list[Polygon]
        Valid polygons that do not overlap, in the same order.
    """
    if not polygons:
        return []
    for halvings in range(_TRIES):
        thinned = list(shapely.coverage_simplify(polygons, tolerance / 2**halvings))
        near = [_within(exact, rough, tolerance) for exact, rough in zip(polygons, thinned, strict=True)]
        changed = [i for i, (new, old) in enumerate(zip(near, thinned, strict=True)) if new is not old]
        if not changed:
            return near
        # What was changed must be valid and overlap no other.
        shapes, suspects = np.array(near), np.array([near[i] for i in changed])
        if shapely.is_valid(suspects).all():
            whose, other = shapely.STRtree(shapes).query(suspects, predicate="intersects")
            pairs = np.array(changed, np.intp)[whose] != other
            overlap = shapely.intersection(suspects[whose[pairs]], shapes[other[pairs]])
            if (shapely.area(overlap) <= _TOUCH).all():
                return near
    return polygons


def _within(exact: Polygon, rough: Polygon, tolerance: float) -> Polygon:
    """Return the simplified polygon, with the stretches that stray too far replaced."""
    rings: list[Points] = []
    straying = False
    for pair in zip((exact.exterior, *exact.interiors), (rough.exterior, *rough.interiors), strict=True):
        full, simple = (shapely.get_coordinates(ring)[:-1] for ring in pair)
        ring = _ring_within(full, simple, tolerance)
        straying |= ring is not simple
        rings.append(ring)
    return Polygon(rings[0], rings[1:]) if straying else rough


def _ring_within(exact: Points, rough: Points, tolerance: float) -> Points:
    stays = np.isin(exact[:, 0] + 1j * exact[:, 1], rough[:, 0] + 1j * rough[:, 1])
    start = int(np.argmax(stays))
    exact, stays = np.roll(exact, -start, axis=0), np.roll(stays, -start)
    (corners,) = np.nonzero(stays)
    segment = np.cumsum(stays) - 1
    # The distance of each point from its own segment.
    origin = exact[corners][segment]
    along = np.roll(exact[corners], -1, axis=0)[segment] - origin
    length = np.einsum("ij,ij->i", along, along)
    share = np.einsum("ij,ij->i", exact - origin, along) / np.where(length, length, 1)
    nearest = origin + np.clip(share, 0, 1)[:, None] * along
    far = np.hypot(*(exact - nearest).T) > tolerance
    if not far.any():
        return rough
    closed, ends, strays = np.vstack([exact, exact[:1]]), np.append(corners, len(exact)), set(segment[far].tolist())
    stretches = []
    for i in range(len(corners)):
        stretch = closed[ends[i] : ends[i + 1] + 1]
        if i in strays:
            # After Douglas and Peucker, alike from whichever end the open line is given.
            turn = -1 if tuple(stretch[0]) > tuple(stretch[-1]) else 1
            line = shapely.simplify(shapely.linestrings(stretch[::turn]), tolerance, preserve_topology=False)
            stretches.append(shapely.get_coordinates(line)[::turn][:-1])
        else:
            stretches.append(stretch[:1])
    return np.vstack(stretches)
