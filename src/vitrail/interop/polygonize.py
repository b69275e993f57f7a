"""Class indices, a strip at a time, to exact polygons.

A strip passes a window of two by two pixels. Wherever neither its rows nor its columns are pairs of equal pixels lies
a vertex: a corner of a class, or a node where three classes meet. In every row of the pixel grid the vertices of one
class pair up, first with second and third with fourth, into all its horizontal edges; in every column alike into its
vertical edges; and both together close into rings. So nothing but vertices is kept, and no seam of the strips can
show. Vertices at which a class meets itself, two pixels touching at a corner, and nodes on a straight edge count
twice, once for the edge that ends there and once for the one that begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely import Polygon

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    Rings = list[NDArray[np.float64]]

_OPEN = -1
_HOLLOW = 8
"""Pixels of the smallest region with a hole, the hole included; what is smaller can be dropped unseen."""

_CLOSE_AT = 200_000
"""Vertices that may wait before finished rings are looked for."""


def outline_classes(
    strips: Iterable[NDArray[np.integer[Any]]],
    labels: tuple[int, ...],
    *,
    smallest: float = 0,
    smallest_hole: float = 0,
) -> dict[int, list[Polygon]]:
    """Outline the 4-connected regions of some classes, exactly along the pixels' edges.

    Polygons of different labels share all vertices along a common border: together they are a coverage. What is kept
    in memory is one strip and the outlines.

    Parameters
    ----------
    strips
        `[h, width]` class indices, from top to bottom; of any height.
    labels
        The classes to outline.
    smallest
        Regions of fewer pixels are dropped.
    smallest_hole
        Holes of fewer pixels are filled; at most `smallest`, lest a region lie in a filled hole.

    Returns
    -------
    dict
        The polygons of every label, valid, in pixels of the map.

    Raises
    ------
    ValueError
        If the strips differ in width, or `smallest_hole` is larger than `smallest`.
    """
    if smallest_hole > smallest:
        raise ValueError(f"holes up to {smallest_hole} pixels cannot be filled while regions of {smallest} are kept")
    outliners = {label: _Outliner(rank, (smallest, smallest_hole)) for rank, label in enumerate(labels, start=1)}
    for points, windows in _vertices(strips, labels):
        for outliner in outliners.values():
            outliner.add(points, windows)
    return {label: outliner.finish() for label, outliner in outliners.items()}


def _vertices(
    strips: Iterable[NDArray[np.integer[Any]]], labels: tuple[int, ...]
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.uint8]]]:
    """Yield the vertices of each strip: [n, 2] x, y and [n, 4] ranks of the pixels NW, NE, SW, SE of them."""
    y, above = 0, None
    for strip in strips:
        ranks = _ranks(strip, labels)
        above = np.zeros((1, ranks.shape[1]), np.uint8) if above is None else above
        if above.shape[1] != ranks.shape[1]:
            raise ValueError(f"a strip of {strip.shape[1]} pixels follows one of {above.shape[1] - 2}")
        yield _found(np.vstack([above, ranks]), y)
        y, above = y + len(strip), ranks[-1:]
    if above is not None:
        yield _found(np.vstack([above, np.zeros_like(above)]), y)


def _ranks(strip: NDArray[np.integer[Any]], labels: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return 1, 2, ... for the labels in their order and 0 for the rest, with a margin left and right."""
    ranks = np.zeros((len(strip), strip.shape[1] + 2), np.uint8)
    for rank, label in enumerate(labels, start=1):
        ranks[:, 1:-1][strip == label] = rank
    return ranks


