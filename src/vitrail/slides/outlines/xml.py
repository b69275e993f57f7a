"""XML that strangers wrote, read in bounded time and memory.

A document type is refused, and with it every entity: nothing can grow beyond the bytes of the file, and no other file
is read (CWE-776, CWE-611).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.parsers import expat

from vitrail.slides.outlines.features import MalformedError, check_corners, number

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

MOST_BYTES = 1 << 28
_DEEPEST, _MOST_ELEMENTS = 64, 2_000_000


@dataclass(slots=True)
class Element:
    """An element of XML.

    Attributes
    ----------
    tag
        Its name, without a prefix.
    attributes
        Texts by name.
    children
        Other elements than vertices.
    vertices
        Its vertices: x, y, and the number that says their order.
    """

    tag: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    vertices: list[tuple[float, float, float]] = field(default_factory=list)

    def get(self, name: str, default: str = "") -> str:
        """Return an attribute without white space around it."""
        return self.attributes.get(name, default).strip()

    def each(self, *tags: str) -> Iterator[Element]:
        """Yield the elements at the end of a chain of tags."""
        first, *further = tags
        for child in self.children:
            if child.tag == first:
                if further:
                    yield from child.each(*further)
                else:
                    yield child

    def points(self) -> list[tuple[float, float]]:
        """Return the vertices in their order."""
        return [(x, y) for x, y, _ in sorted(self.vertices, key=lambda vertex: vertex[2])]


def parse_xml(content: bytes, vertices: Collection[str] = ()) -> Element:
    """Parse XML.

    Parameters
    ----------
    content
        The whole document.
    vertices
        Tags of elements with the attributes X and Y, kept as numbers: there may be a million.

    Returns
    -------
    Element
        The root.

    Raises
    ------
    MalformedError
        It is no well-formed XML, has a document type, or is larger or nested deeper than outlines are.
    """
    if len(content) > MOST_BYTES:
        raise MalformedError(f"has {len(content) >> 20} MiB, more than {MOST_BYTES >> 20}")
    top = Element("", {})
    open_elements, counts = [top], {"elements": 0, "vertices": 0}
    parser = expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        tag = tag.rpartition(":")[2]
        if tag in vertices:
            counts["vertices"] += 1
            check_corners(counts["vertices"])
            x, y = (number(attributes.get(axis), f"{axis} of a {tag}") for axis in "XY")
            parent = open_elements[-1]
            order = attributes.get("Order", len(parent.vertices))
            parent.vertices.append((x, y, number(order, f"Order of a {tag}")))
            open_elements.append(top)  # what stands within a vertex is nothing
            return
        counts["elements"] += 1
        if len(open_elements) > _DEEPEST or counts["elements"] > _MOST_ELEMENTS:
            raise MalformedError(f"more than {_MOST_ELEMENTS:,} elements, or nested deeper than {_DEEPEST}")
        element = Element(tag, attributes)
        open_elements[-1].children.append(element)
        open_elements.append(element)

    def end(_tag: str) -> None:
        open_elements.pop()

    def refuse(*_: object) -> None:
        raise MalformedError("it declares a document type, which files of outlines have no use for")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler, parser.EntityDeclHandler = refuse, refuse
    try:
        parser.Parse(content, True)  # noqa: FBT003 - the only way to say that all is there
    except (expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, MalformedError):
            raise
        raise MalformedError(f"no well-formed XML ({error})") from error
    return top.children[0]
