"""Merged regions of tumor and non-tumor, from a class map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon

from vitrail.classes import LABELS, TissueClass
from vitrail.interop.polygonize import outline_classes
from vitrail.interop.simplify import simplify_coverage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

_DECIMALS = 2
"""Of a level-0 pixel: finer than any scanner, and half the length of a file."""

_UM2_PER_MM2 = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class MapFrame:
    """Where a map lies on its slide.

    Attributes
    ----------
    x, y
        Its top left corner in level-0 pixels.
    scale
        Level-0 pixels per pixel of the map.
    mpp
        Micrometres per pixel of the map.
    """

    x: float = 0.0
    y: float = 0.0
    scale: float
    mpp: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionSettings:
    """How regions are drawn.

    Attributes
    ----------
    tolerance_um
        No outline is moved farther than this by leaving out vertices.
    min_area_um2
        Smaller regions are dropped.
    min_hole_um2
        Smaller holes are filled; at most `min_area_um2`.
    """

    tolerance_um: float = 4.0
    min_area_um2: float = 10_000.0
    min_hole_um2: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRegion:
    """One connected region of a class.

    Attributes
    ----------
    label
        Tumor or non-tumor.
    geometry
        Valid, with its holes, in level-0 pixels from the top left corner of the slide's bounds.
    area_mm2
        Counted in pixels of the map, before vertices were left out.
    """

    label: TissueClass
    geometry: Polygon | MultiPolygon
    area_mm2: float


def find_regions(
    strips: Iterable[NDArray[np.integer[Any]]], frame: MapFrame, settings: RegionSettings | None = None
) -> list[ClassRegion]:
    """Outline the connected regions of tumor and of non-tumor.

    Pixels that touch only at a corner are not connected. Neighbouring regions keep a common border: simplified, they
    still neither overlap nor come apart. Memory holds one strip and the outlines, however large the map.

    Parameters
    ----------
    strips
        `[h, width]` values of `TissueClass` from top to bottom; whatever is neither tumor nor non-tumor is left out.
    frame
        Where the map lies.
    settings
        How regions are drawn.

    Returns
    -------
    list
        Tumor before non-tumor, the largest first.

    Raises
    ------
    ValueError
        If the strips differ in width, or holes are to be filled that are larger than the smallest region.
    """
    settings = RegionSettings() if settings is None else settings
    pixel_um2 = frame.mpp**2
    outlines = outline_classes(
        strips, LABELS, smallest=settings.min_area_um2 / pixel_um2, smallest_hole=settings.min_hole_um2 / pixel_um2
    )
    exact = [(TissueClass(label), polygon) for label in LABELS for polygon in sorted(outlines[label], key=_order)]
    drawn = simplify_coverage([polygon for _, polygon in exact], settings.tolerance_um / frame.mpp)
    return [
        ClassRegion(label=label, geometry=_placed(shape, frame), area_mm2=polygon.area * pixel_um2 / _UM2_PER_MM2)
        for (label, polygon), shape in zip(exact, drawn, strict=True)
    ]


def _order(polygon: Polygon) -> tuple[float, ...]:
    return -polygon.area, *polygon.bounds


def _placed(polygon: Polygon, frame: MapFrame) -> Polygon | MultiPolygon:
    """Bring a polygon from the map onto the slide, rounded where that leaves it valid."""
    placed = shapely.transform(polygon, lambda points: points * frame.scale + [frame.x, frame.y])
    rounded = shapely.transform(placed, lambda points: np.round(points, _DECIMALS) + 0.0)  # no -0.0
    if rounded.is_valid:
        return rounded
    return placed if placed.is_valid else _mended(placed)


def _mended(polygon: Polygon) -> Polygon | MultiPolygon:
    """Return the valid polygons that a broken one encloses."""
    whole = shapely.make_valid(polygon, method="structure", keep_collapsed=False)
    return whole if isinstance(whole, Polygon) else MultiPolygon([p for p in shapely.get_parts(whole) if p.area > 0])
