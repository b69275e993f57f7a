"""Outlines drawn in QuPath, each labelled tumor or non-tumor."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import shapely
from shapely import MultiPolygon, Polygon

from vitrail.classes import TissueClass
from vitrail.errors import AnnotationError, SettingsError
from vitrail.slides.crossings import MOST_CORNERS, MOST_CROSSINGS, corners, cross_too_often
from vitrail.slides.geojson import Feature, read_features

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

_DRAW = "Draw outlines in QuPath, give each a class and export them again"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassNames:
    """Which QuPath classes mean what.

    Letter case and white space do not matter. A class within a class, `Tumor: Invasive`, is looked up by its full
    name first and then as its parent, `Tumor`.

    Attributes
    ----------
    tumor, non_tumor
        The classes of each label.
    ignore
        Classes to leave out.

    Raises
    ------
    SettingsError
        If a name is in two lists.
    """

    tumor: tuple[str, ...]
    non_tumor: tuple[str, ...]
    ignore: tuple[str, ...]
    _labels: dict[str, TissueClass | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        labels: dict[str, TissueClass | None] = {}
        meanings = ((self.tumor, TissueClass.TUMOR), (self.non_tumor, TissueClass.NON_TUMOR), (self.ignore, None))
        for names, label in meanings:
            for name in names:
                if labels.setdefault(_plain(name), label) is not label:
                    raise SettingsError("[annotations]", f"{name!r} is in two lists", "Keep it in one of them")
        object.__setattr__(self, "_labels", labels)

    def label_of(self, name: str) -> TissueClass | None:
        """Return the label of a class; None if it is ignored.

        Raises
        ------
        KeyError
            If the class is in none of the lists.
        """
        parts = name.split(":")
        for depth in range(len(parts), 0, -1):
            plain = _plain(":".join(parts[:depth]))
            if plain in self._labels:
                return self._labels[plain]
        raise KeyError(name)

    def knows(self, name: str) -> bool:
        """Tell whether a class is in one of the lists."""
        try:
            self.label_of(name)
        except KeyError:
            return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One outline.

    Attributes
    ----------
    label
        Tumor or non-tumor.
    geometry
        Valid and not empty, in level-0 pixels from the top left corner of the slide's bounds.
    """

    label: TissueClass
    geometry: Polygon | MultiPolygon


@dataclass(frozen=True, kw_only=True)  # no slots: the unions are kept once computed
class Annotations:
    """All outlines of a slide.

    Attributes
    ----------
    outlines
        In the order of the file.
    warnings
        What was left out or mended, one line each.
    """

    outlines: tuple[Annotation, ...]
    warnings: tuple[str, ...] = ()

    @cached_property
    def tumor(self) -> MultiPolygon:
        """Everything outlined as tumor."""
        return self._union(TissueClass.TUMOR)

    @cached_property
    def non_tumor(self) -> MultiPolygon:
        """Everything outlined as non-tumor; where tumor overlaps it, tumor wins, but that is not cut out here."""
        return self._union(TissueClass.NON_TUMOR)

    def area(self, label: TissueClass) -> float:
        """Return the area of a label, in square level-0 pixels; where both labels overlap, tumor wins.

        Raises
        ------
        ValueError
            If the label is neither tumor nor non-tumor.
        """
        if label is TissueClass.TUMOR:
            return float(self.tumor.area)
        if label is TissueClass.NON_TUMOR:
            return float(self.non_tumor.difference(self.tumor).area)
        raise ValueError(f"{label.key} is never outlined")

    def _union(self, label: TissueClass) -> MultiPolygon:
        return _polygonal(shapely.union_all([outline.geometry for outline in self.outlines if outline.label is label]))


def names_found(path: str | Path) -> dict[str, int]:
    """Count the outlines of every class in a file, in the order they first appear.

    Outlines without a class, and whatever is not an outline, are not counted.

    Raises
    ------
    AnnotationError
        If there is no such file, or it is no GeoJSON of QuPath.
    """
    return dict(Counter(feature.name for feature in read_features(Path(path)) if feature.name and feature.is_area))


