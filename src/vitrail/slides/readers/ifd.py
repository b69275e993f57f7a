"""What the directories of a tiled TIFF say, read without touching a pixel, and whether it can be true.

Classic TIFF and BigTIFF in either byte order (Adobe, TIFF 6.0, 1992; Aware Systems, BigTIFF). Pages without tiles, as
the thumbnail, label and macro image of Aperio slides, are passed over: nothing of them is kept. OME-TIFF hides the
levels of a pyramid in tag 330 of the image that they reduce (OME-TIFF specification 6); only the first image is asked.

A file may claim anything. Whatever is read from it is held against its length and the limits below before memory is
asked for, also on behalf of OpenSlide, which ends the whole process where it does not get it.

tifffile would read directories, too, but cannot be bounded: it turns every tag of every page into Python numbers as
soon as it meets it. A slide of 184,000 tiles takes it 60 ms and 184 MiB (here 7 ms and 5 MiB); a damaged count in a
slide of 6 GiB, 89 s and 8.4 GiB (here 3 ms and one line). Tags that are damaged it leaves out, where
OpenSlide reads them. And of pages that it does not understand, it reads the beginning of the pixels: of a label, too.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
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

_NONE = np.empty(0, np.int64)
"""The values of a tag that is not there."""

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


def read_pages(read: Read) -> tuple[TiffPage, ...]:
    """Return the tiled pages of a TIFF in the order of its chain of directories.

    Parameters
    ----------
    read
        Reads the bytes of the file.

    Returns
    -------
    tuple[TiffPage, ...]
        Pages without tiles are left out.

    Raises
    ------
    TiffError
        The file is no TIFF, or its directories are damaged or cut short.
    """
    directories = _Directories(read)
    pages = list[TiffPage]()
    for at, tags in directories.chain(_READ):
        if _TILE_WIDTH not in tags:
            continue
        page, reductions, values = _page(tags), list[TiffPage](), 0
        if at == directories.first:
            for below in tags.get(_REDUCTIONS, _NONE)[:_MOST_REDUCTIONS].tolist():
                with suppress(TiffError):  # a damaged one is passed over, since the page does without
                    own, _ = directories.read(below, _READ)
                    values += sum(map(len, own.values()))
                    if values > _MOST_VALUES:
                        break
                    if _TILE_WIDTH in own and not own.first(_KIND) & _MASK:
                        reductions.append(_page(own))
        pages.append(replace(page, reductions=tuple(reductions)))
    return tuple(pages)


def check_claims(path: Path) -> None:
    """Make sure that OpenSlide can be handed a file; one that is no TIFF is left to it.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    SlideError
        It is a TIFF, and its directories are damaged, or one of its tiles cannot be true or held in memory.
    """
    with path.open("rb", buffering=0) as file:
        try:
            directories = _Directories(partial(read_bytes, file))
        except TiffError:
            return
        if directories.are_hamamatsus():
            return
        most = min(_MOST_STREAM_BYTES, os.fstat(file.fileno()).st_size)
        try:
            for _, tags in directories.chain({_TILE_WIDTH, _TILE_HEIGHT, _LENGTHS}):
                check_tile(path, tags.first(_TILE_WIDTH), tags.first(_TILE_HEIGHT))
                lengths = tags.get(_LENGTHS, _NONE)
                wrong = lengths[(lengths < 0) | (lengths > most)]
                if len(wrong) and _TILE_WIDTH in tags:
                    problem = f"a tile claims {int(wrong[0]) % (1 << 64):,} bytes, where {most:,} are possible"
                    raise SlideError(path, problem, "The file is damaged or cut short: copy it again from its source")
        except TiffError as error:
            problem = f"not a slide, or cut short (its TIFF directories: {error})"
            cure = "Check that the copy is complete, or convert it to a tiled pyramidal TIFF"
            raise SlideError(path, problem, cure) from error


def check_tile(path: Path, width: int, height: int) -> None:
    """Refuse a tile that would not fit in memory.

    Parameters
    ----------
    path
        The slide.
    width, height
        Of a tile, as the file claims.

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


class _Tags(dict[int, "NDArray[np.int64]"]):
    """The values of each tag of a directory."""

    def first(self, tag: int, default: int = 0) -> int:
        """Return the first value of a tag, or a default where there is none."""
        return int(self[tag][0]) if tag in self and len(self[tag]) else default


