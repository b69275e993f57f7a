"""What the directories of a tiled TIFF say, read without touching a pixel.

Classic TIFF and BigTIFF in either byte order (Adobe, TIFF 6.0, 1992; Aware Systems, BigTIFF). Pages without tiles, as
the thumbnail, label and macro image of Aperio slides, are passed over: nothing of them is kept.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Read = Callable[[int, int], bytes]
    """Reads a number of bytes at an offset of a file; fewer, where it ends."""

    Tags = dict[int, NDArray[np.int64]]

_MOST_PAGES = 512
"""More directories than any slide has: a chain that does not end."""

_INTEGERS = {1: "u1", 3: "u2", 4: "u4", 7: "u1", 13: "u4", 16: "u8", 18: "u8"}
"""Types of the tags that are read: BYTE, SHORT, LONG, UNDEFINED, IFD, LONG8 and IFD8."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 259, 262, 274
_SAMPLES, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _OFFSETS, _LENGTHS, _TABLES = 277, 284, 322, 323, 324, 325, 347
_READ = {
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT,
    _OFFSETS, _LENGTHS, _TABLES,
}  # fmt: skip

_JPEG, _RGB, _YCBCR = 7, 2, 6


class TiffError(ValueError):
    """Not a TIFF whose directories can be followed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TiffPage:
    """One tiled image of a TIFF.

    Attributes
    ----------
    size
        Width and height.
    tile
        Width and height of a tile.
    offsets, lengths
        Where each tile's bytes lie, row by row; a length of 0 is a missing tile.
    tables
        What the JPEG streams of all tiles have in common; empty without.
    ycbcr
        Whether the stored colours are YCbCr, rather than RGB.
    jpeg
        Whether each tile is a JPEG stream of three 8-bit channels together, upright and in YCbCr or RGB.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    tables: bytes
    ycbcr: bool
    jpeg: bool

    @property
    def grid(self) -> tuple[int, int]:
        """Columns and rows of tiles."""
        return -(-self.size[0] // self.tile[0]), -(-self.size[1] // self.tile[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """How a kind of TIFF writes numbers: `struct` formats, and the type of a directory's entries."""

    order: str
    count: str
    offset: str

    @property
    def entry(self) -> np.dtype[np.void]:
        """Return tag, type, number of values, and the values or their offset."""
        inline = struct.calcsize(self.offset)
        fields = [("tag", "u2"), ("type", "u2"), ("count", f"u{inline}"), ("value", f"V{inline}")]
        return np.dtype([(name, kind if kind[0] == "V" else self.order + kind) for name, kind in fields])


def read_pages(read: Read) -> tuple[TiffPage, ...]:
    """Return the tiled pages of a TIFF in the order of its chain of directories.

    Raises
    ------
    TiffError
        The file is no TIFF, or its directories are damaged or cut short.
    """
    layout, at = _header(read)
    pages, seen = list[TiffPage](), set[int]()
    while at:
        if at in seen or len(seen) == _MOST_PAGES:
            raise TiffError("the chain of directories does not end")
        seen.add(at)
        tags, at = _directory(read, layout, at)
        if _TILE_WIDTH in tags:
            pages.append(_page(tags))
    return tuple(pages)


def _header(read: Read) -> tuple[_Layout, int]:
    start = read(0, 16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None:
        raise TiffError("no byte order")
    version = _number(start[2:4], f"{order}H")
    if version == 42:  # noqa: PLR2004 - the answer of TIFF
        return _Layout(order=order, count=f"{order}H", offset=f"{order}I"), _number(start[4:8], f"{order}I")
    if version == 43 and start[4:8] == struct.pack(f"{order}HH", 8, 0):  # noqa: PLR2004 - BigTIFF
        return _Layout(order=order, count=f"{order}Q", offset=f"{order}Q"), _number(start[8:16], f"{order}Q")
    raise TiffError(f"version {version}")


def _number(content: bytes, form: str) -> int:
    if len(content) != struct.calcsize(form):
        raise TiffError("cut short")
    return int(struct.unpack(form, content)[0])


def _directory(read: Read, layout: _Layout, at: int) -> tuple[Tags, int]:
    """Return the tags of a directory that are of use, and where the next directory is."""
    first, last = struct.calcsize(layout.count), struct.calcsize(layout.offset)
    count = _number(read(at, first), layout.count)
    length = count * layout.entry.itemsize
    content = read(at + first, length + last)
    following = _number(content[length:], layout.offset)
    entries = np.frombuffer(content, layout.entry, count)
    known = (entry for entry in entries if int(entry["tag"]) in _READ)
    return {int(entry["tag"]): _values(read, layout, entry) for entry in known}, following


def _values(read: Read, layout: _Layout, entry: np.void) -> NDArray[np.int64]:
    kind = _INTEGERS.get(int(entry["type"]))
    if kind is None:
        raise TiffError(f"tag {entry['tag']} is no number")
    dtype, content = np.dtype(layout.order + kind), entry["value"].tobytes()
    length = int(entry["count"]) * dtype.itemsize
    if length > len(content):
        content = read(_number(content, layout.offset), length)
    if len(content) < length:
        raise TiffError("cut short")
    return np.frombuffer(content, dtype, int(entry["count"])).astype(np.int64)


def _page(tags: Tags) -> TiffPage:
    def one(tag: int, default: int = 0) -> int:
        return int(tags[tag][0]) if tag in tags and len(tags[tag]) else default

    page = TiffPage(
        size=(one(_WIDTH), one(_HEIGHT)),
        tile=(one(_TILE_WIDTH), one(_TILE_HEIGHT)),
        offsets=tags.get(_OFFSETS, np.empty(0, np.int64)),
        lengths=tags.get(_LENGTHS, np.empty(0, np.int64)),
        tables=tags[_TABLES].astype(np.uint8).tobytes() if _TABLES in tags else b"",
        ycbcr=one(_PHOTOMETRIC) == _YCBCR,
        jpeg=(one(_COMPRESSION, 1), one(_SAMPLES, 1), one(_PLANAR, 1), one(_ORIENTATION, 1)) == (_JPEG, 3, 1, 1)
        and one(_PHOTOMETRIC) in {_RGB, _YCBCR}
        and tags.get(_BITS, np.ones(1)).tolist() == [8, 8, 8],
    )
    if min(*page.size, *page.tile) < 1 or not len(page.offsets) == len(page.lengths) == page.grid[0] * page.grid[1]:
        raise TiffError("a page whose tiles do not cover it")
    return page
