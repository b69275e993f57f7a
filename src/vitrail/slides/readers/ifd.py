"""What the directories of a tiled TIFF say, read without touching a pixel, and whether it can be true.

Classic TIFF and BigTIFF in either byte order (Adobe, TIFF 6.0, 1992; Aware Systems, BigTIFF). Pages without tiles, as
the thumbnail, label and macro image of Aperio slides, are passed over: nothing of them is kept. OME-TIFF hides the
levels of a pyramid in tag 330 of the image that they reduce (OME-TIFF specification 6); only the first image is asked.

A file may claim anything. Whatever is read from it is held against its length and the limits below before memory is
asked for, also on behalf of OpenSlide, which ends the whole process where it does not get it.
"""

from __future__ import annotations

import math
import os
import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from vitrail.errors import SlideError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    Read = Callable[[int, int], bytes]
    """Reads a number of bytes at an offset of a file; fewer, where it ends."""

    Tags = dict[int, NDArray[np.int64]]

    Coding = Literal["jpeg", "jpeg2000"]

_MOST_PAGES = 4096
"""More directories than any slide has: a chain that does not end."""

_MOST_REDUCTIONS = 64
"""Of a page: each is smaller than the one before."""

_MOST_ENTRIES = 1 << 16
"""Of a directory."""

_MOST_VALUES = 1 << 24
"""Of all directories together: places and lengths of eight million tiles."""

MOST_TILE_PX = 1 << 26
"""Pixels of a tile: 8,192 squared."""

_MOST_STREAM_BYTES = 1 << 28
"""Of a compressed tile: what the largest takes uncompressed."""

_INTEGERS = {
    1: "u1", 3: "u2", 4: "u4", 7: "u1", 13: "u4", 16: "u8", 18: "u8",
    6: "i1", 8: "i2", 9: "i4", 17: "i8",
}  # fmt: skip
"""Types of the tags that are read: BYTE, SHORT, LONG, UNDEFINED, IFD, LONG8 and IFD8; and those with a sign, since
libtiff reads them in the place of the others."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 259, 262, 274
_SAMPLES, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _OFFSETS, _LENGTHS, _TABLES = 277, 284, 322, 323, 324, 325, 347
_KIND, _REDUCTIONS = 254, 330
_NDPI = 65420
"""Marks Hamamatsu's files, which are no true TIFFs: their offsets have 64 bits. They hold no tiles."""

_READ = {
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT,
    _OFFSETS, _LENGTHS, _TABLES, _KIND, _REDUCTIONS,
}  # fmt: skip

_JPEG, _RGB, _YCBCR = 7, 2, 6
_APERIO_YCBCR, _APERIO_RGB = 33003, 33005
_MASK = 4
"""A bit of the kind of page: it says where another is transparent."""


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
    coding
        How tiles of three 8-bit channels together, upright and in YCbCr or RGB, are compressed; None if otherwise.
    reductions
        Of the first page of a file: the tiled pages that it calls its reductions, as the file has them.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    tables: bytes
    ycbcr: bool
    coding: Coding | None
    reductions: tuple[TiffPage, ...] = ()

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
    pages, first = list[TiffPage](), at
    for place, tags in _chain(read, layout, at, _READ):
        if _TILE_WIDTH in tags:
            page = _page(tags)
            pages.append(replace(page, reductions=_reductions(read, layout, tags)) if place == first else page)
    return tuple(pages)


def check_claims(path: Path) -> None:
    """Make sure that OpenSlide can be handed a file; one that is no TIFF is left to it.

    Raises
    ------
    SlideError
        It is a TIFF, and its directories are damaged, or one of its tiles cannot be true or held in memory.
    """
    with path.open("rb", buffering=0) as file:
        try:
            _check_tiles(path, file)
        except TiffError as error:
            problem = f"not a slide, or cut short (its TIFF directories: {error})"
            cure = "Check that the copy is complete, or convert it to a tiled pyramidal TIFF"
            raise SlideError(path, problem, cure) from error


