"""COCO's JSON: images, categories, and annotations of both; polygons, or masks as run lengths.

As the COCO data format page and the COCO API have it: the polygons of one annotation are united, and have no holes.
Pixels are those of the image file, whatever the bounds.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from vitrail.errors import AnnotationError
from vitrail.slides.outlines.features import (
    Drawn,
    MalformedError,
    as_features,
    images_of_slide,
    number,
    objects,
    rectangle,
    text,
)  # fmt: skip
from vitrail.slides.outlines.rings import slit_open
from vitrail.slides.outlines.rle import MOST_PX, mask_polygons
from vitrail.slides.outlines.writing import Written, plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitrail.slides.outlines.features import Feature, Ring, Source
    from vitrail.slides.outlines.writing import Image, Outline


def recognise(document: Any) -> bool:
    """Tell whether JSON is COCO's."""
    return isinstance(document, dict) and all(isinstance(document.get(key), list) for key in ("images", "annotations"))


def read(source: Source) -> list[Feature]:
    """Read the annotations of one image; the name of the category is the class."""
    document = source.document
    images = {text(each.get("id")): str(each.get("file_name", "")) for each in objects(document["images"], "images")}
    names = {text(each.get("id")): text(each.get("name")) for each in objects(document.get("categories"), "categories")}
    chosen, drawn, pixels = images_of_slide(source, images), list[Drawn](), 0
    for annotation in objects(document["annotations"], "annotations"):
        if text(annotation.get("image_id")) not in chosen:
            continue
        category = text(annotation.get("category_id"))
        if source.names_only:
            polygons: list[list[Ring]] = [[[]]] if _has_area(annotation) else []
        else:
            polygons, own = _polygons(annotation)
            pixels += own
        if pixels > MOST_PX:
            raise MalformedError(f"its masks have more than {MOST_PX:,} pixels: export outlines instead")
        drawn.append(Drawn(name=names.get(category) or (category and f"category {category}"), polygons=polygons))
    return as_features(source, drawn, "its program, as COCO,")


def _has_area(annotation: dict[str, Any]) -> bool:
    return bool(annotation.get("segmentation") or annotation.get("bbox"))


def _polygons(annotation: dict[str, Any]) -> tuple[list[list[Ring]], int]:
    """Return the polygons of an annotation, of its box where it has no others, and how many pixels were outlined."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        return mask_polygons(segmentation)
    if isinstance(segmentation, list) and segmentation:
        rings = segmentation if isinstance(segmentation[0], list) else [segmentation]
        if not all(isinstance(ring, list) and len(ring) % 2 == 0 for ring in rings):
            raise MalformedError("a polygon is no list of x and y by turns")
        values = [[number(value, "a coordinate") for value in ring] for ring in rings]
        return [[[*zip(ring[::2], ring[1::2], strict=True)]] for ring in values], 0
    box = annotation.get("bbox")
    if not box:
        return [], 0
    if not isinstance(box, list) or len(box) != 4:
        raise MalformedError(f"a box is {str(box)[:40]!r}")
    x, y, width, height = (number(value, "a number of a box") for value in box)
    return [[rectangle(x, y, x + width, y + height)]], 0


def write(outlines: Sequence[Outline], image: Image | None) -> Written:
    """Write outlines, each as an annotation with all its polygons; holes are slit open."""
    if image is None:
        problem = "COCO names the image and its size"
        raise AnnotationError("--as coco", problem, "Give the slide, too: --slide SLIDE")
    names = list(dict.fromkeys(each.name for each in outlines if each.name))
    annotations, slits, filled, unnamed = list[dict[str, Any]](), 0, 0, 0
    for outline in outlines:
        if outline.name is None:
            unnamed += 1  # a category is due
            continue
        rings = []
        for polygon in outline.polygons():
            ring, lost = slit_open(polygon)
            slits, filled = slits + bool(polygon.interiors), filled + lost
            rings.append(ring.ravel().tolist())
        if not rings:
            continue
        left, top, right, bottom = outline.area.bounds
        annotations.append({
            "id": len(annotations) + 1, "image_id": 1, "category_id": names.index(outline.name) + 1, "iscrowd": 0,
            "segmentation": rings, "area": outline.area.area, "bbox": [left, top, right - left, bottom - top],
        })  # fmt: skip
    document = {
        "images": [{"id": 1, "file_name": image.name, "width": image.size[0], "height": image.size[1]}],
        "categories": [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(names, start=1)],
        "annotations": annotations,
    }
    remarks = plural(slits, "polygon has", "polygons have", "holes, which COCO has not: a line leads to each and back")
    remarks += plural(filled, "hole is", "holes are", "filled: no straight line leads there")
    remarks += plural(unnamed, "outline without a class is", "outlines without a class are", "left out")
    return Written(content=json.dumps(document, separators=(",", ":")).encode() + b"\n", remarks=remarks)
