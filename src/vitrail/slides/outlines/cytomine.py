"""Annotations of Cytomine, as its interface answers: JSON with WKT, whose y counts upwards from the bottom.

Cytomine's client documentation turns y about the height of the image, which is that of OpenSlide's own frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitrail.slides.outlines.features import Drawn, MalformedError, as_features, images_of_slide, objects, text
from vitrail.slides.outlines.wellknown import wkt_polygons

if TYPE_CHECKING:
    from vitrail.slides.outlines.features import Feature, Source

_FILE_NAMES = ("imageFilename", "originalFilename", "originalfilename", "instanceFilename", "filename", "imageName")


def recognise(document: Any) -> bool:
    """Tell whether JSON is one or more annotations of Cytomine."""
    items = _items(document)
    return bool(items) and isinstance(items[0], dict) and "location" in items[0]


def _items(document: Any) -> list[Any]:
    if isinstance(document, dict):
        items = document.get("collection", [document])
        return items if isinstance(items, list) else []
    return document if isinstance(document, list) else []


def read(source: Source) -> list[Feature]:
    """Read annotations; the class is the name of the first term, or its number where the file has no names."""
    if source.size is None and not source.names_only:
        raise MalformedError("its y axis begins at the bottom of the image: it is read together with its slide")
    height = source.size[1] if source.size else 0
    items = objects(_items(source.document), "annotations")
    terms = {}
    if isinstance(source.document, dict):
        terms = {
            text(term.get("id")): text(term.get("name")) for term in objects(source.document.get("terms"), "terms")
        }
    images = {
        text(item.get("image")): next((name for key in _FILE_NAMES if isinstance(name := item.get(key), str)), "")
        for item in items
    }
    chosen = images_of_slide(source, images)
    drawn = (
        Drawn(name=_name(item, terms), polygons=wkt_polygons(item.get("location"), height))
        for item in items
        if text(item.get("image")) in chosen
    )
    return as_features(source, drawn, "Cytomine")


def _name(item: dict[str, Any], terms: dict[str | None, str | None]) -> str | None:
    values = item.get("term", item.get("terms"))
    for value in values if isinstance(values, list) else [values]:
        name = text(value.get("name") or value.get("id") if isinstance(value, dict) else value)
        if name:
            return terms.get(name) or name
    return None
