"""What the readers of all formats return, and what they are given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon

from vitrail.errors import AnnotationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    Ring = list[tuple[float, float]] | NDArray[np.float64]

MOST_CORNERS = 2_000_000
"""Of all outlines of a slide."""

FARTHEST = 1e9
"""No slide is a thousandth as large; coordinates beyond are nonsense, and overflow in areas."""

_SMALLEST_RING = 3


class MalformedError(ValueError):
    """A file of a program's format that is not as that program writes it; the message is what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file that is parsed but not yet understood.

    Attributes
    ----------
    path
        The file.
    document
        What it holds: a value of JSON, the root of XML, rows of a CSV, or the bytes of anything else.
    slides
        Paths of the slides whose outlines are asked for; empty where that is not known.
    size
        Width and height of level 0 in the slide's own frame; None where the slide is not at hand.
    names_only
        Whether the classes are asked for alone: then no coordinate matters, and without `slides` all images count.
    """

    path: Path
    document: Any
    slides: tuple[Path, ...] = ()
    size: tuple[int, int] | None = None
    names_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One object of a file, not yet understood.

    Attributes
    ----------
    path
        The file.
    index
        Its number in the file, counted from 0.
    name
        Its class, or None.
    geometry
        A GeoJSON geometry, whose rings may also be arrays `[n, 2]`; None, points and lines have no area.
    cure
        What helps where its coordinates are no coordinates.
    """

    path: Path
    index: int
    name: str | None
    geometry: dict[str, Any] | None
    cure: str

    @property
    def is_area(self) -> bool:
        """Whether it has polygons; points and lines have none."""
        return bool(self._polygons())

    def area(self) -> MultiPolygon:
        """Return its polygons, unmended; rings of fewer than three points are left out.

        Returns
        -------
        MultiPolygon
            In the coordinates of the file.

        Raises
        ------
        AnnotationError
            If the coordinates are not finite numbers up to 1e9, or not nested as in GeoJSON.
        """
        polygons = []
        try:
            for rings in self._polygons():
                loops = [_ring(points) for points in rings]
                if loops and len(loops[0]) >= _SMALLEST_RING:
                    holes = [loop for loop in loops[1:] if len(loop) >= _SMALLEST_RING]
                    polygons.append(Polygon(loops[0], holes))
            return MultiPolygon(polygons)
        except (TypeError, ValueError, shapely.errors.ShapelyError) as error:
            problem = "its coordinates are not numbers up to 1e9, nested as in GeoJSON"
            raise self._malformed(problem) from error

    def _polygons(self) -> list[Any]:
        """Return the rings of every polygon of the geometry."""
        polygons, geometries = list[Any](), [] if self.geometry is None else [self.geometry]
        try:
            while geometries:
                geometry = geometries.pop()
                if geometry["type"] == "Polygon":
                    polygons.append(geometry["coordinates"])
                elif geometry["type"] == "MultiPolygon":
                    polygons.extend(geometry["coordinates"])
                elif geometry["type"] == "GeometryCollection":
                    geometries.extend(reversed([part for part in geometry["geometries"] if part is not None]))
        except (AttributeError, KeyError, TypeError) as error:
            raise self._malformed("its geometry is not GeoJSON") from error
        return polygons

    def _malformed(self, problem: str) -> AnnotationError:
        return AnnotationError(self.path, f"feature {self.index} (counted from 0): {problem}", self.cure)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What a reader understood of one object; `Feature` adds where it stands.

    Attributes
    ----------
    name
        Its class, or None.
    polygons
        Of each the outer ring and its holes; none for a point or a line.
    """

    name: str | None
    polygons: list[list[Ring]]

    @property
    def geometry(self) -> dict[str, Any] | None:
        """As GeoJSON."""
        return {"type": "MultiPolygon", "coordinates": self.polygons} if self.polygons else None


def _ring(points: Any) -> NDArray[np.float64]:
    """Return [n, 2] coordinates; a third one, as some tools write, is dropped."""
    ring = np.asarray(points) if len(points) else np.empty((0, 2))
    if ring.dtype.kind not in "iuf" or ring.shape not in {(len(points), 2), (len(points), 3)}:
        raise ValueError("not a list of points")
    plane = ring[:, :2].astype(np.float64)
    if not (np.abs(plane) <= FARTHEST).all():  # nor is NaN
        raise ValueError("points nowhere near a slide")
    return plane


def number(value: Any, what: str) -> float:
    """Return a coordinate or a length.

    Parameters
    ----------
    value
        A number, or its text.
    what
        What it is, for the message.

    Returns
    -------
    float
        Finite, and at most 1e9 in size.

    Raises
    ------
    MalformedError
        It is neither.
    """
    try:
        result = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        result = math.nan
    if not abs(result) <= FARTHEST:
        raise MalformedError(f"{what} is {str(value)[:40]!r}, not a number up to 1e9")
    return result


def objects(value: Any, what: str) -> list[dict[str, Any]]:
    """Return a list of JSON objects; nothing counts as an empty one.

    Parameters
    ----------
    value
        What stands there.
    what
        What it is, for the message.

    Returns
    -------
    list[dict[str, Any]]
        The same.

    Raises
    ------
    MalformedError
        It is something else.
    """
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise MalformedError(f"{what} is {str(value)[:40]!r}, not a list of objects")
    return value


def points(value: Any, what: str) -> list[tuple[float, float]]:
    """Return a ring of points, each a list of two or three coordinates or an object with x and y.

    Parameters
    ----------
    value
        What stands there.
    what
        What it is, for the message.

    Returns
    -------
    list[tuple[float, float]]
        In their order.

    Raises
    ------
    MalformedError
        It is something else.
    """
    if not isinstance(value, list):
        raise MalformedError(f"{what} is {str(value)[:40]!r}, not a list of points")
    ring = []
    for point in value:
        pair = [point.get("x"), point.get("y")] if isinstance(point, dict) else point
        if not isinstance(pair, list) or len(pair) not in {2, 3}:
            raise MalformedError(f"{what} holds {str(point)[:40]!r} where a point is due")
        ring.append((number(pair[0], f"{what}: x"), number(pair[1], f"{what}: y")))
    return ring


def text(value: Any) -> str | None:
    """Return a class: text that says something, or a number; else None."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)[:20]
    return value.strip() or None if isinstance(value, str) else None


