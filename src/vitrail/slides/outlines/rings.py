"""Rings that are inside each other: which is a hole of which; and holes for formats that have none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from shapely import LineString, Polygon

from vitrail.slides.outlines.features import MalformedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vitrail.slides.outlines.features import Ring

_MOST_PAIRS = 2_000_000
"""Of rings whose boxes meet; outlines of tissue have thousands."""

_SMALLEST_RING = 3


def nested(rings: Sequence[Ring], *, non_zero: bool = False) -> list[list[Ring]]:
    """Sort rings into polygons with holes.

    Parameters
    ----------
    rings
        Of one object, in any order; those of fewer than three points are left out.
    non_zero
        Whether what is inside follows from the direction of the rings (SVG's `nonzero`), and not from how many are
        around it (`evenodd`).

    Returns
    -------
    list[list[Ring]]
        Of each polygon the outer ring and its holes.

    Raises
    ------
    MalformedError
        Too many lie in each other.
    """
    rings = [ring for ring in rings if len(ring) >= _SMALLEST_RING]
    areas = np.array([signed_area(ring) for ring in rings])
    order = np.argsort(-np.abs(areas), kind="stable")
    rings, areas = [rings[i] for i in order], areas[order]
    around = _containers(rings, rings)
    polygons: dict[int, list[Ring]] = {}
    for i, ring in enumerate(rings):
        outside = [j for j in around[i] if j < i]
        if non_zero:
            winding = int(np.sign(areas[outside]).sum())
            before, after = bool(winding), bool(winding + np.sign(areas[i]))
        else:
            before, after = bool(len(outside) % 2), not len(outside) % 2
        if after and not before:
            polygons[i] = [ring]
        elif before and not after:
            polygons[max(j for j in outside if j in polygons)].append(ring)
    return list(polygons.values())


def with_negatives(rings: Sequence[Ring], negatives: Sequence[Ring]) -> list[list[Ring]]:
    """Cut negative regions out of the others of their layer, but for those that lie wholly within them.

    Parameters
    ----------
    rings
        Regions.
    negatives
        Negative regions.

    Returns
    -------
    list[list[Ring]]
        For each region itself and its holes, in the same order; holes may cross the region and each other.

    Raises
    ------
    MalformedError
        Too many lie in each other.
    """
    polygons: list[list[Ring]] = [[ring] for ring in rings]
    holes = [ring for ring in negatives if len(ring) >= _SMALLEST_RING]
    loops = shapely.STRtree([_loop(ring) for ring in rings])
    within = _containers(rings, holes)
    for number, (hole, containers) in enumerate(zip(holes, _containers(holes, rings), strict=True)):
        crossed = loops.query(_loop(hole), predicate="intersects").tolist()
        for i in sorted({*containers, *crossed}):
            if i in containers or number not in within[i]:
                polygons[i].append(hole)
    return polygons


def signed_area(ring: Ring) -> float:
    """Return a ring's area, negative where it turns from y towards x."""
    if len(ring) < _SMALLEST_RING:
        return 0.0
    x, y = (np.asarray(ring, np.float64) - np.asarray(ring[0], np.float64)).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _loop(ring: Ring) -> LineString:
    """Return a ring as a closed line, empty where it has too few points."""
    return LineString([*map(tuple, ring), tuple(ring[0])] if len(ring) >= _SMALLEST_RING else [])


def _containers(rings: Sequence[Ring], others: Sequence[Ring]) -> list[list[int]]:
    """Tell for each ring which others are around all of its points; not itself. Crossing rings need not be valid."""
    if not rings or not others:
        return [[] for _ in rings]
    closed = [Polygon(ring) if len(ring) >= _SMALLEST_RING else Polygon() for ring in others]
    tree = shapely.STRtree(closed)
    near = tree.query([_loop(ring) for ring in rings])  # whose boxes meet
    if near.shape[1] > _MOST_PAIRS:
        raise MalformedError("too many of its outlines lie in each other")
    shapely.prepare(closed)
    result: list[list[int]] = [[] for _ in rings]
    for i, j in near.T.tolist():
        if rings[i] is others[j]:
            continue
        points = np.asarray(rings[i], np.float64)
        probe = points[:: max(1, len(points) // 8)]  # most pairs fall at the first points
        if shapely.intersects_xy(closed[j], *probe.T).all() and shapely.intersects_xy(closed[j], *points.T).all():
            result[i].append(j)
    return result


def slit_open(polygon: Polygon) -> tuple[NDArray[np.float64], int]:
    """Return a polygon with holes as one ring: a line leads to each hole and back, and encloses nothing.

    What turns once around a point is inside, also with those who know of no holes; the area is the same, and so are
    the corners.

    Parameters
    ----------
    polygon
        Valid.

    Returns
    -------
    NDArray[np.float64]
        `[n, 2]`, not closed.
    int
        How many holes are filled, since no straight line leads to them from a corner.
    """
    turned = shapely.orient_polygons(polygon)
    ring = np.asarray(turned.exterior.coords)[:-1]
    holes = sorted((np.asarray(hole.coords)[:-1] for hole in turned.interiors), key=lambda hole: hole[:, 0].min())
    shapely.prepare(turned)
    filled = 0
    for hole in holes:
        # The leftmost corner of the leftmost hole sees a corner of what lies to its left.
        first = int(hole[:, 0].argmin())
        near = np.argsort(np.hypot(*(ring - hole[first]).T), kind="stable")
        sees = next((at for at in near if turned.covers(LineString([hole[first], ring[at]]))), None)
        if sees is None:
            filled += 1
            continue
        loop = np.roll(hole, -first, axis=0)
        ring = np.concatenate([ring[: sees + 1], loop, loop[:1], ring[sees:]])
    return ring, filled
