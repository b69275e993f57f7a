"""Merged regions of tumor and non-tumor, from a class map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon

from vitrail.classes import LABELS, TissueClass
from vitrail.interop.simplify import simplify_coverage
from vitrail.slides.polygonize import outline_classes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

_DECIMALS = 2
"""Of a level-0 pixel: finer than any scanner, and half the length of a file."""

_UM2_PER_MM2 = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class MapFrame:
    """How a map, whose top left corner is the slide's, lies on it.

    Attributes
    ----------
    scale
        Level-0 pixels per pixel of the map.
    mpp
        Micrometres per pixel of the map.
    """

    scale: float
    mpp: float


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
    strips: Iterable[NDArray[np.integer[Any]]],
    frame: MapFrame,
    *,
    tolerance_um: float = 4.0,
    min_area_um2: float = 10_000.0,
) -> list[ClassRegion]:
    """Outline the connected regions of tumor and of non-tumor.

    Pixels that touch only at a corner are not connected. Neighbouring regions keep a common border: simplified, they
    still neither overlap nor come apart. Memory holds one strip and the outlines, however large the map.

    Parameters
    ----------
    strips
        `[h, width]` values of `TissueClass` from top to bottom; whatever is neither tumor nor non-tumor is left out.
    frame
        How the map lies on the slide.
    tolerance_um
        No outline is moved farther than this by leaving out vertices.
    min_area_um2
        Smaller regions are dropped.

    Returns
    -------
    list[ClassRegion]
        Tumor before non-tumor, the largest first.

    Raises
    ------
    ValueError
        If the strips differ in width.
    """
    pixel_um2 = frame.mpp**2
    outlines = outline_classes(strips, LABELS, smallest=min_area_um2 / pixel_um2)
    exact = [
        (label, polygon)
        for label in LABELS
        for polygon in sorted(outlines[label], key=lambda polygon: (-polygon.area, *polygon.bounds))
    ]
    drawn = simplify_coverage([polygon for _, polygon in exact], tolerance_um / frame.mpp)
    regions = []
    for (label, polygon), simple in zip(exact, drawn, strict=True):
        scaled = shapely.transform(simple, lambda points: points * frame.scale + 0.0)
        geometry: Polygon | MultiPolygon = shapely.transform(
            scaled, lambda points: np.round(points, _DECIMALS) + 0.0
        )  # no -0.0
        if not geometry.is_valid:  # rounding may do that
            geometry = scaled
        if not geometry.is_valid:
            valid = shapely.make_valid(geometry, method="structure", keep_collapsed=False)
            parts = [part for part in shapely.get_parts(valid) if part.area > 0]
            geometry = valid if isinstance(valid, Polygon) else MultiPolygon(parts)
        area_mm2 = polygon.area * pixel_um2 / _UM2_PER_MM2
        regions.append(ClassRegion(label=TissueClass(label), geometry=geometry, area_mm2=area_mm2))
    return regions
