"""Well-known text and well-known binary as rings (OGC 06-103r4, and EWKB's flags).

GEOS reads both by recursion, and a geometry nested a hundred thousand times overflows its stack: how deep they are is
looked at first, and binary is read here.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from vitrail.slides.outlines.features import MOST_CORNERS, MalformedError, check_corners

if TYPE_CHECKING:
    from vitrail.slides.outlines.features import Ring

_DEEPEST = 16
_POINT, _LINE, _POLYGON, _LAST = 1, 2, 3, 7
_EWKB_Z, _EWKB_M, _EWKB_SRID = 0x80000000, 0x40000000, 0x20000000


def wkt_polygons(wkt: Any, height: int) -> list[list[Ring]]:
    """Return the polygons of a WKT.

    Parameters
    ----------
    wkt
        Its text.
    height
        Of the image, about which y is turned.

    Returns
    -------
    list[list[Ring]]
        Of each the outer ring and its holes.

    Raises
    ------
    MalformedError
        It is no WKT.
    """
    if not isinstance(wkt, str):
        raise MalformedError(f"a location is {str(wkt)[:40]!r}, not WKT")
    letters = np.frombuffer(wkt.encode("utf-8", "replace"), np.uint8)
    depth = np.cumsum((letters == ord("(")).astype(np.int64) - (letters == ord(")")))
    try:
        if depth.max(initial=0) > _DEEPEST:
            raise MalformedError(f"a location is nested deeper than {_DEEPEST}")
        geometry = shapely.force_2d(shapely.from_wkt(wkt))
    except shapely.errors.ShapelyError as error:
        raise MalformedError(f"a location is no WKT ({str(error)[:80]})") from error
    return wkb_polygons(shapely.to_wkb(shapely.transform(geometry, lambda xy: xy * (1, -1) + (0, height))))


def wkb_polygons(wkb: bytes | None) -> list[list[Ring]]:
    """Return the polygons of a WKB, however deep in collections; points and lines have none.

    Parameters
    ----------
    wkb
        Its bytes; None is nothing.

    Returns
    -------
    list[list[Ring]]
        Of each the outer ring and its holes.

    Raises
    ------
    MalformedError
        It is no WKB.
    """
    reader = _Reader(wkb or b"")
    if wkb:
        try:
            reader.geometry(0)
        except struct.error as error:
            raise MalformedError("a geometry is cut short") from error
    return [rings for rings in reader.polygons if rings]


class _Reader:
    """Where a WKB is read, and its polygons so far."""

    def __init__(self, wkb: bytes) -> None:
        self.polygons: list[list[Ring]] = []
        self._wkb = wkb
        self._at = 0
        self._order = "<"
        self._corners = 0

    def geometry(self, depth: int) -> None:
        """Read a geometry and those within it."""
        if depth > _DEEPEST:
            raise MalformedError(f"a geometry is nested deeper than {_DEEPEST}")
        self._order = "<" if self._next("B") == 1 else ">"
        code = self._next("I")
        flags = code & (_EWKB_Z | _EWKB_M | _EWKB_SRID)
        if flags & _EWKB_SRID:
            self._next("I")
        kind, more = code & 0xFFFF, code >> 16 & 0x1FFF
        extra = (0, 1, 1, 2)[kind // 1000] if kind < 4000 else 4
        kind %= 1000
        if more or extra > 2 or not _POINT <= kind <= _LAST:
            raise MalformedError(f"a geometry has the type {code}, which is none of simple features")
        axes = 2 + extra + bool(flags & _EWKB_Z) + bool(flags & _EWKB_M)
        if kind == _POINT:
            self._points(1, axes)
        elif kind == _LINE:
            self._points(self._next("I"), axes)
        elif kind == _POLYGON:
            rings = [self._points(self._next("I"), axes) for _ in range(self._count())]
            self.polygons.append([ring for ring in rings if len(ring)])
        else:
            for _ in range(self._count()):
                self.geometry(depth + 1)

    def _next(self, form: str) -> int:
        (value,) = struct.unpack_from(self._order + form, self._wkb, self._at)
        self._at += struct.calcsize(self._order + form)
        return int(value)

    def _count(self) -> int:
        count = self._next("I")
        if count > MOST_CORNERS:
            raise MalformedError("a geometry has more parts than bytes")
        return count

    def _points(self, count: int, axes: int) -> Ring:
        """Return x and y of points; whatever else they have is passed over."""
        self._corners += count
        check_corners(self._corners)
        if self._at + 8 * count * axes > len(self._wkb):
            raise MalformedError("a geometry is cut short")
        numbers = np.frombuffer(self._wkb, f"{self._order}f8", count * axes, self._at)
        self._at += 8 * count * axes
        return numbers.reshape(count, axes)[:, :2].astype(np.float64)
