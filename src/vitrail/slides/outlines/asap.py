"""ASAP's XML: each annotation is of a group, and has one ring.

Format and drawing as in ASAP 2's sources: XmlRepository.cpp, PolyQtAnnotation.cpp. A spline is a centripetal
Catmull-Rom curve, drawn as cubic Bezier curves. ASAP places what it draws in OpenSlide's own frame
(OpenSlideImage.cpp), whatever the bounds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from vitrail.slides.outlines.curves import bezier
from vitrail.slides.outlines.features import Drawn, as_features, check_corners
from vitrail.slides.outlines.rings import slit_open
from vitrail.slides.outlines.writing import Written, colour_of, plural, quoted, rounded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from vitrail.slides.outlines.features import Feature, Source
    from vitrail.slides.outlines.writing import Image, Outline
    from vitrail.slides.outlines.xml import Element

    Point = tuple[float, float]

VERTICES = ("Coordinate",)
_AREAS = {"polygon", "rectangle", "spline"}
"""The other types, Dot, PointSet and Measurement, have no area."""


def recognise(root: Element) -> bool:
    """Tell whether XML is ASAP's."""
    return root.tag == "ASAP_Annotations"


def read(source: Source) -> list[Feature]:
    """Read annotations; the group is the class, and a group within a group its child."""
    return as_features(source, _drawn(source.document), "ASAP")


def _drawn(root: Element) -> Iterator[Drawn]:
    parents = {group.get("Name"): group.get("PartOfGroup") for group in root.each("AnnotationGroups", "Group")}
    for annotation in root.each("Annotations", "Annotation"):
        kind, ring = annotation.get("Type").casefold(), list[tuple[float, float]]()
        for coordinates in annotation.each("Coordinates"):
            ring += coordinates.points()
        shape = spline(ring) if kind == "spline" else ring
        polygons = [[shape]] if kind in _AREAS else []
        yield Drawn(name=_group_name(annotation.get("PartOfGroup"), parents), polygons=polygons)


def spline(corners: list[Point]) -> NDArray[np.float64] | list[Point]:
    """Return a closed spline as ASAP draws it.

    It passes through its corners; at the last one it has a kink, since ASAP takes the point before it from the line
    between the ends and not from the corners.

    Parameters
    ----------
    corners
        Of the annotation.

    Returns
    -------
    NDArray[np.float64] | list[Point]
        `[n, 2]`, not closed.
    """
    count = len(corners)
    if count < 3:
        return corners
    parts, total = [np.asarray(corners[:1], np.float64)], 0
    for i in range(count):
        p1, p2 = corners[i], corners[(i + 1) % count]
        before = (2 * p1[0] - p2[0], 2 * p1[1] - p2[1]) if i == count - 1 else corners[i - 1]
        after = (2 * p2[0] - p1[0], 2 * p2[1] - p1[1]) if i == count - 2 else corners[(i + 2) % count]
        parts.append(bezier(p1, _control(p1, p2, before), _control(p2, p1, after), p2))
        total += len(parts[-1])
        check_corners(total)
    return np.concatenate(parts)[:-1]


def _control(here: Point, there: Point, behind: Point) -> Point:
    """Return the Bezier control point beside a corner of a centripetal Catmull-Rom curve."""
    d1, d2 = math.dist(here, behind), math.dist(here, there)
    if not d1 or not d2:
        return here
    r1, r2 = math.sqrt(d1), math.sqrt(d2)
    scale, own = 3 * r1 * (r1 + r2), 2 * d1 + 3 * r1 * r2 + d2
    x, y = ((d1 * there[axis] - d2 * behind[axis] + own * here[axis]) / scale for axis in (0, 1))
    return x, y


def _group_name(name: str, parents: dict[str, str]) -> str | None:
    """Return a group's name after those of the groups that it is part of, as QuPath writes classes in classes."""
    chain: list[str] = []
    while name and name.casefold() != "none" and name not in chain:
        chain.insert(0, name)
        name = parents.get(name, "")
    return ": ".join(chain) or None


def write(outlines: Sequence[Outline], image: Image | None) -> Written:  # noqa: ARG001 - as all writers
    """Write outlines, each as polygons of the group of its class; holes are slit open."""
    groups = dict.fromkeys(each.name for each in outlines if each.name)
    lines, slits, filled = list[str](), 0, 0
    for outline in outlines:
        for polygon in outline.polygons():
            ring, lost = slit_open(polygon)
            slits, filled = slits + bool(polygon.interiors), filled + lost
            group, colour = quoted(outline.name or "None"), colour_of(outline.name)
            name = f"Annotation {len(lines)}"
            corners = "".join(
                f'\t\t\t\t<Coordinate Order="{i}" X="{rounded(x)}" Y="{rounded(y)}" />\n'
                for i, (x, y) in enumerate(ring.tolist())
            )
            lines.append(
                f'\t\t<Annotation Name="{name}" Type="Polygon" PartOfGroup={group} Color="{colour}">\n'
                f"\t\t\t<Coordinates>\n{corners}\t\t\t</Coordinates>\n\t\t</Annotation>\n"
            )
    text = (
        '<?xml version="1.0"?>\n<ASAP_Annotations>\n\t<Annotations>\n' + "".join(lines) + "\t</Annotations>\n"
        "\t<AnnotationGroups>\n"
        + "".join(
            f'\t\t<Group Name={quoted(name)} PartOfGroup="None" Color="{colour_of(name)}">\n'
            "\t\t\t<Attributes />\n\t\t</Group>\n"
            for name in groups
        )
        + "\t</AnnotationGroups>\n</ASAP_Annotations>\n"
    )
    remarks = plural(slits, "outline has", "outlines have", "holes, which ASAP has not: a line leads to each and back")
    remarks += plural(filled, "hole is", "holes are", "filled: no straight line leads there")
    return Written(content=text.encode(), remarks=remarks)