def rectangle(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    """Return the corners of a rectangle."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def file_name(value: Any) -> str:
    """Return the last part of a path or an address of any system, in small letters."""
    name = value if isinstance(value, str) else ""
    return PurePosixPath(PureWindowsPath(name).as_posix()).name.casefold()


def images_of_slide(source: Source, images: Mapping[Any, str]) -> set[Any]:
    """Choose the images of a file with several by the name of the slide's file, or by that without its ending.

    Parameters
    ----------
    source
        The file.
    images
        What identifies each image, and the name of its file.

    Returns
    -------
    set[Any]
        Of those that are asked for; the only one of a file counts whatever its name.

    Raises
    ------
    MalformedError
        There are several, and the slide is not known or not one of them.
    """
    if len(images) <= 1 or (source.names_only and not source.slides):
        return set(images)
    if not source.slides:
        raise MalformedError(f"it has the outlines of {len(images)} images: it is read together with a slide")
    names, stems = ({change(path) for path in source.slides} for change in (_name, _stem))
    for asked, change in ((names, file_name), (stems, lambda name: _stem(Path(file_name(name))))):
        chosen = {key for key, name in images.items() if change(name) in asked}
        if chosen:
            return chosen
    if source.names_only:
        return set()
    listed = ", ".join([repr(name[:60]) for name in images.values()][:3])
    slide = source.slides[0].name
    raise MalformedError(f"of its {len(images)} images ({listed} ...) none is named like the slide {slide}")


def _name(path: Path) -> str:
    return path.name.casefold()


def _stem(path: Path) -> str:
    name = path.name.casefold()
    for ending in (".ome.tif", ".ome.tiff"):
        if name.endswith(ending):
            return name.removesuffix(ending)
    return Path(name).stem


def check_corners(count: int) -> None:
    """Refuse outlines with more corners than any slide has, while they are made: curves can ask for any number."""
    if count > MOST_CORNERS:
        raise MalformedError(f"its outlines have more than {MOST_CORNERS:,} corners")


def as_features(source: Source, drawn: Iterable[Drawn], program: str) -> list[Feature]:
    """Return what a reader found, numbered.

    Parameters
    ----------
    source
        The file.
    drawn
        Its objects, in their order; best one at a time.
    program
        Who wrote the file.

    Returns
    -------
    list[Feature]
        One for each.
    """
    cure, features, corners = f"Export the outlines from {program} again", list[Feature](), 0
    for index, each in enumerate(drawn):
        corners += sum(len(ring) for rings in each.polygons for ring in rings)
        check_corners(corners)
        features.append(Feature(path=source.path, index=index, name=each.name, geometry=each.geometry, cure=cure))
    return features
