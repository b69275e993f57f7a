"""GeoJSON as QuPath writes it, in every shape since version 0.2.

A file is a FeatureCollection, a bare list of features or one feature; children may be nested in their parents. A
class is a name, a list of names (since 0.5), a name within a parent class, or a colour alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon

from vitrail.core.files import read_regular
from vitrail.errors import AnnotationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_EXPORT = "Export the outlines from QuPath again (File, Export objects as GeoJSON)"
_COLUMN = "Check the annotations column of slides.csv, and export annotations without cells and detections"
_MOST_BYTES = 1 << 30
"""Of a file: a million cells, or some thousand times as many outlines as a slide has."""

_NOT_OUTLINES = frozenset(
    {"detection", "cell", "tile", "tmacore", "tma_core", "root"}
    | {"pathdetectionobject", "pathcellobject", "pathtileobject", "tmacoreobject", "pathrootobject"}
)
_GEOMETRIES = frozenset(
    {"Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection"}
)
_QUPATH_COLOURS = {
    (200, 0, 0): "Tumor",
    (140, 220, 90): "Non-tumor",
    (150, 200, 150): "Stroma",
    (160, 90, 160): "Immune cells",
    (50, 50, 50): "Necrosis",
    (255, 200, 0): "Other",
    (0, 0, 180): "Region*",
    (180, 180, 180): "Ignore*",
}
"""The colours QuPath gives its own classes, for old files that hold a colour and no name."""

_PASSED_OVER = {"properties": {"objectType": "detection"}}
"""Stands for each cell or tile of a file."""

_SMALLEST_RING = 3
_FARTHEST = 1e9
"""No slide is a thousandth as large; coordinates beyond are nonsense, and overflow in areas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One annotation of a file, not yet understood.

    Attributes
    ----------
    path
        The file.
    index
        Its place in the file, counted from 0.
    name
        Its class, or None.
    geometry
        The GeoJSON geometry, or None.
    """

    path: Path
    index: int
    name: str | None
    geometry: dict[str, Any] | None

    @property
    def is_area(self) -> bool:
        """Whether it has polygons; points and lines have none."""
        return bool(self._polygons())

    def area(self) -> MultiPolygon:
        """Return its polygons, unmended; rings of fewer than three points are left out.

        Raises
        ------
        AnnotationError
            If the coordinates are not finite numbers up to 1e9, or not nested as in GeoJSON.
        """
        try:
            return MultiPolygon([polygon for rings in self._polygons() if (polygon := _polygon(rings)) is not None])
        except (TypeError, ValueError, shapely.errors.ShapelyError) as error:
            raise self._malformed("its coordinates are not numbers up to 1e9, nested as in GeoJSON") from error

    def _polygons(self) -> list[Any]:
        try:
            return list(_polygon_coordinates(self.geometry))
        except (AttributeError, KeyError, TypeError) as error:
            raise self._malformed("its geometry is not GeoJSON") from error

    def _malformed(self, problem: str) -> AnnotationError:
        return AnnotationError(self.path, f"feature {self.index} (counted from 0): {problem}", _EXPORT)


def read_features(path: Path) -> list[Feature]:
    """Read the annotations of a file; cells, detections, tiles, TMA cores and the root object are left out.

    Raises
    ------
    AnnotationError
        If there is no such file, or it is no GeoJSON of QuPath.
    """
    content = _top_level(path, _load(path))
    try:
        return list(_understood(path, content))
    except RecursionError as error:
        raise AnnotationError(path, "objects are nested too deeply", _EXPORT) from error


def _understood(path: Path, content: list[Any]) -> Iterator[Feature]:
    for index, feature in enumerate(_flattened(path, content)):
        properties = feature.get("properties") or {}
        if _object_type(feature, properties) not in _NOT_OUTLINES:
            name = _class_name(path, index, properties)
            yield Feature(path=path, index=index, name=name, geometry=feature.get("geometry"))


def _load(path: Path) -> Any:
    content = read_regular(path, AnnotationError, _COLUMN, _MOST_BYTES)
    if not content.strip():
        raise AnnotationError(path, "an empty file", _EXPORT)
    try:
        return json.loads(content, object_hook=_lightened)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(path, f"not valid JSON ({error})", _EXPORT) from error


def _lightened(found: dict[str, Any]) -> dict[str, Any]:
    """Let go of a cell or a tile as soon as it is read: there may be a million, and only their places count."""
    properties = found.get("properties")
    if not isinstance(properties, dict) or _children(properties):
        return found
    return _PASSED_OVER if _object_type(found, properties) in _NOT_OUTLINES else found


def _top_level(path: Path, content: Any) -> list[Any]:
    kind = content.get("type") if isinstance(content, dict) else None
    if isinstance(kind, str) and kind in _GEOMETRIES:
        raise AnnotationError(path, f"holds a bare {kind} without a classification", _EXPORT)
    if kind == "Feature":
        return [content]
    features = content.get("features") if isinstance(content, dict) else content
    if not isinstance(features, list):
        raise AnnotationError(path, "JSON, but without GeoJSON features", _EXPORT)
    return features


def _flattened(path: Path, features: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield features, each followed by its children."""
    for feature in features:
        properties = feature.get("properties") or {} if isinstance(feature, dict) else None
        if not isinstance(properties, dict):
            raise AnnotationError(path, f"holds {str(feature)[:40]!r} where a feature is due", _EXPORT)
        yield feature
        children = _children(properties)
        if not isinstance(children, list):
            raise AnnotationError(path, f"holds {str(children)[:40]!r} where a list of child objects is due", _EXPORT)
        yield from _flattened(path, children)


