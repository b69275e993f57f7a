"""Outlines to pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from shapely import MultiPolygon, Polygon

    from vitrail.geometry import Region

_SPAN_PX = 600
"""Pixels that are filled in the time that it takes to fill one more span by itself."""


def rasterize(geometry: Polygon | MultiPolygon, region: Region, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Paint an outline.

    A pixel is inside when its centre is. The edges cross each row of centres an even number of times; from an odd
    crossing to the next one the row is inside, beginning with the first pixel whose centre is not left of it, which
    makes holes free. A centre on a left or top edge is inside, on a right or bottom edge it is not, so that outlines
    with a common border share no pixel and leave none out. The polygons of a MultiPolygon may overlap: all are inside.

    Parameters
    ----------
    geometry
        In level-0 pixels, in the frame of `region`.
    region
        What to paint.
    size
        Width and height of the result, in pixels.

    Returns
    -------
    NDArray[np.bool_]
        `[height, width]`.

    Raises
    ------
    ValueError
        If the size is not positive.
    """
    width, height = size
    if min(size) < 1:
        raise ValueError(f"a size needs at least one pixel, not {width} x {height}")
    inside, polygons = np.zeros((height, width), np.bool_), shapely.get_parts(geometry)
    left, top, right, bottom = shapely.bounds(polygons).T
    near = (left <= region.right) & (right >= region.x) & (top <= region.bottom) & (bottom >= region.y)
    for polygon in polygons[near]:
        # The edges that can cross a row, in pixels, where centres lie on whole numbers.
        points, ring = shapely.get_coordinates(shapely.get_rings(polygon), return_index=True)
        x = (points[:, 0] - region.x) * (width / region.width) - 0.5
        y = (points[:, 1] - region.y) * (height / region.height) - 0.5
        crosses = (np.maximum(y[:-1], y[1:]) > 0) & (np.minimum(y[:-1], y[1:]) <= height - 1)
        (start,) = np.nonzero(crosses & (ring[1:] == ring[:-1]))
        edges = np.stack([x[start], y[start], x[start + 1], y[start + 1]])
        low, high = np.minimum(edges[1], edges[3]), np.maximum(edges[1], edges[3])
        first = np.clip(np.ceil(low), 0, height).astype(np.intp)
        count = np.clip(np.ceil(high), 0, height).astype(np.intp) - first
        x0, y0, x1, y1 = np.repeat(edges, count, axis=1)
        if not len(x0):
            continue
        # The row and the x of every point where an edge crosses a row of centres.
        rows = np.repeat(first, count) + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        crossed = x0 + (rows - y0) * ((x1 - x0) / (y1 - y0))
        columns = np.clip(np.ceil(crossed), 0, width).astype(np.intp)
        # Every row is crossed an even number of times: crossings pair up to spans, none of which leaves its row.
        ends = np.sort(rows * width + columns)
        pixels = inside.reshape(-1)[ends[0] : ends[-1]]
        ends -= ends[0]
        if len(pixels) < _SPAN_PX * len(ends):
            pixels |= np.repeat(np.arange(len(ends) - 1) % 2 == 0, np.diff(ends))
            continue
        for first_px, end_px in zip(ends[::2].tolist(), ends[1::2].tolist(), strict=True):
            pixels[first_px:end_px] = True
    return inside


def covered(
    geometry: Polygon | MultiPolygon, boxes: NDArray[np.object_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell which boxes an outline fills, and which it touches, without painting anything.

    Parameters
    ----------
    geometry
        As for `rasterize`.
    boxes
        `[n]`, shapely's boxes.

    Returns
    -------
    tuple[NDArray[np.bool_], NDArray[np.bool_]]
        `[n]`, wholly inside one of the polygons: `rasterize` would paint every pixel; and `[n]`, anything in common
        with one of them: of the others it would paint none.
    """
    tree, polygons = shapely.STRtree(boxes), shapely.get_parts(geometry)
    full, touched = np.zeros((2, len(boxes)), np.bool_)
    full[tree.query(polygons, predicate="covers")[1]] = True
    touched[tree.query(polygons, predicate="intersects")[1]] = True
    return full, touched
