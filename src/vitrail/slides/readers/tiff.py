"""Tiled JPEG and JPEG 2000 slides, decoded from the file's own tiles and reduced while they are decoded.

Aperio's SVS and generic tiled TIFF hold one compressed stream a tile, which can be decoded to 1/2, 1/4 or 1/8 of its
size at a fraction of the cost. At full size the pixels are those of OpenSlide, which decodes with the same libraries.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from vitrail.core.threads import in_threads
from vitrail.errors import SlideError
from vitrail.geometry import cut_at_tiles
from vitrail.slides.readers.codecs import decoder_of
from vitrail.slides.readers.ifd import TiffError, TiffPage, read_bytes, read_pages
from vitrail.slides.readers.openslide import OpenSlideReader, level_sizes
from vitrail.slides.readers.resample import area_resample

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    _Cut = tuple[tuple[int, int], tuple[slice, slice], tuple[slice, slice]]
    """A cell of a grid of tiles, where its pixels go in a region, and which of its own they are."""

_WHITE = 255
_CACHE_BYTES = 32 << 20
"""Of decoded tiles kept for each open slide: neighbouring regions share those on their border."""

_FEWEST_SHARED = 4
"""Tiles that threads share: fewer are decoded in the time that it takes to wake another thread twice."""

_APERIO, _GENERIC = "aperio", "generic-tiff"
"""Formats of OpenSlide whose levels are plain grids of tiles."""

_LEAST_PX = 1e-3  # so that one pixel may be left of any number


def open_tiff(path: Path) -> TiffReader | None:
    """Open a slide if it is one whose tiles can be decoded here.

    Parameters
    ----------
    path
        The slide.

    Returns
    -------
    TiffReader | None
        None if OpenSlide has to read it.

    Raises
    ------
    SlideError
        It cannot be opened.
    """
    vendor, sizes = level_sizes(path)
    if vendor not in {_APERIO, _GENERIC}:
        return None
    file = _File(path)
    try:
        pages = read_pages(file.read)
    except (TiffError, OSError):
        return None
    decoded = [page for page in pages if decoder_of(page, file.read)]
    by_level = [[page for page in pages if page.size == size] for size in sizes]
    levels = [fit[0] for fit in by_level if len(fit) == 1 and fit[0] in decoded]
    if vendor == _APERIO and not all(page.lengths.all() for page in levels):
        return None  # OpenSlide fills holes of Aperio's levels from the level before
    if len(levels) < len(sizes) or len({page.coding for page in levels}) > 1:
        return None
    if vendor == _GENERIC and len(levels) == 1:
        # The pyramid that a page hides from OpenSlide. Only what can be nothing but a reduction of the page counts:
        # labels and macro images are of other shapes.
        full = levels[0]
        fit = [page for page in full.reductions if page.coding == full.coding and _is_reduced(full.size, page.size)]
        below = {page.size: page for page in fit if page.lengths.all() and decoder_of(page, file.read)}
        levels += [below[size] for size in sorted(below, reverse=True)]
    return TiffReader(path, file, tuple(levels))


def _is_reduced(full: tuple[int, int], size: tuple[int, int]) -> bool:
    """Tell whether an image of a size may be another, smaller, if sides are rounded to whole pixels up or down."""
    least = max(side / (part + 1) for side, part in zip(full, size, strict=True))
    most = min(side / max(part - 1, _LEAST_PX) for side, part in zip(full, size, strict=True))
    return all(part < side for side, part in zip(full, size, strict=True)) and least < most


class _File:
    """Bytes of a file, for any number of threads; closed when nothing refers to it any more."""

    def __init__(self, path: Path) -> None:
        self._lock, self._file = threading.Lock(), path.open("rb", buffering=0)
        self._length = os.fstat(self._file.fileno()).st_size
        weakref.finalize(self, self._file.close)

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes at an offset; fewer, where the file ends."""
        length = min(length, self._length - offset)
        if offset < 0 or length <= 0:
            return b""
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), length, offset)
        with self._lock:  # Windows has a place in the file only, which all threads share
            return read_bytes(self._file, offset, length)


