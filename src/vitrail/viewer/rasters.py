"""Maps that lie over a slide: what their pixels mean, and any square of them, as raw numbers.

A browser colours them itself, so that a threshold, another palette or another opacity asks for nothing, and the number
under the cursor is the one that was computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from vitrail.viewer.pyramid import level_sizes, square

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vitrail.interop.class_map import ClassMap

    Floats = NDArray[np.float32]
    Values = NDArray[np.float32] | NDArray[np.uint8]
    Read = Callable[[int, slice, slice], Values]

RasterKind = Literal["class", "share", "signed", "unsigned"]
"""`class`: a number of `classes`, 255 where there is none; `share`: from 0 to 1; `signed`: for tumor above 0, against
it below; `unsigned`: a map without a zero. NaN where there is nothing."""

NOTHING = 255
"""Where a map of classes says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raster:
    """A map over a slide; its top left corner is the slide's.

    Attributes
    ----------
    key, title
        Its name in addresses, and for the eye.
    kind
        What its pixels mean.
    network
        Which network says so; empty where none does.
    cell
        Level-0 pixels of the slide along one of the map's.
    size
        Width and height in its own pixels.
    limits
        Between which its colours run.
    read
        Gives rows and columns of a level, `[h, w]`: float32, or uint8 of classes.
    """

    key: str
    title: str
    kind: RasterKind
    network: str
    cell: float
    size: tuple[int, int]
    limits: tuple[float, float]
    read: Read

    def square(self, level: int, column: int, row: int) -> bytes:
        """Return a square's values, row by row: little-endian float32, or bytes of classes.

        Raises
        ------
        LookupError
            There is no such square.
        """
        values = self.read(level, *square(level_sizes(self.size), level, column, row))
        return values.astype("u1" if self.kind == "class" else "<f4").tobytes()

    def describe(self) -> dict[str, object]:
        """Return all but the pixels, as JSON."""
        low, high = self.limits
        facts = {"key": self.key, "title": self.title, "kind": self.kind, "network": self.network, "cell": self.cell}
        return facts | {"width": self.size[0], "height": self.size[1], "low": low, "high": high}


def array_raster(
    values: Values, *, key: str, title: str, kind: RasterKind, network: str, cell: float, limits: tuple[float, float]
) -> Raster:
    """Make a raster of an array.

    Parameters
    ----------
    values
        `[h, w]`.
    key, title, kind, network, cell, limits
        See `Raster`.

    Returns
    -------
    Raster
        Its coarser levels are means of what there is; of classes the upper left of four.
    """
    levels = [values]
    for _ in level_sizes((values.shape[1], values.shape[0]))[1:]:
        levels.append(levels[-1][::2, ::2] if kind == "class" else _halved(levels[-1]))

    def read(level: int, rows: slice, columns: slice) -> Values:
        return levels[level][rows, columns]

    size = values.shape[1], values.shape[0]
    return Raster(key=key, title=title, kind=kind, network=network, cell=cell, size=size, limits=limits, read=read)


def map_raster(
    stored: ClassMap, channel: int, *, key: str, title: str, kind: RasterKind, network: str, mpp: float
) -> Raster:
    """Make a raster of a channel of a map on disk; it stays there.

    Parameters
    ----------
    stored
        The map.
    channel
        Which.
    key, title, kind, network
        See `Raster`.
    mpp
        Of the slide, um per level-0 pixel.

    Returns
    -------
    Raster
        The limits of a signed map come from its coarsest level.
    """
    read = partial(_read_channel, stored, channel)
    limits = (0.0, 1.0)
    if kind != "share":
        limits = limits_of(read(len(stored.header.levels) - 1, slice(None), slice(None)), kind)
    cell, size = stored.header.mpp / mpp, stored.header.size
    return Raster(key=key, title=title, kind=kind, network=network, cell=cell, size=size, limits=limits, read=read)


def limits_of(values: Floats, kind: RasterKind) -> tuple[float, float]:
    """Return between which values colours run: all but the most extreme hundredth, even about 0 where there is one."""
    known = values[np.isfinite(values)]
    if not known.size:
        return (-1.0, 1.0) if kind == "signed" else (0.0, 1.0)
    if kind == "signed":
        most = float(np.percentile(np.abs(known), 99)) or 1.0
        return -most, most
    low, high = (float(end) for end in np.percentile(known, (1, 99)))
    return low, high if high > low else low + 1.0


def _read_channel(stored: ClassMap, channel: int, level: int, rows: slice, columns: slice) -> Floats:
    return stored.read(rows, columns, level=level)[..., channel]


def _halved(values: Values) -> Floats:
    """Return the means of squares of four, of those that are no NaN."""
    height, width = values.shape
    padded = np.full((height + height % 2, width + width % 2), np.nan, np.float32)
    padded[:height, :width] = values
    blocks = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2).transpose(0, 2, 1, 3).reshape(-1, 4)
    known = np.isfinite(blocks)
    count = known.sum(1)
    sums = np.where(known, blocks, 0).sum(1)
    means = np.full(len(blocks), np.nan, np.float32)
    np.divide(sums, count, out=means, where=count > 0)
    return means.reshape(padded.shape[0] // 2, padded.shape[1] // 2)
