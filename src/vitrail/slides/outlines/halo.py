"""HALO's `.annotations`: XML much like ImageScope's, with the shapes' names for types.

Its coordinates begin at the last multiple of 256 pixels before the bounds of the slide (dlup 0.7's reader of HALO's
annotations, which was checked on MIRAX slides, and its issue 160).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitrail.slides.outlines.features import as_features
from vitrail.slides.outlines.imagescope import layer_shapes
from vitrail.slides.outlines.writing import Written, layer_xml, layers_of, plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitrail.slides.outlines.features import Feature, Source
    from vitrail.slides.outlines.writing import Image, Outline
    from vitrail.slides.outlines.xml import Element

GRID_PX = 256
"""Where HALO's coordinates begin before the bounds."""


def recognise(root: Element) -> bool:
    """Tell whether XML is HALO's: its layers have no number, its types are words."""
    if root.tag != "Annotations":
        return False
    regions = [*root.each("Annotation", "Regions", "Region")]
    if regions:
        return any("HasEndcaps" in region.attributes or region.get("Type").isalpha() for region in regions)
    return not any("Id" in layer.attributes for layer in root.each("Annotation")) and "MicronsPerPixel" not in (
        root.attributes
    )


def read(source: Source) -> list[Feature]:
    """Read regions; the layer's name is the class."""
    layers = source.document.each("Annotation")
    drawn = [each for layer in layers for each in layer_shapes(layer.each("Regions", "Region"), layer.get("Name"))]
    return as_features(source, drawn, "HALO")


def write(outlines: Sequence[Outline], image: Image | None) -> Written:  # noqa: ARG001 - as all writers
    """Write outlines: each class is a layer, holes are negative regions."""
    layer = '<Annotation Name={name} Visible="True" LineColor="{colour}">'
    region = '<Region Type="Polygon" HasEndcaps="0" NegativeROA="{negative}">'
    body = layer_xml(layers_of(outlines), layer, region, "V")
    unnamed = sum(each.name is None for each in outlines)
    return Written(
        content=f"<Annotations>\n{body}</Annotations>\n".encode(),
        remarks=plural(
            unnamed, "outline without a class is", "outlines without a class are", "in a layer without name"
        ),
    )