def check_tile(path: Path, width: int, height: int) -> None:
    """Refuse a tile that would not fit in memory.

    Raises
    ------
    SlideError
        If it would not.
    """
    if not 0 <= width * height <= MOST_TILE_PX or min(width, height) < 0:
        problem = f"its tiles claim {width:,} x {height:,} pixels, and more than {MOST_TILE_PX:,} are not read"
        raise SlideError(path, problem, "The file is damaged: copy it again from its source, or convert it")


def read_bytes(file: BinaryIO, offset: int, length: int) -> bytes:
    """Return the bytes at an offset; fewer, where the file ends, whatever is asked for."""
    left = os.fstat(file.fileno()).st_size - offset
    if offset < 0 or min(left, length) <= 0:
        return b""
    file.seek(offset)
    return file.read(min(left, length)) or b""


def _check_tiles(path: Path, file: BinaryIO) -> None:
    def read(offset: int, length: int) -> bytes:
        return read_bytes(file, offset, length)

    try:
        layout, at = _header(read)
    except TiffError:
        return  # not a TIFF
    if layout.order == "<" and _is_ndpi(read):
        return
    most = min(_MOST_STREAM_BYTES, os.fstat(file.fileno()).st_size)
    for _, tags in _chain(read, layout, at, {_TILE_WIDTH, _TILE_HEIGHT, _LENGTHS}):
        check_tile(path, _one(tags, _TILE_WIDTH), _one(tags, _TILE_HEIGHT))
        lengths = tags.get(_LENGTHS, np.empty(0, np.int64))
        wrong = lengths[(lengths < 0) | (lengths > most)]
        if len(wrong) and _TILE_WIDTH in tags:
            problem = f"a tile claims {int(wrong[0]) % (1 << 64):,} bytes, where {most:,} are possible"
            raise SlideError(path, problem, "The file is damaged or cut short: copy it again from its source")


def _is_ndpi(read: Read) -> bool:
    """Tell a file of Hamamatsu's by its mark, read as its own offsets are."""
    form = _Layout(order="<", count="<H", offset="<I")
    try:
        return _NDPI in _directory(read, form, _number(read(4, 8), "<Q"), {_NDPI})[0]
    except TiffError:
        return False


def _chain(read: Read, layout: _Layout, at: int, wanted: set[int]) -> Iterator[tuple[int, Tags]]:
    """Yield where each directory is, and its tags that are wanted; a file's are bounded in number."""
    seen, values = set[int](), 0
    while at:
        if at in seen or len(seen) == _MOST_PAGES:
            raise TiffError("the chain of directories does not end")
        seen.add(at)
        tags, following = _directory(read, layout, at, wanted)
        values += sum(len(tag) for tag in tags.values())
        if values > _MOST_VALUES:
            raise TiffError("more tiles than any slide has")
        yield at, tags
        at = following


def _reductions(read: Read, layout: _Layout, tags: Tags) -> tuple[TiffPage, ...]:
    """Return the pages below a page; a damaged one is passed over, since the page does without."""
    pages, values = list[TiffPage](), 0
    for at in tags.get(_REDUCTIONS, np.empty(0, np.int64))[:_MOST_REDUCTIONS].tolist():
        with suppress(TiffError):
            own, _ = _directory(read, layout, at, _READ)
            values += sum(len(tag) for tag in own.values())
            if values > _MOST_VALUES:
                break
            if _TILE_WIDTH in own and not _one(own, _KIND) & _MASK:
                pages.append(_page(own))
    return tuple(pages)


