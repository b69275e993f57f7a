"""Aperio ImageScope's XML: layers of regions, some of them negative.

Types of regions: 0 freehand, 1 rectangle, 2 ellipse, 3 arrow, 4 ruler, 5 pen without an end; other programs that write
the format say the shape in `GeoShape`. ImageScope shows the scanned area of a slide alone, as QuPath does (QuPath,
issue 1278, of a Leica SCN file), so that its coordinates begin at the bounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vitrail.slides.outlines.curves import ellipse
from vitrail.slides.outlines.features import Drawn, as_features, check_corners, rectangle
from vitrail.slides.outlines.rings import with_negatives
from vitrail.slides.outlines.writing import Written, layer_xml, layers_of, plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vitrail.slides.outlines.features import Feature, Ring, Source
    from vitrail.slides.outlines.writing import Image, Outline
    from vitrail.slides.outlines.xml import Element

VERTICES = ("Vertex", "V")
_SHAPES = {"0": "polygon", "1": "rectangle", "2": "ellipse"}


def recognise(root: Element) -> bool:
    """Tell whether XML is ImageScope's; HALO's looks alike, and is asked for first."""
    return root.tag == "Annotations"


def read(source: Source) -> list[Feature]:
    """Read regions; the class is the layer's name, else its description, else the region's text."""
    drawn = list[Drawn]()
    for layer in source.document.each("Annotation"):
        named = layer.get("Name") or next(
            (value for each in layer.each("Attributes", "Attribute") if (value := each.get("Value"))), ""
        )
        drawn += layer_shapes(layer.each("Regions", "Region"), named)
    return as_features(source, drawn, "ImageScope")


def layer_shapes(regions: Iterable[Element], name: str) -> list[Drawn]:
    """Read the regions of a layer of ImageScope or HALO, negative ones as holes of the others.

    Parameters
    ----------
    regions
        The elements.
    name
        The layer's; an empty one leaves it to the regions' texts.

    Returns
    -------
    list[Drawn]
        Those that are not negative, in their order.
    """
    names: list[str | None] = []
    rings: list[Ring] = []
    negatives: list[Ring] = []
    corners = 0
    for region in regions:
        ring = _region_ring(region)
        corners += len(ring)
        check_corners(corners)
        if region.get("NegativeROA") in {"1", "true", "True"}:
            negatives.append(ring)
        else:
            names.append(name or region.get("Text") or None)
            rings.append(ring)
    polygons = with_negatives(rings, negatives)
    return [Drawn(name=own, polygons=[each] if len(each[0]) else []) for own, each in zip(names, polygons, strict=True)]


def _region_ring(region: Element) -> Ring:
    """Return what a region encloses; nothing of lines, arrows and pins."""
    kind = (region.get("GeoShape") or _SHAPES.get(region.get("Type"), region.get("Type"))).casefold()
    corners = [point for vertices in region.each("Vertices") for point in vertices.points()]
    if kind in {"polygon", "area"} and region.get("HasEndcaps") != "1":  # end caps are of lines
        return corners
    if kind not in {"rectangle", "ellipse"} or len(corners) < 2:
        return []
    if kind == "rectangle" and len(corners) > 2:  # perhaps a turned one
        return corners
    (left, top), (right, bottom) = np.min(corners, axis=0).tolist(), np.max(corners, axis=0).tolist()
    if kind == "rectangle":
        return rectangle(left, top, right, bottom)
    return ellipse(((left + right) / 2, (top + bottom) / 2), ((right - left) / 2, (bottom - top) / 2))


def write(outlines: Sequence[Outline], image: Image | None) -> Written:
    """Write outlines: each class is a layer, holes are negative regions."""
    layer = (
        '<Annotation Id="{number}" Name={name} ReadOnly="0" NameReadOnly="0" LineColorReadOnly="0" Incremental="0" '
        'Type="4" LineColor="{colour}" Visible="1" Selected="0" MarkupImagePath="" MacroName="">'
    )
    region = (
        '<Region Id="{number}" Type="0" Zoom="1" Selected="0" ImageLocation="" ImageFocus="0" Text="" '
        'NegativeROA="{negative}" InputRegionId="{parent}" Analyze="1" DisplayId="{number}">'
    )
    mpp = f' MicronsPerPixel="{image.mpp!r}"' if image else ""
    body = layer_xml(layers_of(outlines), layer, region, "Vertex")
    unnamed = sum(each.name is None for each in outlines)
    return Written(
        content=f"<Annotations{mpp}>\n{body}</Annotations>\n".encode(),
        remarks=plural(
            unnamed, "outline without a class is", "outlines without a class are", "in a layer without name"
        ),
    )
