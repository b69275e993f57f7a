"""Annotations of HistomicsUI and the Digital Slide Archive: JSON with elements.

Format as in large_image's annotation schema. Rotations turn from x towards y, as large_image's own conversion to
polygons has it. Coordinates are those of large_image's OpenSlide source: OpenSlide's own frame, whatever the bounds.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from vitrail.slides.outlines.curves import ellipse
from vitrail.slides.outlines.features import Drawn, as_features, number, objects, points, rectangle, text
from vitrail.slides.outlines.writing import Written, colour_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vitrail.slides.outlines.features import Feature, Ring, Source
    from vitrail.slides.outlines.writing import Image, Outline


def recognise(document: Any) -> bool:
    """Tell whether JSON is one or more annotations of the Digital Slide Archive."""
    first = document[0] if isinstance(document, list) and document else document
    return any(True for _ in _annotations([first]))


def _annotations(documents: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield what has elements: an annotation, or one in the record that the server keeps of it."""
    for document in documents:
        inner = document.get("annotation", document) if isinstance(document, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get("elements"), list):
            yield inner


def read(source: Source) -> list[Feature]:
    """Read elements; the class is the element's group, else its label, else the name of the annotation."""
    documents = source.document if isinstance(source.document, list) else [source.document]
    return as_features(source, _drawn(documents), "HistomicsUI")


def _drawn(documents: list[Any]) -> Iterator[Drawn]:
    for annotation in _annotations(documents):
        for element in objects(annotation["elements"], "elements"):
            label = element.get("label")
            name = text(element.get("group")) or text(label.get("value") if isinstance(label, dict) else label)
            yield Drawn(name=name or text(annotation.get("name")), polygons=_polygons(element))


def _polygons(element: dict[str, Any]) -> list[list[Ring]]:
    """Return what an element encloses; grids, points, arrows and heat maps enclose nothing."""
    kind = text(element.get("type"))
    if kind == "polyline":
        if element.get("closed") is not True:
            return []
        holes = element.get("holes") or []
        rings = [points(ring, "holes of a polyline") for ring in (holes if isinstance(holes, list) else [holes])]
        return [[points(element.get("points"), "points of a polyline"), *rings]]
    if kind not in {"rectangle", "ellipse", "circle"}:
        return []
    ((x, y),) = points([element.get("center")], f"center of a {kind}")
    sizes = ("radius", "radius") if kind == "circle" else ("width", "height")
    half = 1 if kind == "circle" else 2
    rx, ry = (number(element.get(size), f"{size} of a {kind}") / half for size in sizes)
    angle = number(element.get("rotation") or 0, f"rotation of a {kind}")
    if kind != "rectangle":
        return [[ellipse((x, y), (rx, ry), angle)]]
    cosine, sine = math.cos(angle), math.sin(angle)
    corners = rectangle(-rx, -ry, rx, ry)
    return [[[(x + u * cosine - v * sine, y + u * sine + v * cosine) for u, v in corners]]]


def write(outlines: Sequence[Outline], image: Image | None) -> Written:
    """Write outlines, each polygon as a closed polyline with holes in the group of its class."""

    def ring(coordinates: Any) -> list[list[float]]:
        return [[x, y, 0] for x, y, *_ in list(coordinates)[:-1]]

    elements = [
        ({"group": outline.name, "label": {"value": outline.name}} if outline.name else {})
        | {"type": "polyline", "closed": True, "lineColor": colour_of(outline.name)}
        | {"points": ring(polygon.exterior.coords), "holes": [ring(hole.coords) for hole in polygon.interiors]}
        for outline in outlines
        for polygon in outline.polygons()
    ]
    # the name of an annotation is the class of elements without one
    name = {"name": image.name if image else "Outlines"} if all(each.name for each in outlines) else {}
    document = {**name, "description": "", "elements": elements}
    return Written(content=json.dumps(document, separators=(",", ":")).encode() + b"\n")
