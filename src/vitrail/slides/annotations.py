"""Outlines drawn in QuPath or another program, each labelled tumor or non-tumor."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon

from vitrail.classes import TissueClass
from vitrail.errors import AnnotationError, SettingsError
from vitrail.slides.outlines.features import MOST_CORNERS
from vitrail.slides.outlines.formats import read_outlines

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from shapely.geometry.base import BaseGeometry

    from vitrail.slides.slide import Slide

_NO_CLASS = ""
"""What the class of an outline without one is called in tables of names."""

_DRAW = "Draw outlines in QuPath, give each a class and export them again"
_DRAW_OR_SET = f'{_DRAW}; where all of them are tumor, set annotations.unclassified = "tumor"'

MOST_CROSSINGS = 20_000
"""What mending and joining outlines costs grows with how often they cross themselves and each other: of 20,000
crossings make_valid takes a second, of a million minutes and gigabytes. Those that a person drew or a program traced
have a few."""

_PAIRS = 1 << 19
"""Pairs of sides looked at in one go, at most, if each meets each."""

_MOST_NEAR = 20_000_000
"""Pairs of sides whose boxes meet: each is looked at, a few million in a second. Outlines have some for each corner."""

_NEIGHBOURS = 14
"""Sides that a side touches without crossing any, itself among them, where four outlines meet at each of its ends."""


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
        Classes of what is not annotated: cut out of the outlines around them, see `read_annotations`.
    unclassified
        What outlines without a class are: `left_out`, with a warning; `ignored`, as those of the classes above; or
        `tumor`.

    Raises
    ------
    SettingsError
        If a name is in two lists.
    """

    tumor: tuple[str, ...]
    non_tumor: tuple[str, ...]
    ignore: tuple[str, ...]
    unclassified: Literal["left_out", "ignored", "tumor"] = "left_out"
    _labels: dict[str, TissueClass | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        labels: dict[str, TissueClass | None] = {}
        meanings = ((self.tumor, TissueClass.TUMOR), (self.non_tumor, TissueClass.NON_TUMOR), (self.ignore, None))
        for names, label in meanings:
            for name in names:
                if labels.setdefault(_plain(name), label) is not label:
                    raise SettingsError("[annotations]", f"{name!r} is in two lists", "Keep it in one of them")
        if self.unclassified != "left_out":
            labels[_NO_CLASS] = TissueClass.TUMOR if self.unclassified == "tumor" else None
        object.__setattr__(self, "_labels", labels)

    def label_of(self, name: str) -> TissueClass | None:
        """Return the label of a class.

        Parameters
        ----------
        name
            As QuPath has it.

        Returns
        -------
        TissueClass | None
            Tumor or non-tumor; None if the class is ignored.

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
        Valid and not empty, in level-0 pixels from the top left corner of the slide's bounds; without what ignored
        outlines cut out of it.
    drawn
        Whether somebody drew it; False of tissue that was found outside all outlines.
    """

    label: TissueClass
    geometry: Polygon | MultiPolygon
    drawn: bool = True


@dataclass(frozen=True, kw_only=True)  # no slots: the unions are kept once computed
class Annotations:
    """All outlines of a slide.

    Attributes
    ----------
    outlines
        In the order of the file.
    warnings
        What was left out or mended, one line each.
    ignored
        Outlines of what is neither, in the order of the file; nothing is cut out of them.
    undecided
        Tissue that no outline says anything of, and that is too near to one of tumor to count as non-tumor; None where
        tissue without an outline does not count anyway.
    """

    outlines: tuple[Annotation, ...]
    warnings: tuple[str, ...] = ()
    ignored: tuple[Polygon | MultiPolygon, ...] = ()
    undecided: MultiPolygon | None = None

    @cached_property
    def tumor(self) -> MultiPolygon:
        """Everything outlined as tumor."""
        return self._union(TissueClass.TUMOR)

    @cached_property
    def non_tumor(self) -> MultiPolygon:
        """Everything outlined as non-tumor; where tumor overlaps it, tumor wins, but that is not cut out here."""
        return self._union(TissueClass.NON_TUMOR)

    def area(self, label: TissueClass) -> float:
        """Return the area of a label; where both labels overlap, tumor wins.

        Parameters
        ----------
        label
            Tumor or non-tumor.

        Returns
        -------
        float
            In square level-0 pixels.

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
        union = shapely.union_all([outline.geometry for outline in self.outlines if outline.label is label])
        return MultiPolygon([*shapely.get_parts(_polygonal(union))])


def names_found(path: str | Path, slides: Collection[Path] = ()) -> dict[str, int]:
    """Count the outlines of every class in a file.

    Outlines without a class, and whatever is not an outline, are not counted.

    Parameters
    ----------
    path
        A file of outlines, of any program that `vitrail.slides.outlines` knows.
    slides
        Whose outlines are counted, where a file has those of several slides; all of them without.

    Returns
    -------
    dict[str, int]
        By class, in the order in which they first appear.

    Raises
    ------
    AnnotationError
        If there is no such file, or it is not as its program writes it.
    """
    features = read_outlines(Path(path), slides=slides, names_only=True).features
    return dict(Counter(feature.name for feature in features if feature.name and feature.is_area))


def read_annotations(path: str | Path, names: ClassNames, slide: Slide | None = None) -> Annotations:
    """Read the outlines of a slide.

    Cells, detections and TMA cores are passed over. Points and lines are left out with a warning, and so are outlines
    without a class, unless `names` says what they are. Outlines that cross themselves are mended: all they enclose is
    inside. An ignored outline is cut out of every outline that does not lie wholly within it: necrosis inside tumor is
    not annotated, but an island of tumor drawn inside that necrosis is.

    Parameters
    ----------
    path
        A file of outlines, of any program that `vitrail.slides.outlines` knows.
    names
        Which class means what.
    slide
        The slide that they are of. Programs that count from the corner of the file's own frame are right only with it
        where the slide has bounds; some files cannot be read without.

    Returns
    -------
    Annotations
        Tumor and non-tumor.

    Raises
    ------
    AnnotationError
        If there is no such file, it is not as its program writes it, no outline in it has a class, a class is unknown,
        or the outlines cross more often than can be mended.
    """
    path = Path(path)
    file = read_outlines(path, slide)
    features = file.features
    areas = [feature for feature in features if feature.is_area]
    if not areas or not (names.unclassified == "tumor" or any(feature.name for feature in areas)):
        problem, cure = ("no outline has a class", _DRAW_OR_SET) if areas else ("no outlines", _DRAW)
        raise AnnotationError(path, problem, cure)
    every = names.unclassified != "left_out"
    classed = [(feature.name or _NO_CLASS, feature) for feature in areas if feature.name or every]
    counts = Counter(name for name, _ in classed)
    unknown = [name for name in counts if not names.knows(name)]
    if unknown:
        listed = ", ".join(f"{name or 'no class'} ({count})" for name, count in counts.items())
        raise AnnotationError(
            path,
            f"unknown class {', '.join(unknown)}; the file has {listed}",
            f"Add {'it' if len(unknown) == 1 else 'them'} to [annotations] tumor, non_tumor or ignore in study.toml",
        )
    areas_drawn = mend_areas(path, [file.area(feature) for _, feature in classed])
    labelled, ignored, mended = list[Annotation](), list[Polygon | MultiPolygon](), 0
    for (name, _), (geometry, crossed) in zip(classed, areas_drawn, strict=True):
        if not geometry.area > 0.0:
            continue
        mended += crossed
        label = names.label_of(name)
        if label is None:
            ignored.append(geometry)
        else:
            labelled.append(Annotation(label=label, geometry=geometry))
    outlines = tuple(_cut_out(ignored, labelled) if ignored else labelled)
    empty = len(classed) - len(labelled) - len(ignored)
    phrases = (
        (len(features) - len(areas), "object without an area (point, line) was left out",
         "objects without an area (points, lines) were left out"),
        (len(areas) - len(classed), "outline without a class was left out", "outlines without a class were left out"),
        (counts[_NO_CLASS] if names.unclassified == "ignored" else 0,
         "outline without a class is ignored", "outlines without a class are ignored"),
        (mended, "outline crossed itself and was mended", "outlines crossed themselves and were mended"),
        (empty, "outline that encloses nothing was left out", "outlines that enclose nothing were left out"),
    )  # fmt: skip
    warnings = [f"{count} {single if count == 1 else many}" for count, single, many in phrases if count]
    warnings += [] if outlines else ["no outline of tumor or non-tumor is left"]
    lines = tuple(f"{path.name}: {warning}" for warning in warnings)
    return Annotations(outlines=outlines, warnings=lines, ignored=tuple(ignored))


def mend_areas(path: Path, areas: Sequence[MultiPolygon]) -> list[tuple[Polygon | MultiPolygon, bool]]:
    """Mend outlines that cross themselves: all they enclose is inside.

    Parameters
    ----------
    path
        Where they are from.
    areas
        As they were drawn.

    Returns
    -------
    list[tuple[Polygon | MultiPolygon, bool]]
        Each one valid, perhaps empty, and whether it was mended.

    Raises
    ------
    AnnotationError
        If they cross more often than can be mended.
    """
    _check_crossings(path, areas)
    mended = list[tuple[Polygon | MultiPolygon, bool]]()
    try:
        for area in areas:
            geometry, crossed = _polygonal(area), not shapely.is_valid(area)
            if crossed:
                # Loops and overlapping parts are filled.
                parts = [shapely.make_valid(part, method="structure", keep_collapsed=False) for part in area.geoms]
                geometry = _polygonal(shapely.union_all(parts))
            mended.append((geometry, crossed))
    except shapely.errors.ShapelyError as error:
        raise AnnotationError(path, f"its outlines cannot be mended ({error})", _DRAW) from error
    return mended


def _check_crossings(path: Path, areas: Sequence[MultiPolygon]) -> None:
    """Refuse outlines that would take minutes and gigabytes to mend and to join; crossings are counted no further."""
    corners, cure = (
        int(shapely.get_num_coordinates(areas).sum()),
        "Draw them again with fewer corners, or simplify their shapes in QuPath",
    )
    if corners > MOST_CORNERS:
        raise AnnotationError(path, f"its outlines have {corners:,} corners, more than {MOST_CORNERS:,}", cure)
    points, ring = shapely.get_coordinates(shapely.get_rings(shapely.get_parts(areas)), return_index=True)
    pairs = np.stack([points[:-1], points[1:]], axis=1)
    sides = shapely.linestrings(pairs[ring[1:] == ring[:-1]])
    tree, step = shapely.STRtree(sides), max(1, _PAIRS // max(1, len(sides)))
    # Each crossing is two pairs, and sides meet their neighbours. Of boxes alone counting is five times as quick.
    most = 2 * MOST_CROSSINGS + _NEIGHBOURS * len(sides)

    def count(predicate: Literal["intersects"] | None, limit: int) -> int:
        pairs = 0
        for start in range(0, len(sides), step):
            pairs += tree.query(sides[start : start + step], predicate=predicate).shape[1]
            if pairs > limit:
                break
        return pairs

    near = count(None, max(_MOST_NEAR, most))
    if near > max(_MOST_NEAR, most):
        problem = f"more than {max(_MOST_NEAR, most):,} pairs of sides of its outlines may cross"
        raise AnnotationError(path, problem, cure)
    if near > most and count("intersects", most) > most:
        problem = f"its outlines cross themselves and each other more than {MOST_CROSSINGS:,} times"
        raise AnnotationError(path, problem, cure)


def _cut_out(ignored: list[Polygon | MultiPolygon], labelled: list[Annotation]) -> Iterator[Annotation]:
    """Yield what is left of outlines once ignored ones are cut out of those that do not lie wholly within them."""
    tree = shapely.STRtree(ignored)
    for outline in labelled:
        near = [ignored[i] for i in tree.query(outline.geometry, predicate="intersects")]
        holes = [hole for hole in near if not shapely.covers(hole, outline.geometry)]
        left = _polygonal(shapely.difference(outline.geometry, shapely.union_all(holes))) if holes else None
        if left is None:
            yield outline
        elif left.area > 0.0:
            yield Annotation(label=outline.label, geometry=left)


def _polygonal(geometry: BaseGeometry) -> Polygon | MultiPolygon:
    """Return the polygons of any geometry, without the lines and points that mending can leave."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    polygons = [part for part in parts if isinstance(part, Polygon) and not part.is_empty]
    return polygons[0] if len(polygons) == 1 else MultiPolygon(polygons)


def _plain(name: str) -> str:
    """Return a class name without what does not matter: case, and white space around it and its colons."""
    return ":".join(" ".join(part.split()) for part in name.casefold().split(":"))
