"""Outlines of a slide as rings on a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

from vitrail.classes import LABELS, TissueClass

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from vitrail.slides.annotations import Annotations


def outline_rings(
    outlines: Annotations, scale: float, corner: tuple[float, float] = (0.0, 0.0)
) -> dict[TissueClass, list[NDArray[np.float64]]]:
    """Turn what was drawn on a slide into rings on a picture of it; where outlines overlap, tumor wins.

    Parameters
    ----------
    outlines
        In level-0 pixels.
    scale
        Pixels of the picture per level-0 pixel.
    corner
        Where the picture begins on the slide, in level-0 pixels.

    Returns
    -------
    dict[TissueClass, list[NDArray[np.float64]]]
        As `SlideMaps.outlines`.
    """
    areas = {TissueClass.TUMOR: outlines.tumor, TissueClass.NON_TUMOR: outlines.non_tumor.difference(outlines.tumor)}
    return {label: area_rings(areas[label], scale, corner) for label in LABELS}


def area_rings(area: BaseGeometry, scale: float, corner: tuple[float, float] = (0.0, 0.0)) -> list[NDArray[np.float64]]:
    """Turn an area of a slide into rings on a picture of it; see `outline_rings`."""
    parts = [part for part in shapely.get_parts(area) if part.geom_type == "Polygon" and not part.is_empty]
    corners = [np.asarray(ring.coords)[:, :2] for part in parts for ring in (part.exterior, *part.interiors)]
    return [(ring - np.array(corner)) * scale for ring in corners]
