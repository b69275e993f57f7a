"""V7 Darwin's JSON, versions 1.0 and 2.0: one image a file.

The paths of a polygon are filled by the even-odd rule (dlup's reader, and V7's own client). Coordinates are of the
file's own frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitrail.slides.outlines.curves import ellipse
from vitrail.slides.outlines.features import (
    Drawn,
    MalformedError,
    as_features,
    number,
    objects,
    points,
    rectangle,
    text,
)  # fmt: skip
from vitrail.slides.outlines.rings import nested

if TYPE_CHECKING:
    from vitrail.slides.outlines.features import Feature, Ring, Source


def recognise(document: Any) -> bool:
    """Tell whether JSON is an export of V7 Darwin."""
    return (
        isinstance(document, dict)
        and isinstance(document.get("annotations"), list)
        and (isinstance(document.get("item"), dict) or isinstance(document.get("image"), dict))
    )


def read(source: Source) -> list[Feature]:
    """Read annotations; the name is the class. Keypoints, lines, tags and the like have no area."""
    annotations = objects(source.document["annotations"], "annotations")
    return as_features(source, map(_drawn, annotations), "V7 Darwin")


def _drawn(annotation: dict[str, Any]) -> Drawn:
    if "raster_layer" in annotation:
        raise MalformedError("it has a raster layer, which is not read: export the annotations as polygons")
    return Drawn(name=text(annotation.get("name")), polygons=_polygons(annotation))


def _polygons(annotation: dict[str, Any]) -> list[list[Ring]]:
    for key in ("polygon", "complex_polygon", "ellipse", "bounding_box"):
        shape = annotation.get(key)
        if not isinstance(shape, dict):
            continue
        if key == "ellipse":
            ((x, y),) = points([shape.get("center")], "center of an ellipse")
            ((rx, ry),) = points([shape.get("radius")], "radius of an ellipse")
            return [[ellipse((x, y), (rx, ry), number(shape.get("angle") or 0, "angle of an ellipse"))]]
        if key == "bounding_box":
            x, y, width, height = (number(shape.get(name), f"{name} of a bounding box") for name in "xywh")
            return [[rectangle(x, y, x + width, y + height)]]
        paths = shape.get("paths", shape.get("path"))
        if not isinstance(paths, list):
            raise MalformedError("a polygon has no paths")
        paths = paths if paths and isinstance(paths[0], list) else [paths]
        return nested([points(path, "a path of a polygon") for path in paths])
    return []
