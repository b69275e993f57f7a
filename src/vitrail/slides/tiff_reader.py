"""Tiled JPEG slides, decoded from the file's own tiles and reduced while they are decoded.

Aperio's SVS and generic tiled TIFF hold one JPEG stream a tile. libjpeg-turbo can decode such a stream to 1/2, 1/4 or
1/8 of its size, each pixel being about the mean of those it stands for, at a fraction of the cost. At full size the
pixels are those of OpenSlide, which decodes with the same library.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from contextlib import suppress
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg

from vitrail.slides.openslide_reader import OpenSlideReader, level_sizes
from vitrail.slides.tiff_pages import TiffError, TiffPage, read_pages

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

_WHITE = 255
_CACHE_BYTES = 32 << 20
"""Of decoded tiles kept for each open slide: neighbouring regions share those on their border."""

_VENDORS = {"aperio", "generic-tiff"}
"""Formats of OpenSlide whose levels are plain grids of tiles."""

_SCALES = (1, 2, 4, 8)
_START, _SCAN, _FILL = b"\xff\xd8", 0xDA, 0xFF
_JFIF_MARKER, _ADOBE_MARKER, _SCAN_MARKER = b"\xff\xe0", b"\xff\xee", b"\xff\xda"
_COLOUR_MARKERS = {_JFIF_MARKER, _ADOBE_MARKER}
_HEAD = 2048
"""Bytes in which the segments before a scan end, as a rule."""
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"


def open_tiff(path: Path) -> TiffReader | None:
    """Open a slide if it is one whose tiles can be decoded here, and None if OpenSlide has to do it.

    Raises
    ------
    SlideError
        It cannot be opened.
    """
    vendor, sizes = level_sizes(path)
    if vendor not in _VENDORS:
        return None
    file = _File(path)
    try:
        pages = read_pages(file.read)
    except (TiffError, OSError):
        return None
    levels = [[page for page in pages if page.size == size] for size in sizes]
    if all(len(found) == 1 and _fits(found[0], vendor) for found in levels):
        return TiffReader(path, file, tuple(found[0] for found in levels))
    return None


def _fits(page: TiffPage, vendor: str) -> bool:
    """Tell whether every tile can be decoded; OpenSlide fills holes of Aperio's levels from the level before."""
    whole = vendor != "aperio" or bool(page.lengths.all())
    return page.jpeg and whole and all(side % _SCALES[-1] == 0 for side in page.tile)


