"""Outlines as a user draws them: polygons, strokes of a brush, and regions taken from a map of classes.

A browser has no exact geometry; what is added, taken away or mended is computed here, by the library that reads
outlines. Corners that no stroke has touched stay as they were, to the last bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from scipy import ndimage
from shapely import LineString, MultiPolygon, Point, Polygon, affinity, box
from shapely.errors import ShapelyError
from shapely.geometry import shape as shape_of

from vitrail.interop.simplify import simplify_coverage
from vitrail.slides.polygonize import outline_classes
from vitrail.viewer.rasters import NOTHING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shapely.geometry.base import BaseGeometry

    from vitrail.viewer.rasters import Raster

MOST_POINTS = 2000
"""Of a stroke, or corners of a polygon: more than a hand draws."""

MOST_CROSSINGS = 200
"""Of a polygon with itself: mending it takes moments, of some thousands minutes."""

_SMOOTH = 0.02  # of a brush's radius: what a stroke's border may be off, so that it has few corners

_SIMPLER = 1.0  # pixels of the map that a region's border may be off


def drawn_shape(points: Sequence[tuple[float, float]], radius: float, size: tuple[int, int]) -> MultiPolygon:
    """Return what was drawn, within the slide.

    Parameters
    ----------
    points
        x and y in level-0 pixels: corners of a polygon, or where a brush went.
    radius
        Of the brush, in level-0 pixels; 0 of a polygon.
    size
        Width and height of the slide in level-0 pixels.

    Returns
    -------
    MultiPolygon
        Valid; of a polygon that crosses itself all that it encloses. Empty where all lies beside the slide.

    Raises
    ------
    ValueError
        There are too few points, or too many, or they cross too often.
    """
    if not (1 if radius else 3) <= len(points) <= MOST_POINTS or radius < 0:
        raise ValueError(f"a polygon has 3 to {MOST_POINTS} corners, a stroke 1 to {MOST_POINTS} points")
    if radius:
        line = LineString(points) if len(set(points)) > 1 else Point(points[0])
        shape = line.buffer(radius).simplify(_SMOOTH * radius)
    else:
        shape = _mended(Polygon(points))
    return _areas(shape.intersection(box(0, 0, *size)))


def polygons_of(geometry: Any) -> MultiPolygon:
    """Return an outline that came as GeoJSON.

    Parameters
    ----------
    geometry
        In level-0 pixels; None stands for an empty one.

    Returns
    -------
    MultiPolygon
        Valid.

    Raises
    ------
    ValueError
        It is no polygon, or crosses itself too often.
    """
    if geometry is None:
        return MultiPolygon()
    try:
        shape: Any = shape_of(geometry)
    except (AttributeError, IndexError, KeyError, TypeError, ShapelyError):
        raise ValueError("the outline is no geometry") from None
    if not isinstance(shape, Polygon | MultiPolygon):
        raise ValueError("the outline is no polygon")  # noqa: TRY004 - all that is wrong is one kind of answer
    return _areas(_mended(shape))


def combine(outline: MultiPolygon, shape: MultiPolygon, by: str) -> Polygon | MultiPolygon:
    """Add what was drawn to an outline, or take it away.

    Parameters
    ----------
    outline, shape
        The two.
    by
        `add` or `subtract`.

    Returns
    -------
    Polygon | MultiPolygon
        Valid; the multipolygon may be empty. The outline itself where the shape changes nothing.

    Raises
    ------
    ValueError
        `by` is no way to combine.
    """
    if by not in {"add", "subtract"}:
        raise ValueError("by is add or subtract")
    after = outline.union(shape) if by == "add" else outline.difference(shape)
    areas = _areas(outline if after.equals(outline) else after)
    return areas.geoms[0] if len(areas.geoms) == 1 else areas


def region_at(classes: Raster, x: float, y: float) -> Polygon:
    """Return the connected region of one class around a place.

    Parameters
    ----------
    classes
        A map of classes.
    x, y
        In level-0 pixels of the slide.

    Returns
    -------
    Polygon
        In level-0 pixels: traced along the map's pixels, then simplified by at most one of them.

    Raises
    ------
    ValueError
        The map says nothing there.
    """
    width, height = classes.size
    column, row = int(np.floor(x / classes.cell)), int(np.floor(y / classes.cell))
    values = classes.read(0, slice(None), slice(None))
    if not (0 <= column < width and 0 <= row < height) or values[row, column] == NOTHING:
        raise ValueError("the map of classes says nothing there")
    labels, _ = ndimage.label(values == values[row, column])
    number = labels[row, column]
    rows, columns = ndimage.find_objects(labels, number)[number - 1]
    strip = (labels[rows, columns] == number).astype(np.uint8)
    (exact,) = outline_classes([strip], (1,))[1]
    (region,) = simplify_coverage([exact], _SIMPLER)
    left, top, cell = columns.start, rows.start, classes.cell
    return affinity.affine_transform(region, [cell, 0, 0, cell, left * cell, top * cell])


def _mended(shape: Polygon | MultiPolygon) -> BaseGeometry:
    """Return a valid geometry as `read_annotations` mends it: all that is enclosed is inside."""
    if shape.is_valid:
        return shape
    points, ring = shapely.get_coordinates(shapely.get_rings(shapely.get_parts(shape)), return_index=True)
    sides = shapely.linestrings(np.stack([points[:-1], points[1:]], axis=1)[ring[1:] == ring[:-1]])
    # each crossing is two pairs, and each side meets itself and its neighbours
    pairs = shapely.STRtree(sides).query(sides, predicate="intersects").shape[1]
    if pairs > 2 * MOST_CROSSINGS + 3 * len(sides):
        raise ValueError(f"it crosses itself more than {MOST_CROSSINGS} times")
    return shapely.make_valid(shape, method="structure", keep_collapsed=False)


def _areas(shape: BaseGeometry) -> MultiPolygon:
    """Return the polygons of a geometry; points and lines among them are none."""
    parts = shapely.get_parts(shapely.get_parts(shape))
    return MultiPolygon([part for part in parts if isinstance(part, Polygon) and part.area > 0])