def _children(properties: dict[str, Any]) -> Any:
    return properties.get("childObjects") or properties.get("children") or []


def _object_type(feature: dict[str, Any], properties: dict[str, Any]) -> str:
    """Return what QuPath says it is; version 0.2 wrote the type as the id."""
    keys = ("objectType", "object_type", "type")
    found = next((properties[key] for key in keys if key in properties), feature.get("id", ""))
    return str(found).casefold()


def _class_name(path: Path, index: int, properties: dict[str, Any]) -> str | None:
    """Return the class, None where there is none."""
    found = properties.get("classification")
    try:
        name = _full_name(found) if isinstance(found, dict) else found
    except TypeError as error:
        raise AnnotationError(path, f"feature {index} (counted from 0): {error}", _EXPORT) from error
    return name.strip() or None if isinstance(name, str) else None


def _full_name(found: dict[str, Any]) -> str | None:
    """Return the name of a class with its parents', else what its colour stands for."""
    names = found.get("names") or [found.get("name")]
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list):
        raise TypeError(f"the names of its class are {str(names)[:40]!r}, not a list")
    parent = found.get("parentClass")
    if isinstance(parent, dict):
        names = [_full_name(parent), *names]
    known = [name for name in names if name and isinstance(name, str)]
    return ": ".join(known) if known else _colour_name(found.get("color", found.get("colorRGB")))


def _colour_name(colour: Any) -> str | None:
    """Return QuPath's class of a colour, else the colour as `#rrggbb`; old files pack it into a signed integer."""
    if isinstance(colour, list):
        parts = [_integer(part) for part in colour]
    else:
        packed = _integer(colour)
        parts = [None if packed is None else packed >> shift & 255 for shift in (16, 8, 0)]
    colour = [part for part in parts if part is not None]
    if not colour or len(colour) < len(parts):
        return None
    return _QUPATH_COLOURS.get(tuple(colour), "#" + "".join(f"{part:02x}" for part in colour))


def _integer(value: Any) -> int | None:
    """Return a whole number, also one written as 1.0."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return int(value) if whole else None


def _polygon_coordinates(geometry: dict[str, Any] | None) -> Iterator[Any]:
    """Yield the rings of every polygon in a geometry."""
    if geometry is None:
        return
    if geometry["type"] == "Polygon":
        yield geometry["coordinates"]
    elif geometry["type"] == "MultiPolygon":
        yield from geometry["coordinates"]
    elif geometry["type"] == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _polygon_coordinates(part)


def _polygon(rings: list[Any]) -> Polygon | None:
    """Build a polygon, None if its shell has no extent."""
    loops = [_ring(ring) for ring in rings]
    if not loops or len(loops[0]) < _SMALLEST_RING:
        return None
    return Polygon(loops[0], [hole for hole in loops[1:] if len(hole) >= _SMALLEST_RING])


def _ring(points: list[Any]) -> NDArray[np.float64]:
    """Return [n, 2] coordinates; a third one, as some tools write, is dropped."""
    ring = np.asarray(points) if points else np.empty((0, 2))
    if ring.dtype.kind not in "iuf" or ring.shape not in {(len(points), 2), (len(points), 3)}:
        raise ValueError("not a list of points")
    plane = ring[:, :2].astype(np.float64)
    if not (np.abs(plane) <= _FARTHEST).all():  # nor is NaN
        raise ValueError("points nowhere near a slide")
    return plane
