"""Class maps on disk, and maps of explanations: what is in one, and any part of its pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree as ET

import numpy as np
import tifffile

from vitrail.classes import CLASSES
from vitrail.errors import ExchangeError
from vitrail.geometry import cut_at_tiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Planes = NDArray[np.uint8] | NDArray[np.float32]
    Depth = Literal["uint8", "float32"]

TILE_PX = 256
"""Side of a stored tile; also the height of the strip that each level keeps in memory."""

_OME = {"ome": "http://www.openmicroscopy.org/Schemas/OME/2016-06"}
_REMAKE = "Write it again with: vitrail predict"
_DEPTHS: dict[str, Depth] = {"uint8": "uint8", "float": "float32"}
"""By what OME calls them."""


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
    """All about a map but its pixels; its top left corner is that of the slide's bounds.

    Attributes
    ----------
    size
        Width and height in pixels.
    mpp
        Micrometres per pixel.
    channels
        Names and colours.
    depth
        `uint8` holds probabilities, 255 stands for 1. `float32` holds any values as they are, and NaN where there are
        none.
    title
        As viewers show it.

    Raises
    ------
    ValueError
        The size, mpp or channels are no map's.
    """

    size: tuple[int, int]
    mpp: float
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
    def full_scale(self) -> int:
        """What stands for 1."""
        return 1 if self.depth == "float32" else 255


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
        NDArray[np.float32]
            `[h, w, channels]`.

        Raises
        ------
        ExchangeError
            The file is gone or damaged.
        """
        planes = self.planes(rows, columns, level)
        return np.moveaxis(planes, 0, -1).astype(np.float32) / np.float32(self.header.full_scale)

    def class_strips(self, *, level: int = 0) -> Iterator[NDArray[np.uint8]]:
        """Read the index of the most probable channel, from top to bottom; the first wins a tie.

        Parameters
        ----------
        level
            See `read`.

        Yields
        ------
        NDArray[np.uint8]
            `[h, width]`, a strip of at most `TILE_PX` rows.

        Raises
        ------
        ExchangeError
            The file is gone or damaged.
        """
        for top in range(0, self.header.levels[level][1], TILE_PX):
            yield self.planes(slice(top, top + TILE_PX), slice(None), level).argmax(axis=0).astype(np.uint8)

    def planes(self, rows: slice, columns: slice, level: int) -> Planes:
        """Read values as they are stored; only the tiles concerned are decoded.

        tifffile with zarr does the same in twelve lines less, but takes three times as long (21 ms and 6.4 ms for 600
        by 600 pixels of four channels), 0.35 s to import and 40 MB to install.

        Parameters
        ----------
        rows, columns, level
            As of `read`.

        Returns
        -------
        NDArray[np.uint8] | NDArray[np.float32]
            `[channels, h, w]`, of the header's depth.

        Raises
        ------
        ExchangeError
            The file is gone or damaged.
        """
        width, height = self.header.levels[level]
        top, bottom, _ = rows.indices(height)
        left, right, _ = columns.indices(width)
        shape = (len(self.header.channels), max(bottom - top, 0), max(right - left, 0))
        planes: Planes = np.empty(shape, self.header.depth)
        across = -(-width // TILE_PX)
        try:
            with tifffile.TiffFile(self.path) as tif:
                page: Any  # tifffile types the parts of a page as optional
                for plane, page in zip(planes, tif.series[0].levels[level].pages, strict=True):
                    spans = cut_at_tiles(top, bottom, TILE_PX, height), cut_at_tiles(left, right, TILE_PX, width)
                    for (y, at_y, from_y), (x, at_x, from_x) in product(*spans):
                        index = y * across + x
                        tif.filehandle.seek(page.dataoffsets[index])
                        content = tif.filehandle.read(page.databytecounts[index])
                        plane[at_y, at_x] = page.keyframe.decode(content, index)[0][0, from_y, from_x, 0]
        except OSError as error:
            raise ExchangeError(self.path, f"cannot be read ({error.strerror or error})", _REMAKE) from error
        except (ValueError, IndexError, RuntimeError) as error:  # of tifffile and of the codecs
            raise ExchangeError(self.path, f"damaged ({error})", _REMAKE) from error
        return planes


def read_class_map(path: str | Path) -> ClassMap:
    """Open a class map that `ClassMapWriter` wrote.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    ClassMap
        Its header; no file stays open.

    Raises
    ------
    ExchangeError
        There is no such file, or it is no class map.
    """
    path = Path(path)
    try:
        with tifffile.TiffFile(path) as tif:
            root = ET.fromstring(tif.ome_metadata or "")  # noqa: S314 - a local file, and expat bounds entities
            page: Any = tif.pages[0]
            layout = page.tilewidth, page.tilelength, page.samplesperpixel
        (image,) = root.findall("ome:Image", _OME)
        (pixels,) = image.findall("ome:Pixels", _OME)
        channels = []
        for channel in pixels.findall("ome:Channel", _OME):
            red, green, blue, _ = int(channel.attrib["Color"]).to_bytes(4, "big", signed=True)
            channels.append(Channel(name=channel.attrib["Name"], rgb=(red, green, blue)))
        header = MapHeader(
            size=(int(pixels.attrib["SizeX"]), int(pixels.attrib["SizeY"])),
            mpp=float(pixels.attrib["PhysicalSizeX"]),
            channels=tuple(channels),
            depth=_DEPTHS[pixels.attrib["Type"]],
            title=image.attrib["Name"],
        )
    except OSError as error:
        raise ExchangeError(path, f"cannot be opened ({error.strerror or error})", _REMAKE) from error
    except (ET.ParseError, KeyError, ValueError, OverflowError) as error:  # tifffile's own error is a ValueError
        raise ExchangeError(path, f"not a class map as OME-TIFF ({error})", _REMAKE) from error
    if layout != (TILE_PX, TILE_PX, 1):
        raise ExchangeError(path, "not a class map as OME-TIFF (its pixels are laid out otherwise)", _REMAKE)
    return ClassMap(path=path, header=header)
