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
    list
        Valid polygons that do not overlap, in the same order.
    """
    if not polygons:
        return []
    for halvings in range(_TRIES):
        thinned = list(shapely.coverage_simplify(polygons, tolerance / 2**halvings))
        mended = [_within(exact, rough, tolerance) for exact, rough in zip(polygons, thinned, strict=True)]
        if _sound(mended, [i for i, (new, old) in enumerate(zip(mended, thinned, strict=True)) if new is not old]):
            return mended
    return polygons


def _within(exact: Polygon, rough: Polygon, tolerance: float) -> Polygon:
    """Return the simplified polygon, with the stretches that stray too far replaced."""
    pairs = list(zip(_rings(exact), _rings(rough), strict=True))
    mended = [_ring_within(*pair, tolerance) for pair in pairs]
    if all(new is old for new, (_, old) in zip(mended, pairs, strict=True)):
        return rough
    return Polygon(mended[0], mended[1:])


def _rings(polygon: Polygon) -> list[Points]:
    """Return the shell and the holes, without the repeated last point."""
    return [shapely.get_coordinates(ring)[:-1] for ring in (polygon.exterior, *polygon.interiors)]


def _ring_within(exact: Points, rough: Points, tolerance: float) -> Points:
    kept = np.isin(_keys(exact), _keys(rough))
    start = int(np.argmax(kept))
    exact, kept = np.roll(exact, -start, axis=0), np.roll(kept, -start)
    (corners,) = np.nonzero(kept)
    segment = np.cumsum(kept) - 1
    far = _distances(exact, exact[corners][segment], np.roll(exact[corners], -1, axis=0)[segment]) > tolerance
    if not far.any():
        return rough
    closed = np.vstack([exact, exact[:1]])
    ends = np.append(corners, len(exact))
    strays = set(segment[far].tolist())
    return np.vstack(
        [
            _stretch(closed[ends[i] : ends[i + 1] + 1], tolerance)[:-1] if i in strays else closed[ends[i]][None]
            for i in range(len(corners))
        ]
    )


def _stretch(points: Points, tolerance: float) -> Points:
    """Simplify an open line after Douglas and Peucker, alike from whichever end it is given."""
    backwards = tuple(points[0]) > tuple(points[-1])
    line = shapely.simplify(
        shapely.linestrings(points[::-1] if backwards else points), tolerance, preserve_topology=False
    )
    found = shapely.get_coordinates(line)
    return found[::-1] if backwards else found


def _keys(points: Points) -> NDArray[np.complex128]:
    return points[:, 0] + 1j * points[:, 1]


def _distances(points: Points, starts: Points, ends: Points) -> NDArray[np.float64]:
    """Return the distance of each point from its own segment."""
    along = ends - starts
    length = np.einsum("ij,ij->i", along, along)
    share = np.einsum("ij,ij->i", points - starts, along) / np.where(length, length, 1)
    nearest = starts + np.clip(share, 0, 1)[:, None] * along
    away: NDArray[np.float64] = np.hypot(*(points - nearest).T)
    return away


def _sound(polygons: list[Polygon], changed: list[int]) -> bool:
    """Tell whether the changed polygons are valid and overlap no other."""
    if not changed:
        return True
    shapes, suspects = np.array(polygons), np.array([polygons[i] for i in changed])
    if not shapely.is_valid(suspects).all():
        return False
    whose, other = shapely.STRtree(shapes).query(suspects, predicate="intersects")
    pairs = np.array(changed, np.intp)[whose] != other
    overlap = shapely.intersection(suspects[whose[pairs]], shapes[other[pairs]])
    return bool((shapely.area(overlap) <= _TOUCH).all())
