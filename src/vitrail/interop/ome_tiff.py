"""Class probabilities of a whole slide as a pyramidal OME-TIFF.

Every class is a channel in a plane of its own. Interleaved channels would be simpler to stream, but Bio-Formats and
whoever trusts it (QuPath among them) take interleaved samples for the colours of one channel, and four of them for
RGB with transparency; planes are what QuPath itself writes for such images. Lower resolutions are SubIFDs, tiles are
compressed with Deflate over horizontal differences, and the probabilities are quantised to whole numbers. Maps of
explanations are the same, but of floats as they are: without differences, which not every reader undoes for floats.
"""

from __future__ import annotations

import hashlib
import uuid
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import imagecodecs
import numpy as np
import tifffile

from vitrail.core.files import exporting, not_written, temporary_path
from vitrail.interop.class_map import TILE_PX, MapHeader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from numpy.typing import NDArray

    from vitrail.interop.class_map import Planes

    Emit = Callable[[int, Planes], None]

_CLASSIC_LIMIT = 2**32 - 2**26
"""Beyond this many bytes of pixels the 32-bit offsets of a classic TIFF could be exceeded."""

_EFFORT = {"uint8": 6, "float32": 1}
"""Of the compression, 1 to 12. The digits of floats look like noise, on which effort is lost."""

_SLACK = 1e-3
"""Blending windows may leave this much below 0 or above 1."""