def _header(read: Read) -> tuple[_Layout, int]:
    start = read(0, 16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None:
        raise TiffError("no byte order")
    version = _number(start[2:4], f"{order}H")
    if version == 42:
        return _Layout(order=order, count=f"{order}H", offset=f"{order}I"), _number(start[4:8], f"{order}I")
    if version == 43 and start[4:8] == struct.pack(f"{order}HH", 8, 0):
        return _Layout(order=order, count=f"{order}Q", offset=f"{order}Q"), _number(start[8:16], f"{order}Q")
    raise TiffError(f"version {version}")


def _number(content: bytes, form: str) -> int:
    if len(content) != struct.calcsize(form):
        raise TiffError("cut short")
    return int(struct.unpack(form, content)[0])


def _directory(read: Read, layout: _Layout, at: int, wanted: set[int]) -> tuple[Tags, int]:
    """Return the tags of a directory that are wanted, and where the next directory is."""
    first, last = struct.calcsize(layout.count), struct.calcsize(layout.offset)
    count = _number(read(at, first), layout.count)
    if count > _MOST_ENTRIES:
        raise TiffError(f"a directory of {count} entries")
    length = count * layout.entry.itemsize
    content = read(at + first, length + last)
    following = _number(content[length:], layout.offset)
    entries = np.frombuffer(content, layout.entry, count)
    tags: Tags = {}
    for entry in entries[np.isin(entries["tag"], list(wanted))]:
        if int(entry["tag"]) in tags:
            raise TiffError(f"tag {entry['tag']} is there twice")
        tags[int(entry["tag"])] = _values(read, layout, entry)
    return tags, following


def _values(read: Read, layout: _Layout, entry: np.void) -> NDArray[np.int64]:
    kind = _INTEGERS.get(int(entry["type"]))
    if kind is None:
        raise TiffError(f"tag {entry['tag']} is no number")
    dtype, content = np.dtype(layout.order + kind), entry["value"].tobytes()
    length = int(entry["count"]) * dtype.itemsize
    if int(entry["count"]) > _MOST_VALUES:
        raise TiffError(f"tag {entry['tag']} has {entry['count']} values")
    if length > len(content):
        content = read(_number(content, layout.offset), length)
    if len(content) < length:
        raise TiffError("cut short")
    return np.frombuffer(content, dtype, int(entry["count"])).astype(np.int64)


def _one(tags: Tags, tag: int, default: int = 0) -> int:
    return int(tags[tag][0]) if tag in tags and len(tags[tag]) else default


def _page(tags: Tags) -> TiffPage:
    page = TiffPage(
        size=(_one(tags, _WIDTH), _one(tags, _HEIGHT)),
        tile=(_one(tags, _TILE_WIDTH), _one(tags, _TILE_HEIGHT)),
        offsets=tags.get(_OFFSETS, np.empty(0, np.int64)),
        lengths=tags.get(_LENGTHS, np.empty(0, np.int64)),
        tables=tags[_TABLES].astype(np.uint8).tobytes() if _TABLES in tags else b"",
        ycbcr=_stores_ycbcr(tags),
        coding=_coding(tags),
    )
    if math.prod(page.tile) > MOST_TILE_PX:
        raise TiffError("a tile that would not fit in memory")
    if min(*page.size, *page.tile) < 1 or not len(page.offsets) == len(page.lengths) == page.grid[0] * page.grid[1]:
        raise TiffError("a page whose tiles do not cover it")
    return page


def _coding(tags: Tags) -> Coding | None:
    plain = (_one(tags, _SAMPLES, 1), _one(tags, _PLANAR, 1), _one(tags, _ORIENTATION, 1)) == (3, 1, 1)
    if not plain or tags.get(_BITS, np.ones(1)).tolist() != [8, 8, 8]:
        return None
    compression = _one(tags, _COMPRESSION, 1)
    if compression in {_APERIO_YCBCR, _APERIO_RGB}:
        return "jpeg2000"
    return "jpeg" if compression == _JPEG and _one(tags, _PHOTOMETRIC) in {_RGB, _YCBCR} else None


def _stores_ycbcr(tags: Tags) -> bool:
    """Aperio's JPEG 2000 says so by its number, whatever the tag for colours says."""
    compression = _one(tags, _COMPRESSION, 1)
    return compression == _APERIO_YCBCR or (compression != _APERIO_RGB and _one(tags, _PHOTOMETRIC) == _YCBCR)
