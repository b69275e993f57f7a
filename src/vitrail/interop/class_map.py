"""Class maps on disk, and maps of explanations: what is in one, and any part of its pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree as ET

import numpy as np
import tifffile

from vitrail.classes import CLASSES
from vitrail.errors import ExchangeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Whole = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]
    Depth = Literal["uint8", "uint16", "float32"]

TILE_PX = 256
"""Side of a stored tile; also the height of the strip that each level keeps in memory."""

_OME = {"ome": "http://www.openmicroscopy.org/Schemas/OME/2016-06"}
_REMAKE = "Write it again with: vitrail predict"
_DEPTHS: dict[str, Depth] = {"uint8": "uint8", "uint16": "uint16", "float": "float32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A channel of a class map.

    Attributes
    ----------
    name
        As viewers show it.
    rgb
        Its colour, 0 to 255.
    """

    name: str
    rgb: tuple[int, int, int]


CLASS_CHANNELS = tuple(Channel(name=label.title, rgb=label.rgb) for label in CLASSES)
"""One channel a class, in the order of their index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapHeader:
    """All about a map but its pixels.

    Attributes
    ----------
    size
        Width and height in pixels.
    mpp
        Micrometres per pixel.
    origin_um
        Its top left corner, x and y from the top left corner of the slide's bounds.
    channels
        Names and colours.
    depth
        Quantisation of probabilities: 255 or 65535 stands for 1. `float32` holds any values as they are, and NaN where
        there are none.
    title
        As viewers show it.

    Raises
    ------
    ValueError
        The size, mpp or channels are no map's.
    """

    size: tuple[int, int]
    mpp: float
    origin_um: tuple[float, float] = (0.0, 0.0)
    channels: tuple[Channel, ...] = CLASS_CHANNELS
    depth: Depth = "uint8"
    title: str = "Class probabilities"

    def __post_init__(self) -> None:
        if min(self.size) < 1 or not 0 < self.mpp < math.inf or not self.channels:
            raise ValueError(f"no map has size {self.size}, mpp {self.mpp} and {len(self.channels)} channels")

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """Width and height of every level: halved, rounded up, until one tile holds it."""
        sizes = [self.size]
        while max(sizes[-1]) > TILE_PX:
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        return tuple(sizes)

    @property
    def one(self) -> int:
        """What stands for 1."""
        return 1 if self.depth == "float32" else int(np.iinfo(self.depth).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMap:
    """A class map on disk; it holds no open file.

    Attributes
    ----------
    path
        The file.
    header
        What the map is.
    """

    path: Path
    header: MapHeader

    def read(self, rows: slice = slice(None), columns: slice = slice(None), *, level: int = 0) -> NDArray[np.float32]:
        """Read probabilities, or what else the map holds; only the tiles concerned are decoded.

        Parameters
        ----------
        rows, columns
            What to read, in pixels of the level, with steps of 1.
        level
            0 is the full resolution; each further one is half as large.

        Returns
        -------
        NDArray
            `[h, w, channels]`.

        Raises
        ------
        ExchangeError
            The file is gone or damaged.
        """
        whole = self._whole(rows, columns, level)
        return np.moveaxis(whole, 0, -1).astype(np.float32) / np.float32(self.header.one)

    def class_strips(self, *, level: int = 0) -> Iterator[NDArray[np.uint8]]:
        """Yield the index of the most probable channel, `[h, width]`, from top to bottom; the first wins a tie.

        Raises
        ------
        ExchangeError
            The file is gone or damaged.
        """
        for top in range(0, self.header.levels[level][1], TILE_PX):
            yield self._whole(slice(top, top + TILE_PX), slice(None), level).argmax(axis=0).astype(np.uint8)

    def _whole(self, rows: slice, columns: slice, level: int) -> Whole:
        width, height = self.header.levels[level]
        top, bottom, _ = rows.indices(height)
        left, right, _ = columns.indices(width)
        shape = (len(self.header.channels), max(bottom - top, 0), max(right - left, 0))
        part: Whole = np.empty(shape, self.header.depth)
        try:
            with tifffile.TiffFile(self.path) as tif:
                for plane, page in zip(part, tif.series[0].levels[level].pages, strict=True):
                    _fill(plane, page, (top, left))
        except OSError as error:
            raise ExchangeError(self.path, f"cannot be read ({error.strerror or error})", _REMAKE) from error
        except (ValueError, IndexError, RuntimeError) as error:  # of tifffile and of the codecs
            raise ExchangeError(self.path, f"damaged ({error})", _REMAKE) from error
        return part


def read_class_map(path: str | Path) -> ClassMap:
    """Open a class map that `ClassMapWriter` wrote.

    Raises
    ------
    ExchangeError
        There is no such file, or it is no class map.
    """
    path = Path(path)
    try:
        with tifffile.TiffFile(path) as tif:
            root = ET.fromstring(tif.ome_metadata or "")  # noqa: S314 - a local file, and expat bounds entities
            _check(tif)
        return ClassMap(path=path, header=_header(root))
    except OSError as error:
        raise ExchangeError(path, f"cannot be opened ({error.strerror or error})", _REMAKE) from error
    except (ET.ParseError, KeyError, ValueError) as error:  # tifffile's own error is a ValueError
        raise ExchangeError(path, f"not a class map as OME-TIFF ({error})", _REMAKE) from error


def _check(tif: tifffile.TiffFile) -> None:
    """Refuse an OME-TIFF whose pixels are laid out otherwise than `ClassMap` expects."""
    page: Any = tif.pages[0]
    if (page.tilewidth, page.tilelength, page.samplesperpixel) != (TILE_PX, TILE_PX, 1):
        raise ValueError("its pixels are laid out otherwise")


def _header(root: ET.Element) -> MapHeader:
    """Read back what `_metadata` said."""
    (pixels,) = root.findall("ome:Image/ome:Pixels", _OME)
    plane = pixels.findall("ome:Plane", _OME)[0].attrib if pixels.findall("ome:Plane", _OME) else {}
    depth = _DEPTHS.get(pixels.attrib["Type"])
    if depth is None:
        raise ValueError(f"its pixels are {pixels.attrib['Type']}")
    return MapHeader(
        size=(int(pixels.attrib["SizeX"]), int(pixels.attrib["SizeY"])),
        mpp=float(pixels.attrib["PhysicalSizeX"]),
        origin_um=(float(plane.get("PositionX", 0)), float(plane.get("PositionY", 0))),
        channels=tuple(_channel(element) for element in pixels.findall("ome:Channel", _OME)),
        depth=depth,
        title=root.findall("ome:Image", _OME)[0].attrib["Name"],
    )


def _channel(element: ET.Element) -> Channel:
    packed = int(element.attrib["Color"]).to_bytes(4, "big", signed=True)
    return Channel(name=element.attrib["Name"], rgb=(packed[0], packed[1], packed[2]))


def _fill(plane: Whole, page: Any, origin: tuple[int, int]) -> None:
    """Decode the tiles of a page that a part of it touches, and lay them into the part."""
    top, left = origin
    bottom, right = top + plane.shape[0], left + plane.shape[1]
    across = -(-page.keyframe.imagewidth // TILE_PX)
    for y in range(top // TILE_PX, -(-bottom // TILE_PX)):
        for x in range(left // TILE_PX, -(-right // TILE_PX)):
            tile = _decoded(page, y * across + x)
            y0, x0 = y * TILE_PX, x * TILE_PX
            high, low = max(top, y0), min(bottom, y0 + TILE_PX)
            near, far = max(left, x0), min(right, x0 + TILE_PX)
            plane[high - top : low - top, near - left : far - left] = tile[high - y0 : low - y0, near - x0 : far - x0]


def _decoded(page: Any, index: int) -> Whole:  # tifffile types the parts of a page as optional
    handle = page.parent.filehandle
    handle.seek(page.dataoffsets[index])
    tile: Whole = page.keyframe.decode(handle.read(page.databytecounts[index]), index)[0][0, :, :, 0]
    return tile
