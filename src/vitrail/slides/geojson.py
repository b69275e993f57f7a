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
_QUPATH_COLOURS: dict[tuple[int, ...], str] = {
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
        Its number in the file, counted from 0.
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
        return AnnotationError(self.path, f"feature {self.index} (counted from 0): {problem}", _EXPORT)


def read_features(path: Path) -> list[Feature]:
    """Read the annotations of a file; cells, detections, tiles, TMA cores and the root object are left out.

    Parameters
    ----------
    path
        A GeoJSON file of QuPath.

    Returns
    -------
    list[Feature]
        In the order of the file; children follow their parents.

    Raises
    ------
    AnnotationError
        If there is no such file, or it is no GeoJSON of QuPath.
    """
    content = read_regular(path, AnnotationError, _COLUMN, _MOST_BYTES)
    if not content.strip():
        raise AnnotationError(path, "an empty file", _EXPORT)
    try:
        document = json.loads(content, object_hook=_lightened)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(path, f"not valid JSON ({error})", _EXPORT) from error
    kind = document.get("type") if isinstance(document, dict) else None
    if isinstance(kind, str) and kind in _GEOMETRIES:
        raise AnnotationError(path, f"holds a bare {kind} without a classification", _EXPORT)
    if kind == "Feature":
        document = [document]
    elif isinstance(document, dict):
        document = document.get("features")
    if not isinstance(document, list):
        raise AnnotationError(path, "JSON, but without GeoJSON features", _EXPORT)
    features, waiting, index = list[Feature](), document[::-1], 0
    while waiting:
        feature = waiting.pop()
        properties = feature.get("properties") or {} if isinstance(feature, dict) else None
        if not isinstance(properties, dict):
            raise AnnotationError(path, f"holds {str(feature)[:40]!r} where a feature is due", _EXPORT)
        if _object_type(feature, properties) not in _NOT_OUTLINES:
            try:
                name = _class_name(properties)
            except TypeError as error:
                raise AnnotationError(path, f"feature {index} (counted from 0): {error}", _EXPORT) from error
            features.append(Feature(path=path, index=index, name=name, geometry=feature.get("geometry")))
        children = properties.get("childObjects") or properties.get("children") or []
        if not isinstance(children, list):
            raise AnnotationError(path, f"holds {str(children)[:40]!r} where a list of child objects is due", _EXPORT)
        waiting += children[::-1]
        index += 1
    return features


def _lightened(values: dict[str, Any]) -> dict[str, Any]:
    """Let go of a cell or a tile as soon as it is read: there may be a million, and only their number counts."""
    properties = values.get("properties")
    if not isinstance(properties, dict) or properties.get("childObjects") or properties.get("children"):
        return values
    return _PASSED_OVER if _object_type(values, properties) in _NOT_OUTLINES else values


def _object_type(feature: dict[str, Any], properties: dict[str, Any]) -> str:
    """Return what QuPath says it is; version 0.2 wrote the type as the id."""
    keys = ("objectType", "object_type", "type")
    return str(next((properties[key] for key in keys if key in properties), feature.get("id", ""))).casefold()


def _class_name(properties: dict[str, Any]) -> str | None:
    """Return the class with its parents' names, else what its colour stands for; None where there is none."""
    classification = properties.get("classification")
    if not isinstance(classification, dict):
        return classification.strip() or None if isinstance(classification, str) else None
    chain = []
    while isinstance(classification, dict):
        chain.append(classification)
        classification = classification.get("parentClass")
    full_name: str | None = None
    for level in reversed(chain):
        names = level.get("names") or [level.get("name")]
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list):
            raise TypeError(f"the names of its class are {str(names)[:40]!r}, not a list")
        parts = [part for part in (full_name, *names) if part and isinstance(part, str)]
        full_name = ": ".join(parts) if parts else None
        if full_name is None:
            # Old files hold a colour and no name; some pack it into a signed integer, or write integers as 1.0.
            colour = level.get("color", level.get("colorRGB"))
            values = colour if isinstance(colour, list) else [colour]
            integers = [int(value) for value in values if isinstance(value, int | float) and value % 1 == 0]
            if integers and len(integers) == len(values):
                rgb = integers if isinstance(colour, list) else [integers[0] >> shift & 255 for shift in (16, 8, 0)]
                full_name = _QUPATH_COLOURS.get(tuple(rgb), "#" + "".join(f"{value:02x}" for value in rgb))
    return full_name.strip() or None if full_name else None


def _ring(points: list[Any]) -> NDArray[np.float64]:
    """Return [n, 2] coordinates; a third one, as some tools write, is dropped."""
    ring = np.asarray(points) if points else np.empty((0, 2))
    if ring.dtype.kind not in "iuf" or ring.shape not in {(len(points), 2), (len(points), 3)}:
        raise ValueError("not a list of points")
    plane = ring[:, :2].astype(np.float64)
    if not (np.abs(plane) <= _FARTHEST).all():  # nor is NaN
        raise ValueError("points nowhere near a slide")
    return plane