class _Recent:
    """The tiles used last, up to a number of bytes; each is decoded by one of the threads that want it.

    Parameters
    ----------
    most_bytes
        How many.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most, self._bytes = most_bytes, 0
        self._changed = threading.Condition(threading.Lock())
        self._held: OrderedDict[Hashable, Pixels] = OrderedDict()
        self._claimed: set[Hashable] = set()

    def get(self, key: Hashable) -> Pixels | None:
        """Return a tile, or None."""
        with self._changed:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def claim(self, key: Hashable, *, wait: bool) -> bool:
        """Say that this thread will decode a tile, and `release` it; False if it is there, or another is at it.

        Parameters
        ----------
        key
            Which tile.
        wait
            Whether to wait until no other thread is at it.
        """
        with self._changed:
            while wait and key in self._claimed:
                self._changed.wait()
            if key in self._held or key in self._claimed:
                return False
            self._claimed.add(key)
            return True

    def release(self, key: Hashable, pixels: Pixels | None) -> None:
        """Keep a tile that was claimed, unless it is None, and let go of those that were not used for longest."""
        with self._changed:
            self._claimed.discard(key)
            self._changed.notify_all()
            if pixels is None:
                return
            self._held[key] = pixels
            self._bytes += pixels.nbytes
            while self._bytes > self._most:
                self._bytes -= self._held.popitem(last=False)[1].nbytes


class TiffReader:
    """Reads tiled JPEG or JPEG 2000 slides, as a `LevelReader` that can reduce.

    Parameters
    ----------
    path
        The slide.
    file
        Its bytes.
    levels
        The page of each level; all are of one coding, which `decoder_of` knows.
    """

    def __init__(self, path: Path, file: _File, levels: tuple[TiffPage, ...]) -> None:
        self._path, self._file, self._levels = path, file, levels
        self._recent = _Recent(_CACHE_BYTES)
        decoders = (decoder_of(page, file.read) for page in levels)
        self._decoders = tuple(decoder for decoder in decoders if decoder)
        self.reductions = min((decoder.reductions for decoder in self._decoders), key=len)
        self.centred = self._decoders[0].centred

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Width and height of each level."""
        return tuple(page.size for page in self._levels)

    def read(self, level: int, origin: tuple[int, int], size: tuple[int, int], scale: int = 1) -> Pixels:
        """Read a rectangle; see `LevelReader.read`."""
        page, shape = self._levels[level], (size[1], size[0], 3)
        (x, y), (right, bottom) = origin, (-(-length // scale) for length in page.size)
        columns = cut_at_tiles(x, x + size[0], page.tile[0] // scale, right)
        rows = cut_at_tiles(y, y + size[1], page.tile[1] // scale, bottom)
        inside = x >= 0 and y >= 0 and x + size[0] <= right and y + size[1] <= bottom
        pixels = np.empty(shape, np.uint8) if inside else np.full(shape, _WHITE, np.uint8)
        missing: list[_Cut] = []
        for (column, at_x, from_x), (row, at_y, from_y) in product(columns, rows):
            tile = self._recent.get((level, (column, row), scale))
            if tile is None:
                missing.append(((column, row), (at_y, at_x), (from_y, from_x)))
            else:
                pixels[at_y, at_x] = tile[from_y, from_x]

        def fill(cut: _Cut, *, wait: bool = False) -> _Cut | None:
            cell, at, source = cut
            tile = self._tile(level, cell, scale, wait=wait)
            if tile is None:
                return cut
            pixels[at] = tile[source]
            return None

        begun = in_threads(fill, missing) if len(missing) >= _FEWEST_SHARED else map(fill, missing)
        for cut in [cut for cut in begun if cut]:  # another region's: this one's own come first
            fill(cut, wait=True)
        return pixels

    def _tile(self, level: int, cell: tuple[int, int], scale: int, *, wait: bool) -> Pixels | None:
        """Return a tile; None if another thread is decoding it, and it is not to be waited for."""
        key = level, cell, scale
        while (pixels := self._recent.get(key)) is None:
            if self._recent.claim(key, wait=wait):
                try:
                    pixels = self._new_tile(level, cell, scale)
                finally:
                    self._recent.release(key, pixels)
                return pixels
            if not wait:
                return None
        return pixels

    def _new_tile(self, level: int, cell: tuple[int, int], scale: int) -> Pixels:
        page = self._levels[level]
        across, down = (size - at * side for size, at, side in zip(page.size, cell, page.tile, strict=True))
        if scale == 1 or (across >= page.tile[0] and down >= page.tile[1]):
            pixels = self._decoded(level, cell, scale)
        else:  # it juts out over the edge; what lies beyond must not leak into reduced pixels
            full = self._decoded(level, cell, 1).copy()
            full[down:], full[:, across:] = _WHITE, _WHITE
            pixels = self._reduced(full, scale)
        return pixels

    def _decoded(self, level: int, cell: tuple[int, int], scale: int) -> Pixels:
        """Decode a tile's stream; one that is not flawless is left to OpenSlide, which knows what to forgive."""
        page = self._levels[level]
        index = cell[1] * page.grid[0] + cell[0]
        size = page.tile[0] // scale, page.tile[1] // scale
        length = int(page.lengths[index])
        if length == 0:
            return np.full((size[1], size[0], 3), _WHITE, np.uint8)
        stream = self._file.read(int(page.offsets[index]), length)
        pixels = self._decoders[level].decode(stream, size, scale)
        if pixels is not None:
            return pixels
        slide, corner = OpenSlideReader(self._path), (cell[0] * page.tile[0], cell[1] * page.tile[1])
        if level >= slide.level_count:
            problem = f"cannot be read at x {corner[0]}, y {corner[1]} of level {level} (a damaged tile)"
            raise SlideError(self._path, problem, 'Copy it again from its source, or set slides.reading = "faithful"')
        return self._reduced(slide.read(level, corner, page.tile), scale)

    def _reduced(self, pixels: Pixels, scale: int) -> Pixels:
        """Average squares of scale by scale pixels, where the decoder's reduced pixels lie."""
        height, width, channels = pixels.shape
        size = width // scale, height // scale
        if scale == 1:
            return pixels
        if self.centred:
            squares = pixels.reshape(size[1], scale, size[0], scale, channels)
            total = squares.sum(axis=(1, 3), dtype=np.uint32)
            return np.asarray((total + scale * scale // 2) // (scale * scale), dtype=np.uint8)  # halves are rounded up
        # Around the first pixel of each square; the edge is repeated.
        margin = scale // 2
        wider = np.pad(pixels, ((margin, 0), (margin, 0), (0, 0)), mode="edge")
        return area_resample(wider, (0.5, 0.5, width + 0.5, height + 0.5), size)
