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
from typing import TYPE_CHECKING, Any, Self

import imagecodecs
import numpy as np
import tifffile

from vitrail.core.files import exporting, not_written
from vitrail.interop.class_map import TILE_PX, MapHeader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from numpy.typing import NDArray

    from vitrail.interop.class_map import Whole

    Emit = Callable[[int, Whole], None]

_CLASSIC_LIMIT = 2**32 - 2**26
"""Beyond this many bytes of pixels the 32-bit offsets of a classic TIFF could be exceeded."""

_EFFORT = {"uint8": 6, "uint16": 6, "float32": 1}
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
        self._spool = _Spool(self.path.with_name(f".{self.path.name}.tiles"))
        self._level = _Level.pyramid(self.header, self._spool.add)
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
                self._level.write(_quantised(rows[top : top + TILE_PX], self.header))
        except OSError as error:
            raise not_written(self.path, error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._spool.close()

    def _finish(self) -> None:
        if self._rows != self.header.size[1]:
            raise ValueError(f"{self._rows} rows were written of the map's {self.header.size[1]}")
        with exporting(self.path) as temporary:
            self._level.finish()
            self._assemble(temporary)

    def _assemble(self, path: Path) -> None:
        """Copy the compressed tiles into a TIFF."""
        header = self.header
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
                    metadata=_metadata(header, self._spool.identity) if level == 0 else None,
                    software="vitrail",
                )


def _quantised(rows: NDArray[np.floating], header: MapHeader) -> Whole:
    """Return `[channels, h, width]` whole numbers, or floats as they are."""
    if header.depth == "float32":
        return np.moveaxis(rows, -1, 0).astype(np.float32)
    if not (rows.min() >= -_SLACK and rows.max() <= 1 + _SLACK):  # nor is NaN
        raise ValueError("probabilities must lie from 0 to 1")
    whole = np.rint(np.moveaxis(rows, -1, 0).clip(0, 1) * np.float32(header.one))
    return whole.astype(np.uint8) if header.depth == "uint8" else whole.astype(np.uint16)


def _halved(strip: Whole) -> Whole:
    """Average two by two pixels of `[channels, h, w]`; odd edges are repeated, and NaN does not count."""
    odd = [(0, 0), (0, strip.shape[1] % 2), (0, strip.shape[2] % 2)]
    padded = np.pad(strip, odd, mode="edge")
    if strip.dtype == np.float32:
        known = ~np.isnan(padded)
        count = _added(known.astype(np.float32))
        total = _added(np.where(known, padded, 0))
        return np.where(count > 0, total / np.maximum(count, 1), np.float32(np.nan)).astype(np.float32)
    mean = (_added(padded.astype(np.uint32)) + 2) // 4
    return mean.astype(np.uint8) if strip.dtype == np.uint8 else mean.astype(np.uint16)


def _added(planes: NDArray[Any]) -> NDArray[Any]:
    """Add up two by two pixels of `[channels, h, w]`."""
    total: NDArray[Any] = planes[:, ::2, ::2] + planes[:, ::2, 1::2] + planes[:, 1::2, ::2] + planes[:, 1::2, 1::2]
    return total


class _Level:
    """The strip of one level that is being filled."""

    def __init__(self, width: int, header: MapHeader, emit: Emit, below: _Level | None) -> None:
        padded = -(-width // TILE_PX) * TILE_PX
        self._none = np.nan if header.depth == "float32" else 0
        self._strip: Whole = np.full((len(header.channels), TILE_PX, padded), self._none, header.depth)
        self._width, self._emit, self._below = width, emit, below
        self._filled = 0

    @classmethod
    def pyramid(cls, header: MapHeader, add: Callable[[int, int, Whole], None]) -> _Level:
        """Build the strips of all levels, each linked to the next, and return the finest."""
        last = len(header.levels) - 1
        level = cls(header.levels[last][0], header, partial(add, last), None)
        for index in range(last - 1, -1, -1):
            level = cls(header.levels[index][0], header, partial(add, index), level)
        return level

    def write(self, rows: Whole) -> None:
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
        self._places: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self._digest = hashlib.sha256()
        self.bytes = 0

    @property
    def identity(self) -> uuid.UUID:
        """An identity of the pixels, alike for alike pixels: the customary one would tell the computer and the time."""
        return uuid.UUID(bytes=self._digest.digest()[:16], version=5)

    def add(self, level: int, channel: int, tile: Whole) -> None:
        """Compress a tile and put it down."""
        data = _compressed(tile)
        self._digest.update(data)
        self._places.setdefault((level, channel), []).append((self.bytes, len(data)))
        self.bytes += self._file.write(data)

    def tiles(self, level: int) -> Iterator[bytes]:
        """Yield the tiles of a level, one channel after the other."""
        for _, places in sorted(item for item in self._places.items() if item[0][0] == level):
            for start, length in places:
                self._file.seek(start)
                yield self._file.read(length)

    def close(self) -> None:
        """Remove the scratch file."""
        with suppress(OSError):  # a full disk cannot take what is still buffered; the file goes anyway
            self._file.close()
        self._path.unlink(missing_ok=True)


def _compressed(tile: Whole) -> bytes:
    """Encode a tile as TIFF has it; most of a slide is one value, which is encoded once."""
    first = tile[0, 0]
    same = np.isnan(tile).all() if np.isnan(first) else (tile == first).all()
    return _constant(first.tobytes(), tile.dtype.str) if same else _deflated(tile)


@lru_cache(maxsize=64)
def _constant(value: bytes, dtype: str) -> bytes:
    return _deflated(np.full((TILE_PX, TILE_PX), np.frombuffer(value, dtype)[0]))


def _deflated(tile: Whole) -> bytes:
    whole = np.ascontiguousarray(tile)
    stored = whole if tile.dtype == np.float32 else imagecodecs.delta_encode(whole, axis=-1)
    return bytes(imagecodecs.deflate_encode(stored.tobytes(), _EFFORT[tile.dtype.name]))


def _metadata(header: MapHeader, identity: uuid.UUID) -> dict[str, object]:
    """Return what tifffile turns into OME-XML."""
    count = len(header.channels)
    return {
        "UUID": str(identity),
        "axes": "CYX",
        "Name": header.title,
        "Description": f"{header.title} by Vitrail: {_scale(header)}. Positions are of the top left corner, from the "
        "top left corner of the slide's bounds.",
        "PhysicalSizeX": header.mpp,
        "PhysicalSizeXUnit": "\N{MICRO SIGN}m",
        "PhysicalSizeY": header.mpp,
        "PhysicalSizeYUnit": "\N{MICRO SIGN}m",
        "Channel": {
            "Name": [channel.name for channel in header.channels],
            "Color": [_packed(channel.rgb) for channel in header.channels],
        },
        "Plane": {
            "PositionX": [header.origin_um[0]] * count,
            "PositionXUnit": ["\N{MICRO SIGN}m"] * count,
            "PositionY": [header.origin_um[1]] * count,
            "PositionYUnit": ["\N{MICRO SIGN}m"] * count,
        },
    }


def _scale(header: MapHeader) -> str:
    """Say what the values stand for."""
    if header.depth == "float32":
        return "positive values speak for tumor, negative ones against it, NaN says that nothing was looked at"
    return f"0 to {header.one} stands for 0 to 1"


def _packed(rgb: tuple[int, int, int]) -> int:
    """Return a colour as OME has it: red, green, blue and full opacity in a signed 32-bit number."""
    return int.from_bytes(bytes((*rgb, 255)), "big", signed=True)
