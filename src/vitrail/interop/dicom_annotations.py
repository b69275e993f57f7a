"""Outlines as DICOM Microscopy Bulk Simple Annotations: nuclei, tiles and regions, with codes and measurements.

Coordinates are pixels of the slide's total pixel matrix, whose top left corner is (0, 0) (PS3.3, C.37.1.2): those of
Vitrail as they are, rounded to 32 bits. A polygon has no holes there, and so a region with holes is cut into pieces
without; together they are the region.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from vitrail.core.digest import json_digest
from vitrail.errors import ExchangeError
from vitrail.interop.dicom_objects import SCHEME, code, refused, settle, write_object
from vitrail.interop.dicom_source import import_dicom, quiet, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.interop.dicom_objects import Coded, ObjectSource

NUCLEUS: tuple[Coded, Coded] = (("91723000", "SCT", "Anatomical Structure"), ("84640000", "SCT", "Nucleus"))
"""Category and type (PS3.16, CID 7150 and 8135)."""

MOST_COORDINATES = 2**27
"""Numbers that the outlines of one object may have, at most: half a GiB of 32 bits, and some two million nuclei."""

_NAMES: dict[str, Coded] = {"Area": ("42798000", "SCT", "Area"), "Perimeter": ("131191004", "SCT", "Perimeter")}
_UNITS = {"um": "um", "um2": "um2", "mm2": "mm2", "": "1"}
"""By what UCUM calls them; the others are dimensionless there, and named in braces."""


_LONGEST_CODE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlineGroup:
    """Outlines of one kind.

    Attributes
    ----------
    label
        As viewers show it.
    codes
        Category and type.
    rgb
        Its colour.
    rings
        Each `[n, 2]`, x and y in level-0 pixels; the first point is not repeated.
    measurements
        By title and unit, `[outlines]`; NaN where there is none.
    rectangles
        Whether all are rectangles.
    """

    label: str
    codes: tuple[Coded, Coded]
    rgb: tuple[int, int, int]
    rings: Sequence[NDArray[np.floating[Any]]]
    measurements: Mapping[tuple[str, str], NDArray[np.floating[Any]]] = field(default_factory=dict)
    rectangles: bool = False


def write_annotations(path: Path, groups: Sequence[OutlineGroup], source: ObjectSource, what: str) -> int:
    """Write outlines as one object.

    Parameters
    ----------
    path
        The file; it is whole or absent.
    groups
        What to write; those without outlines are left out.
    source
        What it is about.
    what
        Which object it is, such as `nuclei`: part of its identity.

    Returns
    -------
    int
        How many outlines were written; without any there is no file.

    Raises
    ------
    ExchangeError
        The file cannot be written, the slide's header is not as it should be, or there are too many outlines.
    ValueError
        A coordinate is not finite.
    """
    highdicom, filled = import_dicom("highdicom"), [group for group in groups if len(group.rings)]
    if not filled:
        return 0
    check_coordinates(what, sum(2 * len(ring) for group in filled for ring in group.rings))
    for group in filled:
        if not all(np.isfinite(ring).all() for ring in group.rings):
            raise ValueError(f"an outline of {group.label} is not finite")
    try:
        with quiet():
            dataset = highdicom.ann.MicroscopyBulkSimpleAnnotations(
                source_images=[source.slide.header],
                annotation_coordinate_type="2D",
                annotation_groups=[
                    highdicom.ann.AnnotationGroup(
                        number=number,
                        uid=source.uid("group", what, group.label),
                        label=group.label,
                        annotated_property_category=code(group.codes[0]),
                        annotated_property_type=code(group.codes[1]),
                        graphic_type="RECTANGLE" if group.rectangles else "POLYGON",
                        graphic_data=[ring.astype(np.float32) for ring in group.rings],
                        algorithm_type="AUTOMATIC",
                        algorithm_identification=source.algorithm(),
                        measurements=[
                            highdicom.ann.Measurements(name=_name(title), values=np.asarray(values), unit=_unit(unit))
                            for (title, unit), values in group.measurements.items()
                            if not np.isnan(values).all()
                        ]
                        or None,
                        display_color=highdicom.color.CIELabColor.from_rgb(*group.rgb),
                    )
                    for number, group in enumerate(filled, start=1)
                ],
                content_label=what.upper()[:16],
                content_description=f"{what.capitalize()} by Vitrail",
                series_description=f"Vitrail: {what}",
                **source.common(f"annotations {what}", 950, 1),
            )
    except unreadable():
        raise refused(source.slide) from None
    write_object(path, settle(dataset, source, "annotations", what), source.slide)
    return sum(len(group.rings) for group in filled)


def check_coordinates(what: str, numbers: int) -> None:
    """Refuse more outlines than are kept in memory at once.

    Parameters
    ----------
    what
        They are.
    numbers
        How many coordinates they have, x and y.

    Raises
    ------
    ExchangeError
        There are more than `MOST_COORDINATES`.
    """
    if numbers > MOST_COORDINATES:
        problem = f"{what} with more than {MOST_COORDINATES:,} coordinates do not fit in one object"
        raise ExchangeError("DICOM export", problem, "Leave nuclei out with --no-nuclei")


def rings_of(geometry: shapely.Polygon | shapely.MultiPolygon) -> Iterator[NDArray[np.float64]]:
    """Yield rings without holes that together cover a geometry exactly.

    Parameters
    ----------
    geometry
        Valid.

    Yields
    ------
    NDArray[np.float64]
        `[n, 2]`, the first point not repeated.
    """
    waiting = [part for part in shapely.get_parts(geometry) if isinstance(part, shapely.Polygon) and part.area > 0]
    while waiting:
        polygon = waiting.pop()
        if not polygon.interiors:
            yield shapely.get_coordinates(polygon.exterior)[:-1]
            continue
        # through the hole in the middle, across the longer side: every cut opens at least one hole
        left, top, right, bottom = polygon.bounds
        centres = shapely.get_coordinates(shapely.centroid([shapely.Polygon(ring) for ring in polygon.interiors]))
        if right - left >= bottom - top:
            at = float(np.sort(centres[:, 0])[len(centres) // 2])
            boxes = shapely.box(left, top, at, bottom), shapely.box(at, top, right, bottom)
        else:
            at = float(np.sort(centres[:, 1])[len(centres) // 2])
            boxes = shapely.box(left, top, right, at), shapely.box(left, at, right, bottom)
        for half in boxes:
            cut = shapely.get_parts(polygon.intersection(half))
            waiting += [part for part in cut if isinstance(part, shapely.Polygon) and part.area > 0]


def _name(title: str) -> Any:
    """Return the code of a measurement; what has none elsewhere gets one of Vitrail's own scheme."""
    own = "".join(letter if letter.isalnum() else "_" for letter in title.casefold())
    if len(own) > _LONGEST_CODE:  # longer ones have another attribute, which not every reader knows
        own = f"{own[:10]}_{json_digest(own)[:5]}"
    return code(_NAMES.get(title, (own, SCHEME, title)))


def _unit(unit: str) -> Any:
    """Return the code of a unit."""
    ucum = _UNITS.get(unit, f"{{{unit.replace(' ', '.')}}}")
    return code((ucum, "UCUM", unit or "no units"))