def _found(ranks: NDArray[np.uint8], y: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    across, down = ranks[:, 1:] != ranks[:, :-1], ranks[1:] != ranks[:-1]
    rows, columns = np.nonzero((across[:-1] | across[1:]) & (down[:, :-1] | down[:, 1:]))
    window = ((0, 0), (0, 1), (1, 0), (1, 1))
    points = np.column_stack([columns, rows + y]).astype(np.int32)
    return points, np.column_stack([ranks[rows + dy, columns + dx] for dy, dx in window])


class _Outliner:
    """Gathers the vertices of one label and closes them into polygons."""

    def __init__(self, rank: int, smallest: tuple[float, float]) -> None:
        self._rank, self._smallest, self._smallest_hole = rank, *smallest
        self._waiting = np.empty((0, 4), np.int32)
        self._new: list[NDArray[np.int32]] = []
        self._holes: list[NDArray[np.float64]] = []
        self._polygons: list[Polygon] = []
        self._count, self._close_at = 0, _CLOSE_AT

    def add(self, points: NDArray[np.int32], windows: NDArray[np.uint8]) -> None:
        """Take the vertices of a strip."""
        own = _own(points, windows == self._rank)
        self._new.append(own)
        self._count += len(own)
        if self._count > self._close_at:
            self._close()

    def finish(self) -> list[Polygon]:
        """Return all polygons."""
        self._close()
        return self._polygons

    def _close(self) -> None:
        """Turn the rings that are closed by now into polygons; the others wait."""
        vertices = np.concatenate([self._waiting, *self._new])
        rings, waits = _rings(vertices)
        self._waiting, self._new = vertices[waits], []
        self._count, self._close_at = len(self._waiting), max(_CLOSE_AT, 2 * len(self._waiting))
        shells = self._sorted(rings)
        self._polygons += [polygon for polygon in self._filled(shells) if polygon.area >= self._smallest]

    def _sorted(self, rings: Rings) -> list[Polygon]:
        """Keep the holes and return the shells."""
        areas = [_signed_area(ring) for ring in rings]
        self._holes += [ring for ring, area in zip(rings, areas, strict=True) if -area >= max(self._smallest_hole, 1)]
        least = min(self._smallest, _HOLLOW)
        return [Polygon(ring) for ring, area in zip(rings, areas, strict=True) if area >= max(least, 1)]

    def _filled(self, shells: list[Polygon]) -> list[Polygon]:
        """Cut the holes out of the shells that they lie in; holes of shells that are not closed yet wait on."""
        owners = _owners(self._holes, shells)
        cut: list[Rings] = [[] for _ in shells]
        for hole, owner in zip(self._holes, owners, strict=True):
            if owner != _OPEN:
                cut[owner].append(hole)
        self._holes = [hole for hole, owner in zip(self._holes, owners, strict=True) if owner == _OPEN]
        return [Polygon(shell.exterior, holes) for shell, holes in zip(shells, cut, strict=True)]


def _own(points: NDArray[np.int32], inside: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the vertices of one label, in raster order, as [n, 4] x, y, turn, forward.

    `turn` orders vertices at the same place along the column. `forward` tells of the first of two vertices that a
    horizontal edge joins whether the ring, with its inside at the right hand, runs from it to the second.
    """
    nw, ne, sw, se = inside.T
    count = inside.sum(axis=1)
    twice = count == 2
    copies = np.where(twice, 2, count % 2)
    vertex = np.repeat(np.arange(len(points)), copies)
    second = np.concatenate([[False], vertex[1:] == vertex[:-1]])[: len(vertex)]
    crossed = (twice & ne & sw)[vertex]
    upright = (twice & (nw == sw))[vertex]
    return np.column_stack([points[vertex], second ^ crossed, se[vertex] ^ upright]).astype(np.int32)


def _rings(vertices: NDArray[np.int32]) -> tuple[Rings, NDArray[np.bool_]]:
    """Return all closed rings, simple ones, and which vertices belong to none yet."""
    partner = _below(vertices)
    forward = vertices[::2, 3].astype(np.bool_)
    first = np.arange(0, len(vertices), 2) + ~forward
    last = first ^ 1
    onward = np.where(partner[last] == _OPEN, _OPEN, partner[last] // 2)
    waits = np.ones(len(vertices), np.bool_)
    rings: Rings = []
    for edges in _cycles(onward.tolist()):
        waits[first[edges]] = waits[last[edges]] = False
        rings += _simple(np.stack([vertices[first[edges], :2], vertices[last[edges], :2]], axis=1).reshape(-1, 2))
    return rings, waits


def _below(vertices: NDArray[np.int32]) -> NDArray[np.intp]:
    """Return for every vertex the other end of its vertical edge, or `_OPEN` where that is still to come."""
    x, y, turn, _ = vertices.T
    order = np.lexsort((turn, y, x))
    column = x[order]
    starts = np.concatenate([[True], column[1:] != column[:-1]])[: len(order)]
    place = np.arange(len(order))
    rank = place - np.maximum.accumulate(np.where(starts, place, 0))
    upper = np.flatnonzero((rank[:-1] % 2 == 0) & ~starts[1:])
    partner = np.full(len(vertices), _OPEN, np.intp)
    partner[order[upper]], partner[order[upper + 1]] = order[upper + 1], order[upper]
    return partner


def _cycles(onward: list[int]) -> Iterator[list[int]]:
    """Yield the cycles of a map from each edge to the next; what ends at `_OPEN` is none."""
    seen = bytearray(len(onward))
    for start in range(len(onward)):
        if seen[start]:
            continue
        walk, edge = [], start
        while edge != _OPEN and not seen[edge]:
            seen[edge] = 1
            walk.append(edge)
            edge = onward[edge]
        if edge == start:
            yield walk


def _simple(points: NDArray[np.int32]) -> Rings:
    """Cut a ring apart wherever it touches itself; points that repeat their predecessor are dropped."""
    points = points[np.append(True, (points[1:] != points[:-1]).any(axis=1))]
    points = points[:-1] if (points[0] == points[-1]).all() else points
    keys = (points[:, 1].astype(np.int64) << 32) | points[:, 0]
    if len(np.unique(keys)) == len(keys):
        return [points.astype(np.float64)]
    return [points[loop].astype(np.float64) for loop in _loops(keys.tolist())]


def _loops(keys: list[int]) -> Iterator[list[int]]:
    """Yield the positions of each loop that a closed walk makes before it comes back to a place."""
    walk: list[int] = []
    depth: dict[int, int] = {}
    for position, key in enumerate(keys):
        if key in depth:
            begin = depth[key]
            loop, walk = walk[begin:], walk[:begin]
            for left in loop:
                del depth[keys[left]]
            yield loop
        depth[key] = len(walk)
        walk.append(position)
    yield walk


def _signed_area(ring: NDArray[np.float64]) -> float:
    """Return the area, negative for a hole: with y downwards and the inside at the right, shells run clockwise."""
    x, y = ring.T
    return float(x[:-1] @ y[1:] - x[1:] @ y[:-1] + x[-1] * y[0] - x[0] * y[-1]) / 2


def _owners(holes: Rings, shells: list[Polygon]) -> NDArray[np.intp]:
    """Return for every hole the smallest shell around the pixel above its topmost edge, `_OPEN` where there is none."""
    owners = np.full(len(holes), _OPEN, np.intp)
    if not holes or not shells:
        return owners
    tops = np.array([hole[np.lexsort((hole[:, 0], hole[:, 1]))[0]] for hole in holes])
    tree = shapely.STRtree(np.atleast_1d(shapely.points(tops + np.array([0.5, -0.5]))))
    around, within = tree.query(shells, predicate="contains")
    largest_first = np.argsort(-shapely.area(shells)[around], kind="stable")
    owners[within[largest_first]] = around[largest_first]  # the last to be written, the smallest, stays
    return owners
