"""W3C Web Annotations, as Annotorious and other viewers in browsers write them.

Web Annotation Data Model (W3C Recommendation, 2017): a fragment selector holds a rectangle (Media Fragments URI 1.0,
`xywh`), an SVG selector any shape. Viewers show the whole image: coordinates are of the file's own frame.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from vitrail.slides.outlines.features import (
    Drawn,
    MalformedError,
    as_features,
    images_of_slide,
    number,
    rectangle,
    text,
)  # fmt: skip
from vitrail.slides.outlines.svg import svg_polygons

if TYPE_CHECKING:
    from vitrail.slides.outlines.features import Feature, Ring, Source

_FRAGMENT = re.compile(r"xywh=(?:(pixel|percent):)?([-\d.eE+]+),([-\d.eE+]+),([-\d.eE+]+),([-\d.eE+]+)")


def recognise(document: Any) -> bool:
    """Tell whether JSON is one or more W3C Web Annotations."""
    items = _items(document)
    first = items[0] if items else None
    return isinstance(first, dict) and "target" in first and "Annotation" in _list(first.get("type", "Annotation"))


def _items(document: Any) -> list[Any]:
    if isinstance(document, dict):
        page = document.get("first", document)
        page = page if isinstance(page, dict) else document
        items = next((page[key] for key in ("items", "@graph", "annotations") if key in page), [document])
        return items if isinstance(items, list) else []
    return document if isinstance(document, list) else []


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def read(source: Source) -> list[Feature]:
    """Read annotations; the class is the first body that tags or classifies."""
    items = [item for item in _items(source.document) if isinstance(item, dict) and "target" in item]
    targets = [[each for each in _list(item["target"]) if isinstance(each, dict)] for item in items]
    images = {str(each["source"]): unquote(str(each["source"])) for own in targets for each in own if _is_name(each)}
    chosen = images_of_slide(source, images)
    drawn = (
        Drawn(name=_name(item), polygons=[polygon for target in own for polygon in _polygons(source, target)])
        for item, own in zip(items, targets, strict=True)
        if all(str(each["source"]) in chosen for each in own if _is_name(each))
    )
    return as_features(source, drawn, "its program")


def _is_name(target: dict[str, Any]) -> bool:
    return isinstance(target.get("source"), str) and bool(target["source"])


def _name(item: dict[str, Any]) -> str | None:
    bodies = [body for body in _list(item.get("body")) if isinstance(body, dict)]
    for purpose in ("classifying", "tagging"):
        for body in bodies:
            if purpose in _list(body.get("purpose")):
                labelled = body.get("source")
                value = text(body.get("value")) or text(labelled.get("label") if isinstance(labelled, dict) else None)
                if value:
                    return value
    return None


def _polygons(source: Source, target: dict[str, Any]) -> list[list[Ring]]:
    """Return the polygons of the first selector that is understood."""
    for selector in _list(target.get("selector")):
        value = selector.get("value") if isinstance(selector, dict) else None
        if not isinstance(value, str):
            continue
        if selector.get("type") == "SvgSelector":
            return svg_polygons(value)
        if selector.get("type") == "FragmentSelector":
            return [[ring]] if (ring := _fragment(source, value)) else []
    return []


def _fragment(source: Source, value: str) -> Ring:
    match = _FRAGMENT.search(value)
    if match is None:
        raise MalformedError(f"a fragment is {value[:40]!r}, not xywh=")
    x, y, width, height = (number(part, "a number of a fragment") for part in match.groups()[1:])
    if match[1] == "percent" and not source.names_only:
        if source.size is None:
            raise MalformedError("its rectangles are in percent of the image: it is read together with its slide")
        x, width = (part * source.size[0] / 100 for part in (x, width))
        y, height = (part * source.size[1] / 100 for part in (y, height))
    return rectangle(x, y, x + width, y + height) if width > 0 and height > 0 else []