def read_annotations(path: str | Path, names: ClassNames) -> Annotations:
    """Read the outlines of a slide.

    Cells, detections and TMA cores are passed over. Points, lines and outlines without a class are left out with a
    warning. Outlines that cross themselves are mended: all they enclose is inside.

    Parameters
    ----------
    path
        A GeoJSON file of QuPath.
    names
        Which class means what.

    Raises
    ------
    AnnotationError
        If there is no such file, it is no GeoJSON of QuPath, no outline in it has a class, a class is unknown, or the
        outlines cross more often than can be mended.
    """
    path = Path(path)
    features = read_features(path)
    areas = [feature for feature in features if feature.is_area]
    classed = [feature for feature in areas if feature.name]
    _check_names(path, areas, names)
    drawn = [feature.area() for feature in classed]
    _check_crossings(path, drawn)
    outlines, mended = _understood(classed, drawn, names)
    counts = (len(features) - len(areas), len(areas) - len(classed), mended, len(classed) - len(outlines))
    kept = tuple(Annotation(label=label, geometry=geometry) for label, geometry in outlines if label is not None)
    return Annotations(outlines=kept, warnings=_warnings(path, counts, some=bool(kept)))


def _check_names(path: Path, areas: list[Feature], names: ClassNames) -> None:
    """Refuse a file without outlines, without classes, or with a class that study.toml does not name."""
    found = Counter(area.name for area in areas if area.name)
    if not areas:
        raise AnnotationError(path, "no outlines", _DRAW)
    if not found:
        raise AnnotationError(path, "no outline has a class", _DRAW)
    unknown = [name for name in found if not names.knows(name)]
    if unknown:
        listed = ", ".join(f"{name} ({count})" for name, count in found.items())
        raise AnnotationError(
            path,
            f"unknown class {', '.join(unknown)}; the file has {listed}",
            f"Add {'it' if len(unknown) == 1 else 'them'} to [annotations] tumor, non_tumor or ignore in study.toml",
        )


def _check_crossings(path: Path, drawn: list[MultiPolygon]) -> None:
    """Refuse outlines that would take minutes and gigabytes to mend and to join."""
    count, cure = corners(drawn), "Draw them again with fewer corners, or simplify their shapes in QuPath"
    if count > MOST_CORNERS:
        raise AnnotationError(path, f"its outlines have {count:,} corners, more than {MOST_CORNERS:,}", cure)
    if cross_too_often(drawn):
        problem = f"its outlines cross themselves and each other more than {MOST_CROSSINGS:,} times"
        raise AnnotationError(path, problem, cure)


def _understood(
    classed: list[Feature], areas: list[MultiPolygon], names: ClassNames
) -> tuple[list[tuple[TissueClass | None, Polygon | MultiPolygon]], int]:
    """Return label and area of every outline that has an area, and how many of those were mended."""
    outlines = []
    mended = 0
    for feature, drawn in zip(classed, areas, strict=True):
        area = drawn if shapely.is_valid(drawn) else _mended(drawn)
        if area.area > 0.0:
            outlines.append((names.label_of(feature.name or ""), _simplest(area)))
            mended += area is not drawn
    return outlines, mended


def _mended(drawn: MultiPolygon) -> MultiPolygon:
    """Return all that a self-crossing outline encloses; loops and overlapping parts are filled, not cut out."""
    parts = [shapely.make_valid(part, method="structure", keep_collapsed=False) for part in drawn.geoms]
    return _polygonal(shapely.union_all(parts))


def _polygonal(geometry: BaseGeometry) -> MultiPolygon:
    """Return the polygons of any geometry, without the lines and points that mending can leave."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return MultiPolygon([part for part in parts if isinstance(part, Polygon) and not part.is_empty])


def _simplest(area: MultiPolygon) -> Polygon | MultiPolygon:
    return area.geoms[0] if len(area.geoms) == 1 else area


def _warnings(path: Path, counts: tuple[int, int, int, int], *, some: bool) -> tuple[str, ...]:
    phrases = (
        ("object without an area (point, line) was left out", "objects without an area (points, lines) were left out"),
        ("outline without a class was left out", "outlines without a class were left out"),
        ("outline crossed itself and was mended", "outlines crossed themselves and were mended"),
        ("outline that encloses nothing was left out", "outlines that enclose nothing were left out"),
    )
    told = [f"{count} {pair[count > 1]}" for count, pair in zip(counts, phrases, strict=True) if count]
    if not some:
        told.append("no outline of tumor or non-tumor is left")
    return tuple(f"{path.name}: {line}" for line in told)


def _plain(name: str) -> str:
    """Return a class name without what does not matter: case, and white space around it and its colons."""
    return ":".join(" ".join(part.split()) for part in name.casefold().split(":"))
