"""GeoJSON as QuPath writes it, in every shape since version 0.2.

A file is a FeatureCollection, a bare list of features or one feature; children may be nested in their parents. A
class is a name, a list of names (since 0.5), a name within a parent class, or a colour alone.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from shapely.geometry import mapping

from vitrail.errors import AnnotationError
from vitrail.slides.outlines.features import Feature
from vitrail.slides.outlines.writing import Written, colour_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitrail.slides.outlines.features import Source
    from vitrail.slides.outlines.writing import Image, Outline

EXPORT = "Export the outlines from QuPath again (File, Export objects as GeoJSON)"

NOT_OUTLINES = frozenset(
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


def recognise(document: Any) -> bool:  # noqa: ARG001 - the last to be asked
    """Take every JSON that is nobody else's: what is wrong with it is said where it is read."""
    return True


def read(source: Source) -> list[Feature]:
    """Read objects; cells, detections, tiles, TMA cores and the root object are left out."""
    path, document = source.path, source.document
    kind = document.get("type") if isinstance(document, dict) else None
    if isinstance(kind, str) and kind in _GEOMETRIES:
        raise AnnotationError(path, f"holds a bare {kind} without a classification", EXPORT)
    if kind == "Feature":
        document = [document]
    elif isinstance(document, dict):
        document = document.get("features")
    if not isinstance(document, list):
        problem = "JSON, but without GeoJSON features, nor as any other program writes outlines"
        raise AnnotationError(path, problem, EXPORT)
    features, waiting, index = list[Feature](), document[::-1], 0
    while waiting:
        feature = waiting.pop()
        properties = feature.get("properties") or {} if isinstance(feature, dict) else None
        if not isinstance(properties, dict):
            raise AnnotationError(path, f"holds {str(feature)[:40]!r} where a feature is due", EXPORT)
        if _object_type(feature, properties) not in NOT_OUTLINES:
            try:
                name = class_name(properties)
            except TypeError as error:
                raise AnnotationError(path, f"feature {index} (counted from 0): {error}", EXPORT) from error
            geometry = feature.get("geometry")
            features.append(Feature(path=path, index=index, name=name, geometry=geometry, cure=EXPORT))
        children = properties.get("childObjects") or properties.get("children") or []
        if not isinstance(children, list):
            raise AnnotationError(path, f"holds {str(children)[:40]!r} where a list of child objects is due", EXPORT)
        waiting += children[::-1]
        index += 1
    return features


def lightened(values: dict[str, Any]) -> dict[str, Any]:
    """Let go of a cell or a tile as soon as it is read: there may be a million, and only their number counts."""
    properties = values.get("properties")
    if not isinstance(properties, dict) or properties.get("childObjects") or properties.get("children"):
        return values
    return _PASSED_OVER if _object_type(values, properties) in NOT_OUTLINES else values


def _object_type(feature: dict[str, Any], properties: dict[str, Any]) -> str:
    """Return what QuPath says it is; version 0.2 wrote the type as the id."""
    keys = ("objectType", "object_type", "type")
    return str(next((properties[key] for key in keys if key in properties), feature.get("id", ""))).casefold()


def class_name(properties: dict[str, Any]) -> str | None:
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


def annotation(name: str | None, geometry: Any) -> dict[str, Any]:
    """Return an outline as a feature that QuPath reads.

    Parameters
    ----------
    name
        Its class, or None.
    geometry
        As GeoJSON.

    Returns
    -------
    dict[str, Any]
        A GeoJSON feature.
    """
    classification = {"classification": {"name": name}} if name else {}
    return {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation", **classification}}


def write(outlines: Sequence[Outline], image: Image | None) -> Written:  # noqa: ARG001 - as all writers
    """Write outlines as annotations, each on a line of its own."""
    lines = []
    for outline in outlines:
        feature = annotation(outline.name, mapping(outline.area))
        if outline.name:
            rgb = colour_of(outline.name)
            feature["properties"]["classification"]["color"] = [int(rgb[at : at + 2], 16) for at in (1, 3, 5)]
        lines.append(json.dumps(feature, separators=(",", ":")))
    text = '{"type":"FeatureCollection","features":[\n' + ",\n".join(lines) + "\n]}\n"
    return Written(content=text.encode("ascii"))