class ClassMapWriter:
    """Writes a class map from top to bottom, in a memory that does not grow with its height.

    Each level keeps a strip of `TILE_PX` rows. Full strips are compressed into a scratch file beside the result, and
    averaged down into the strip of the next level. When the block ends well the compressed tiles are copied, class by
    class as the format has it, into the file, which only then gets its name.

    Parameters
    ----------
    path
        The file, `.ome.tiff`.
    header
        What the map is.

    Raises
    ------
    ExchangeError
        The disk is full, or the file cannot be written; nothing is left of it. Also raised by the methods.
    """

    def __init__(self, path: str | Path, header: MapHeader) -> None:
        self.path, self.header = Path(path), header
        self._rows = 0

    def __enter__(self) -> Self:
        self._spool = _Spool(temporary_path(self.path, "tiles"))
        widths = [width for width, _ in self.header.levels]
        last = len(widths) - 1
        self._level = _Level(widths[last], self.header, partial(self._spool.add, last), None)
        for index in range(last - 1, -1, -1):  # each knows the next coarser one
            self._level = _Level(widths[index], self.header, partial(self._spool.add, index), self._level)
        return self

    def write_rows(self, rows: NDArray[np.floating]) -> None:
        """Append rows.

        Parameters
        ----------
        rows
            `[h, width, channels]`, probabilities; with a depth of `float32` any values, NaN where there are none.

        Raises
        ------
        ExchangeError
            The disk is full.
        ValueError
            The shape is wrong, there are more rows than the map has, or values are not from 0 to 1.
        """
        width, height = self.header.size
        if rows.ndim != 3 or rows.shape[1:] != (width, len(self.header.channels)):
            raise ValueError(f"rows of shape {rows.shape} do not fit a map of {width} pixels and its channels")
        if self._rows + len(rows) > height:
            raise ValueError(f"{self._rows + len(rows)} rows are more than the map's {height}")
        self._rows += len(rows)
        try:
            for top in range(0, len(rows), TILE_PX):  # whatever the caller hands over, copies stay small
                values = np.moveaxis(rows[top : top + TILE_PX], -1, 0)
                if self.header.depth == "float32":
                    self._level.write(values.astype(np.float32))
                    continue
                if not (values.min() >= -_SLACK and values.max() <= 1 + _SLACK):  # nor is NaN
                    raise ValueError("probabilities must lie from 0 to 1")
                scaled = np.rint(values.clip(0, 1) * np.float32(self.header.full_scale))
                self._level.write(scaled.astype(np.uint8))
        except OSError as error:
            raise not_written(self.path, error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._rows != self.header.size[1]:
                raise ValueError(f"{self._rows} rows were written of the map's {self.header.size[1]}")
            if kind is None:
                with exporting(self.path) as temporary:
                    self._level.finish()
                    self._assemble(temporary)
        finally:
            self._spool.close()

    def _assemble(self, path: Path) -> None:
        """Copy the compressed tiles into a TIFF.

        libvips (pyvips) would need the uncompressed planes one after the other, that is all of the slide before it can
        begin, and averages NaN into whatever lies beside it; it is licensed under the LGPL.
        """
        header, um = self.header, "\N{MICRO SIGN}m"
        scale = f"0 to {header.full_scale} stands for 0 to 1"
        if header.depth == "float32":
            scale = "positive values speak for tumor, negative ones against it, NaN says that nothing was looked at"
        metadata = {  # tifffile turns it into OME-XML
            "UUID": str(self._spool.identity),
            "axes": "CYX",
            "Name": header.title,
            "Description": f"{header.title} by Vitrail: {scale}. Positions are of the top left corner, from the "
            "top left corner of the slide's bounds.",
            "PhysicalSizeX": header.mpp,
            "PhysicalSizeXUnit": um,
            "PhysicalSizeY": header.mpp,
            "PhysicalSizeYUnit": um,
            "Channel": {
                "Name": [channel.name for channel in header.channels],
                # red, green, blue and full opacity in a signed 32-bit number
                "Color": [int.from_bytes(bytes((*c.rgb, 255)), "big", signed=True) for c in header.channels],
            },
            "Plane": {
                "PositionX": [0.0] * len(header.channels),
                "PositionXUnit": [um] * len(header.channels),
                "PositionY": [0.0] * len(header.channels),
                "PositionYUnit": [um] * len(header.channels),
            },
        }
        big = self._spool.bytes > _CLASSIC_LIMIT
        with tifffile.TiffWriter(path, bigtiff=big, ome=True, byteorder="<") as tif:
            for level, (width, height) in enumerate(header.levels):
                per_cm = 1e4 / header.mpp * width / header.size[0]
                tif.write(
                    self._spool.tiles(level),
                    shape=(len(header.channels), height, width),
                    dtype=header.depth,
                    tile=(TILE_PX, TILE_PX),
                    photometric="minisblack",
                    compression="adobe_deflate",
                    predictor=header.depth != "float32",
                    resolution=(per_cm, per_cm),
                    resolutionunit="CENTIMETER",
                    subifds=len(header.levels) - 1 if level == 0 else 0,
                    subfiletype=int(level > 0),
                    metadata=metadata if level == 0 else None,
                    software="vitrail",
                )


def _halved(strip: Planes) -> Planes:
    """Average two by two pixels of `[channels, h, w]`; odd edges are repeated, and NaN does not count."""
    odd = [(0, 0), (0, strip.shape[1] % 2), (0, strip.shape[2] % 2)]
    padded = np.pad(strip, odd, mode="edge")
    corners = np.stack([padded[:, y::2, x::2] for y, x in ((0, 0), (0, 1), (1, 0), (1, 1))])
    if strip.dtype == np.uint8:
        mean: NDArray[np.uint8] = ((corners.sum(axis=0, dtype=np.uint32) + 2) // 4).astype(np.uint8)
        return mean
    values = ~np.isnan(corners)
    count = values.sum(axis=0, dtype=np.float32)
    total = np.where(values, corners, np.float32(0)).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.float32(np.nan)).astype(np.float32)


class _Level:
    """The strip of one level that is being filled."""

    def __init__(self, width: int, header: MapHeader, emit: Emit, below: _Level | None) -> None:
        padded = -(-width // TILE_PX) * TILE_PX
        self._none = np.nan if header.depth == "float32" else 0
        self._strip: Planes = np.full((len(header.channels), TILE_PX, padded), self._none, header.depth)
        self._width, self._emit, self._below = width, emit, below
        self._filled = 0

    def write(self, rows: Planes) -> None:
        """Append rows, `[channels, h, width]`."""
        while rows.shape[1]:
            count = min(rows.shape[1], TILE_PX - self._filled)
            self._strip[:, self._filled : self._filled + count, : self._width] = rows[:, :count]
            self._filled += count
            rows = rows[:, count:]
            if self._filled == TILE_PX:
                self._flush()

    def finish(self) -> None:
        """Write what is left, here and below."""
        if self._filled:
            self._flush()
        if self._below:
            self._below.finish()

    def _flush(self) -> None:
        filled, self._filled = self._filled, 0
        self._strip[:, filled:] = self._none
        for channel, plane in enumerate(self._strip):
            for left in range(0, plane.shape[1], TILE_PX):
                self._emit(channel, plane[:, left : left + TILE_PX])
        if self._below:
            self._below.write(_halved(self._strip[:, :filled, : self._width]))


class _Spool:
    """Compressed tiles in a scratch file, in the order in which they were made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("w+b")
        except OSError as error:
            raise not_written(path, error) from error
        self._extents: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self._digest = hashlib.sha256()
        self.bytes = 0

    @property
    def identity(self) -> uuid.UUID:
        """An identity of the pixels, alike for alike pixels: the customary one would tell the computer and the time."""
        return uuid.UUID(bytes=self._digest.digest()[:16], version=5)

    def add(self, level: int, channel: int, tile: Planes) -> None:
        """Compress a tile and put it down."""
        # Most of a slide is one value, which is encoded once.
        first = tile[0, 0]
        constant = np.isnan(tile).all() if np.isnan(first) else (tile == first).all()
        data = _constant(first.tobytes(), tile.dtype.str) if constant else _deflated(tile)
        self._digest.update(data)
        self._extents.setdefault((level, channel), []).append((self.bytes, len(data)))
        self.bytes += self._file.write(data)

    def tiles(self, level: int) -> Iterator[bytes]:
        """Yield the tiles of a level, one channel after the other."""
        for _, extents in sorted(item for item in self._extents.items() if item[0][0] == level):
            for start, length in extents:
                self._file.seek(start)
                yield self._file.read(length)

    def close(self) -> None:
        """Remove the scratch file."""
        with suppress(OSError):  # a full disk cannot take what is still buffered; the file goes anyway
            self._file.close()
        self._path.unlink(missing_ok=True)


@lru_cache(maxsize=64)
def _constant(value: bytes, dtype: str) -> bytes:
    return _deflated(np.full((TILE_PX, TILE_PX), np.frombuffer(value, dtype)[0]))


def _deflated(tile: Planes) -> bytes:
    """Encode a tile as TIFF has it."""
    contiguous = np.ascontiguousarray(tile)
    stored = contiguous if tile.dtype == np.float32 else imagecodecs.delta_encode(contiguous, axis=-1)
    return bytes(imagecodecs.deflate_encode(stored.tobytes(), _EFFORT[tile.dtype.name]))
