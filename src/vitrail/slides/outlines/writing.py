"""What the writers of all formats are given, and what they return."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon

from vitrail.classes import CLASSES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """An outline that is to be written.

    Attributes
    ----------
    name
        Its class, or None.
    area
        Valid, in the frame of the format.
    """

    name: str | None
    area: Polygon | MultiPolygon

    def polygons(self) -> list[Polygon]:
        """Return its parts, which have an area."""
        return [part for part in shapely.get_parts(self.area).tolist() if part.area > 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The slide that outlines are of, for formats that name it.

    Attributes
    ----------
    name
        Of its file.
    size
        Width and height of level 0 in its own frame.
    mpp
        Micrometres per level-0 pixel.
    """

    name: str
    size: tuple[int, int]
    mpp: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A file, and what it could not hold.

    Attributes
    ----------
    content
        All bytes of it.
    remarks
        What a reader should know, a line each.
    """

    content: bytes
    remarks: tuple[str, ...] = ()


def plural(count: int, single: str, many: str, rest: str) -> tuple[str, ...]:
    """Return a remark about some outlines, or none without any."""
    return (f"{count} {single if count == 1 else many} {rest}",) if count else ()


def rounded(value: float) -> str:
    """Return a coordinate that reads back exactly; a whole number without a point, as programs with whole pixels do."""
    return str(int(value)) if value == int(value) else repr(value)


def quoted(name: str) -> str:
    """Return a name as an attribute of XML, which has no control characters."""
    return quoteattr("".join(letter if letter.isprintable() else " " for letter in name))


def colour_of(name: str | None) -> str:
    """Return a colour as #rrggbb: Vitrail's own for its classes, else one that follows from the name."""
    for label in CLASSES:
        if name and name.casefold() == label.title.casefold():
            return "#" + "".join(f"{value:02x}" for value in label.rgb)
    return "#" + hashlib.sha256((name or "").encode()).hexdigest()[:6]


def layers_of(outlines: Sequence[Outline]) -> Iterator[tuple[str | None, list[Polygon]]]:
    """Sort outlines into layers by class, so that each negative region is inside one region of its layer alone.

    Programs differ in what a negative region is cut out of: the region around it, or its whole layer. In these layers
    both are the same; where outlines of a class overlap a hole, the class has several layers of the same name.

    Parameters
    ----------
    outlines
        In any order.

    Yields
    ------
    str | None
        The name of the layer.
    list[Polygon]
        Its polygons.
    """
    layers: dict[str | None, list[_Layer]] = {}
    for outline in outlines:
        for polygon in outline.polygons():
            own = layers.setdefault(outline.name, [])
            box = np.asarray(polygon.bounds)
            holes = np.array([hole.bounds for hole in polygon.interiors]).reshape(-1, 4)
            layer = next((each for each in own if each.has_room(box, holes)), None)
            if layer is None:
                own.append(layer := _Layer(polygons=[], boxes=[], holes=[]))
            layer.polygons.append(polygon)
            layer.boxes.append(box)
            layer.holes.extend(holes)
    for name, own in layers.items():
        for layer in own:
            yield name, layer.polygons


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """Polygons, the boxes around them, and those around their holes."""

    polygons: list[Polygon]
    boxes: list[np.ndarray]
    holes: list[np.ndarray]

    def has_room(self, box: np.ndarray, holes: np.ndarray) -> bool:
        """Tell whether a polygon meets no hole of others here, nor its holes any polygon."""
        return not (_meets(box, self.holes) or any(_meets(hole, self.boxes) for hole in holes))


def _meets(box: np.ndarray, others: list[np.ndarray]) -> bool:
    if not others:
        return False
    many = np.asarray(others)
    return bool(np.any((many[:, :2] <= box[2:]).all(axis=1) & (many[:, 2:] >= box[:2]).all(axis=1)))


def layer_xml(layers: Iterator[tuple[str | None, list[Polygon]]], layer: str, region: str, vertex: str) -> str:
    """Return layers as the XML that ImageScope and HALO share, holes as negative regions.

    Parameters
    ----------
    layers
        As of `layers_of`.
    layer, region
        Opening tags, with `{name}`, `{colour}` (a whole number, red lowest), `{number}`, `{negative}` (0 or 1) and
        `{parent}` (the number of the region around a negative one, else 0).
    vertex
        The tag of a vertex.

    Returns
    -------
    str
        What stands between the root's tags.
    """
    lines, count = list[str](), 0

    def add(ring: list[tuple[float, ...]], parent: int) -> int:
        nonlocal count
        count += 1
        lines.append(f"      {region.format(number=count, negative=int(parent > 0), parent=parent)}\n")
        corners = (f'<{vertex} X="{rounded(x)}" Y="{rounded(y)}" />' for x, y in ring)
        lines.append(f"        <Vertices>{''.join(corners)}</Vertices>\n      </Region>\n")
        return count

    for number, (name, polygons) in enumerate(layers, start=1):
        rgb = colour_of(name)
        colour = int(rgb[1:3], 16) | int(rgb[3:5], 16) << 8 | int(rgb[5:7], 16) << 16
        lines.append(f"  {layer.format(name=quoted(name or ''), colour=colour, number=number)}\n    <Regions>\n")
        for polygon in polygons:
            parent = add([*polygon.exterior.coords], 0)
            for hole in polygon.interiors:
                add([*hole.coords], parent)
        lines.append("    </Regions>\n  </Annotation>\n")
    return "".join(lines)