class _Directories:
    """The directories of a TIFF.

    Parameters
    ----------
    read
        Reads the bytes of the file.

    Raises
    ------
    TiffError
        The file is no TIFF. Also raised by the methods, where a directory is damaged or cut short.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        orders: dict[bytes, Literal["little", "big"]] = {b"II": "little", b"MM": "big"}
        order = orders.get(read(0, 2))
        if order is None:
            raise TiffError("no byte order")
        self._order = order
        version = self._number(2, 2)
        if version == 42:
            self._count_bytes, self._offset_bytes, at = 2, 4, 4
        elif version == 43 and (self._number(4, 2), self._number(6, 2)) == (8, 0):
            self._count_bytes, self._offset_bytes, at = 8, 8, 8
        else:
            raise TiffError(f"version {version}")
        fields = [
            ("tag", "u2"),
            ("type", "u2"),
            ("count", f"u{self._offset_bytes}"),
            ("value", f"V{self._offset_bytes}"),
        ]
        self._entry = np.dtype(fields).newbyteorder(order)
        self.first = self._number(at, self._offset_bytes)

    def _number(self, at: int, length: int) -> int:
        content = self._read(at, length)
        if len(content) < length:
            raise TiffError("cut short")
        return int.from_bytes(content, self._order)

    def chain(self, wanted_tags: set[int]) -> Iterator[tuple[int, _Tags]]:
        """Yield where each directory is, and those of its tags that are asked for; a file's are bounded in number."""
        visited, values, at = set[int](), 0, self.first
        while at:
            if at in visited or len(visited) == _MOST_PAGES:
                raise TiffError("the chain of directories does not end")
            visited.add(at)
            tags, following = self.read(at, wanted_tags)
            values += sum(map(len, tags.values()))
            if values > _MOST_VALUES:
                raise TiffError("more tiles than any slide has")
            yield at, tags
            at = following

    def read(self, at: int, wanted_tags: set[int]) -> tuple[_Tags, int]:
        """Return those tags of a directory that are asked for, and where the next directory is."""
        count = self._number(at, self._count_bytes)
        if count > _MOST_ENTRIES:
            raise TiffError(f"a directory of {count} entries")
        length = count * self._entry.itemsize
        content = self._read(at + self._count_bytes, length + self._offset_bytes)
        if len(content) < length + self._offset_bytes:
            raise TiffError("cut short")
        entries = np.frombuffer(content, self._entry, count)
        tags = _Tags()
        for entry in entries[np.isin(entries["tag"], list(wanted_tags))]:
            tag, kind, values = int(entry["tag"]), _INTEGERS.get(int(entry["type"])), int(entry["count"])
            if tag in tags:
                raise TiffError(f"tag {tag} is there twice")
            if kind is None:
                raise TiffError(f"tag {tag} is no number")
            if values > _MOST_VALUES:
                raise TiffError(f"tag {tag} has {values} values")
            dtype, stored = np.dtype(kind).newbyteorder(self._order), entry["value"].tobytes()
            needed = values * dtype.itemsize
            if needed > len(stored):
                stored = self._read(int.from_bytes(stored, self._order), needed)
            if len(stored) < needed:
                raise TiffError("cut short")
            tags[tag] = np.frombuffer(stored, dtype, values).astype(np.int64)
        return tags, int.from_bytes(content[length:], self._order)

    def are_hamamatsus(self) -> bool:
        """Tell the directories of NDPI by their mark, read at the offset of 64 bits that it has; they hold no tiles."""
        if self._order == "big" or self._offset_bytes != 4:
            return False
        try:
            return _NDPI in self.read(self._number(4, 8), {_NDPI})[0]
        except TiffError:
            return False


def _page(tags: _Tags) -> TiffPage:
    """Return a page, and refuse one whose tiles cannot be true."""
    compression, photometric = tags.first(_COMPRESSION, 1), tags.first(_PHOTOMETRIC)
    coding: Coding | None = None
    plain = (tags.first(_SAMPLES, 1), tags.first(_PLANAR, 1), tags.first(_ORIENTATION, 1)) == (3, 1, 1)
    if plain and tags.get(_BITS, _NONE).tolist() == [8, 8, 8]:
        if compression in {_APERIO_YCBCR, _APERIO_RGB}:
            coding = "jpeg2000"
        elif compression == _JPEG and photometric in {_RGB, _YCBCR}:
            coding = "jpeg"
    # Aperio's JPEG 2000 says by its number what its colours are, whatever the tag for colours says.
    ycbcr = compression == _APERIO_YCBCR or (compression != _APERIO_RGB and photometric == _YCBCR)
    page = TiffPage(
        size=(tags.first(_WIDTH), tags.first(_HEIGHT)),
        tile=(tags.first(_TILE_WIDTH), tags.first(_TILE_HEIGHT)),
        offsets=tags.get(_OFFSETS, _NONE),
        lengths=tags.get(_LENGTHS, _NONE),
        tables=tags.get(_TABLES, _NONE).astype(np.uint8).tobytes(),
        ycbcr=ycbcr,
        coding=coding,
    )
    if math.prod(page.tile) > MOST_TILE_PX:
        raise TiffError("a tile that would not fit in memory")
    if min(*page.size, *page.tile) < 1 or not len(page.offsets) == len(page.lengths) == page.grid[0] * page.grid[1]:
        raise TiffError("a page whose tiles do not cover it")
    return page
