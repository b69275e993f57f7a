"""Shapes of SVG as rings: basic shapes, and paths with all their curves (SVG 2, chapters 9 and 10)."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from vitrail.slides.outlines.curves import arc, bezier, ellipse
from vitrail.slides.outlines.features import FARTHEST, MalformedError, check_corners, number, rectangle
from vitrail.slides.outlines.rings import nested
from vitrail.slides.outlines.xml import Element, parse_xml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitrail.slides.outlines.features import Ring

    Point = tuple[float, float]

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_TOKEN = re.compile(rf"([MmLlHhVvCcSsQqTtAaZz])|({_NUMBER.pattern})|([\s,]+)")
_FLAG = re.compile(r"[\s,]*([01])")
_ARGUMENTS = {"m": 2, "l": 2, "h": 1, "v": 1, "c": 6, "s": 4, "q": 4, "t": 2, "a": 7, "z": 0}
_GROUPS = {"svg", "g", "a"}


def svg_polygons(svg: str) -> list[list[Ring]]:
    """Return what the shapes of an SVG enclose.

    Parameters
    ----------
    svg
        The document, or a fragment with one root.

    Returns
    -------
    list[list[Ring]]
        Of each polygon the outer ring and its holes; lines enclose nothing.

    Raises
    ------
    MalformedError
        It is no SVG, or one with transformed shapes.
    """
    polygons: list[list[Ring]] = []
    waiting = [parse_xml(svg.strip().encode("utf-8", "replace"))]
    while waiting:
        element = waiting.pop()
        if element.get("transform"):
            raise MalformedError("its SVG has transformed shapes")
        if element.tag in _GROUPS:
            waiting += reversed(element.children)
        else:
            polygons += nested([*_rings(element)], non_zero=_fill_rule(element) != "evenodd")
    return polygons


def _fill_rule(element: Element) -> str:
    styled = re.search(r"fill-rule\s*:\s*(\w+)", element.get("style"))
    return styled[1] if styled else element.get("fill-rule", "nonzero")


def _rings(element: Element) -> Iterator[Ring]:
    def size(name: str) -> float:
        value = element.get(name, "0")
        return number(value.removesuffix("px"), f"{name} of a {element.tag}")

    if element.tag == "path":
        yield from path_rings(element.get("d"))
    elif element.tag == "polygon":
        values = [number(value, "points of a polygon") for value in _NUMBER.findall(element.get("points"))]
        yield [*zip(values[::2], values[1::2], strict=False)]
    elif element.tag == "rect":
        x, y = size("x"), size("y")
        yield rectangle(x, y, x + size("width"), y + size("height"))
    elif element.tag in {"circle", "ellipse"}:
        radii = (size("r"), size("r")) if element.tag == "circle" else (size("rx"), size("ry"))
        yield ellipse((size("cx"), size("cy")), radii)


def path_rings(path: str) -> list[Ring]:
    """Return the subpaths of a path, each closed as if it were filled.

    Parameters
    ----------
    path
        The attribute `d`.

    Returns
    -------
    list[Ring]
        Points; curves are left by at most a quarter of a pixel.

    Raises
    ------
    MalformedError
        It is no path.
    """
    pen = _Pen()
    for letter, values in _commands(path):
        pen.draw(letter, values)
    return pen.subpaths


def _commands(path: str) -> Iterator[tuple[str, list[float]]]:
    """Yield each command with as many numbers as it takes; a repeated one may leave out its letter."""
    at, letter, values = 0, "", list[float]()
    while at < len(path):
        # Flags may stand without space between them and the next number: a1 1 0 01.5.5
        is_flag = letter in {"a", "A"} and len(values) in {3, 4}
        token = (_FLAG if is_flag else _TOKEN).match(path, at)
        if token is None:
            raise MalformedError(f"its path has {path[at : at + 20]!r}")
        at = token.end()
        if is_flag:
            values.append(float(token[1]))
        elif token[1]:
            if values:
                raise MalformedError(f"its path has too few numbers before {path[at - 1 : at + 19]!r}")
            letter = token[1]
            if letter in "zZ":
                yield letter, []
        elif token[2]:
            values.append(number(token[2], "a number of a path"))
        if letter and values and len(values) == _ARGUMENTS[letter.lower()]:
            yield letter, values
            values, letter = [], {"m": "l", "M": "L"}.get(letter, letter)
        elif values and (not letter or letter in "zZ"):
            raise MalformedError("its path has numbers before a command")
    if values:
        raise MalformedError("its path ends amid a command")


class _Pen:
    """Where a path is, and what it has drawn."""

    def __init__(self) -> None:
        self.subpaths: list[Ring] = []
        self._ring: list[Point] = []  # the subpath that is being drawn, if any
        self._corners = 0
        self._at: Point = (0.0, 0.0)
        self._control: tuple[str, Point] = ("", (0.0, 0.0))

    def draw(self, letter: str, values: list[float]) -> None:
        """Follow one command."""
        kind = letter.lower()
        base = self._at if letter.islower() else (0.0, 0.0)
        if kind == "z":
            self._at = self._ring[0] if self._ring else self._at
            self._ring, self._control = [], ("", self._at)
            return
        if kind == "h":
            ends = [(base[0] + values[0], self._at[1])]
        elif kind == "v":
            ends = [(self._at[0], base[1] + values[0])]
        elif kind == "a":
            ends = [(base[0] + values[5], base[1] + values[6])]
        else:
            ends = [(base[0] + x, base[1] + y) for x, y in zip(values[::2], values[1::2], strict=True)]
        if not all(abs(x) <= FARTHEST and abs(y) <= FARTHEST for x, y in ends):
            raise MalformedError("its path leaves all slides")
        if kind == "m" or not self._ring:
            self._ring = [self._at] if kind != "m" else []
            self.subpaths.append(self._ring)
        before = len(self._ring)
        if kind in "st":  # the control point is the mirror image of the last one
            like, (x, y) = self._control
            ends = [(2 * self._at[0] - x, 2 * self._at[1] - y) if like == kind else self._at, *ends]
        if kind == "a":
            radii, angle, flags = (values[0], values[1]), math.radians(values[2]), (bool(values[3]), bool(values[4]))
            self._ring += map(tuple, arc(self._at, radii, angle, flags, ends[0]).tolist())
        elif len(ends) > 1:
            self._ring += map(tuple, bezier(self._at, *ends).tolist())
        else:
            self._ring.append(ends[0])
        self._corners += len(self._ring) - before
        check_corners(self._corners)
        follows = {"c": "s", "s": "s", "q": "t", "t": "t"}.get(kind, "")
        self._control = (follows, ends[-2] if follows else ends[-1])
        self._at = ends[-1]