class _File:
    """Bytes of a file, for any number of threads; closed when nothing refers to it any more."""

    def __init__(self, path: Path) -> None:
        self._lock, self._file = threading.Lock(), path.open("rb", buffering=0)
        weakref.finalize(self, self._file.close)

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes at an offset; fewer, where the file ends."""
        with self._lock:
            self._file.seek(offset)
            return self._file.read(length) or b""


class _Recent:
    """The arrays used last, up to a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._bytes = most_bytes, 0
        self._lock = threading.Lock()
        self._held: OrderedDict[Hashable, Pixels] = OrderedDict()

    def get(self, key: Hashable) -> Pixels | None:
        """Return an array, or None."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: Hashable, pixels: Pixels) -> None:
        """Keep an array, and let go of those that were not used for longest."""
        with self._lock:
            old = self._held.pop(key, None)
            self._held[key] = pixels
            self._bytes += pixels.nbytes - (0 if old is None else old.nbytes)
            while self._bytes > self._most:
                self._bytes -= self._held.popitem(last=False)[1].nbytes


class TiffReader:
    """Reads tiled JPEG slides, as a `LevelReader` that can reduce.

    Parameters
    ----------
    path
        The slide.
    file
        Its bytes.
    levels
        The page of each level.
    """

    scales = _SCALES

    def __init__(self, path: Path, file: _File, levels: tuple[TiffPage, ...]) -> None:
        self._path, self._file, self._levels = path, file, levels
        self._recent = _Recent(_CACHE_BYTES)
        self._prefixes = tuple(_prefix(page) for page in levels)

    def read(self, level: int, origin: tuple[int, int], size: tuple[int, int], scale: int = 1) -> Pixels:
        """Read a rectangle; see `LevelReader.read`."""
        page = self._levels[level]
        pixels = np.full((size[1], size[0], 3), _WHITE, np.uint8)
        sides = tuple(side // scale for side in page.tile)
        ends = tuple(-(-length // scale) for length in page.size)
        spans = [_cells(*axis) for axis in zip(origin, size, sides, ends, strict=True)]
        for (column, at_x, from_x), (row, at_y, from_y) in product(*spans):
            pixels[at_y, at_x] = self._tile(level, (column, row), scale)[from_y, from_x]
        return pixels

    def _tile(self, level: int, cell: tuple[int, int], scale: int) -> Pixels:
        key = (level, cell, scale)
        pixels = self._recent.get(key)
        if pixels is None:
            pixels = self._decoded(level, cell, scale)
            self._recent.put(key, pixels)
        return pixels

    def _decoded(self, level: int, cell: tuple[int, int], scale: int) -> Pixels:
        """Decode a tile. Where it juts out over the edge, what lies beyond must not leak into reduced pixels."""
        page = self._levels[level]
        inside = [size - at * side for size, at, side in zip(page.size, cell, page.tile, strict=True)]
        if scale == 1 or (inside[0] >= page.tile[0] and inside[1] >= page.tile[1]):
            return self._stream(level, cell, scale)
        whole = self._stream(level, cell, 1).copy()
        whole[inside[1] :], whole[:, inside[0] :] = _WHITE, _WHITE
        return _block_means(whole, scale)

    def _stream(self, level: int, cell: tuple[int, int], scale: int) -> Pixels:
        """Decode a tile's stream; one that is not flawless is left to OpenSlide, which knows what to forgive."""
        page = self._levels[level]
        index = cell[1] * page.grid[0] + cell[0]
        width, height = (side // scale for side in page.tile)
        length = int(page.lengths[index])
        if length == 0:
            return np.full((height, width, 3), _WHITE, np.uint8)
        stream = self._prefixes[level] + _without_colour_markers(self._file.read(int(page.offsets[index]), length))
        with suppress(ValueError):
            pixels = simplejpeg.decode_jpeg(stream, min_width=width, min_height=height, min_factor=scale)
            if pixels.shape == (height, width, 3):
                return np.asarray(pixels)
        corner = cell[0] * page.tile[0], cell[1] * page.tile[1]
        return _block_means(OpenSlideReader(self._path).read(level, corner, page.tile), scale)


def _cells(start: int, length: int, side: int, end: int) -> list[tuple[int, slice, slice]]:
    """Cut a span of an axis at the borders of tiles, and at the ends of the image.

    Returns
    -------
    Each tile's number, where its pixels go in the span, and which of its own they are.
    """
    low, high = max(start, 0), min(start + length, end)
    cells = []
    for number in range(low // side, -(-high // side)) if low < high else ():
        first, last = max(low, number * side), min(high, (number + 1) * side)
        cells.append((
            number, slice(first - start, last - start), slice(first - number * side, last - number * side),
        ))  # fmt: skip
    return cells


def _block_means(pixels: Pixels, scale: int) -> Pixels:
    """Average squares of scale by scale pixels; halves are rounded up."""
    height, width, channels = pixels.shape
    cut = pixels.reshape(height // scale, scale, width // scale, scale, channels)
    total = cut.sum(axis=(1, 3), dtype=np.uint32)
    return np.asarray((total + scale * scale // 2) // (scale * scale), dtype=np.uint8)


def _prefix(page: TiffPage) -> bytes:
    """Return what every stream of a page begins with: its colours as the TIFF's tag has them, and shared tables.

    Aperio stores RGB without saying so in the stream. A decoder goes by the stream's markers, so these are replaced.
    """
    tables = _without_colour_markers(page.tables).removesuffix(b"\xff\xd9")
    return _START + _ADOBE + bytes([int(page.ycbcr)]) + tables


def _without_colour_markers(stream: bytes) -> bytes:
    """Return a stream without its start, and without the JFIF and Adobe segments before its scan."""
    at = len(_START) if stream.startswith(_START) else 0
    scan = stream.find(_SCAN_MARKER, at, _HEAD)
    if scan > 0 and not any(stream.find(marker, at, scan) >= 0 for marker in _COLOUR_MARKERS):
        return stream[at:]  # as most are: a quick look saves the walk
    kept = list[bytes]()
    while at + 4 <= len(stream) and stream[at] == _FILL and stream[at + 1] != _SCAN:
        if stream[at + 1] == _FILL:
            at += 1
            continue
        following = at + 2 + int.from_bytes(stream[at + 2 : at + 4])
        if stream[at : at + 2] not in _COLOUR_MARKERS:
            kept.append(stream[at:following])
        at = following
    return b"".join([*kept, stream[at:]])
