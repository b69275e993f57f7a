"""Overlapping windows over a map, whose weights add up to one everywhere: no border of a window can show.

Along each axis windows of `side` pixels follow each other at `side - overlap` pixels. A window's weight rises as
sin^2 over its first `overlap` pixels, and falls as cos^2 over its last ones, so that two neighbours add up to one and
nothing has to be divided. At a window's edge, where the network sees least around a pixel, its word counts nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Square windows that cover a map of `height` x `width` pixels.

    Attributes
    ----------
    height, width
        Of the map, in its own pixels.
    side
        Of a window.
    overlap
        Pixels that neighbours share; at most half a window, so that no more than two meet along an axis.
    """

    height: int
    width: int
    side: int
    overlap: int

    def __post_init__(self) -> None:
        if not 0 <= 2 * self.overlap <= self.side:
            raise ValueError(f"windows of {self.side} pixels cannot overlap by {self.overlap}, only by up to half")

    @property
    def stride(self) -> int:
        """Pixels from one window to the next."""
        return self.side - self.overlap

    @property
    def rows(self) -> int:
        """Windows down."""
        return math.ceil((self.height + self.overlap) / self.stride)

    @property
    def columns(self) -> int:
        """Windows across."""
        return math.ceil((self.width + self.overlap) / self.stride)

    def start(self, number: int) -> int:
        """Return where a row or column of windows begins; the first begins `overlap` pixels before the map."""
        return number * self.stride - self.overlap

    @property
    def weight(self) -> Floats:
        """The weight of each pixel of a window, `[side, side]`."""
        ramp = np.sin((np.arange(self.overlap) + 0.5) * math.pi / 2 / max(self.overlap, 1)) ** 2
        line = np.concatenate([ramp, np.ones(self.side - 2 * self.overlap), ramp[::-1]])
        return np.outer(line, line).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WindowValues:
    """What a network gives for some windows of one row.

    Attributes
    ----------
    columns
        Which windows of the row these are, `[n]`.
    values
        `[n, channels, side, side]`.
    """

    columns: NDArray[np.int64]
    values: Floats


def blend(
    windows: Windows, rows: Iterable[Iterable[WindowValues]], elsewhere: Floats, first: int = 0
) -> Iterator[Floats]:
    """Add up rows of windows to the map, and hand it out from top to bottom as soon as it is final.

    Only one row of windows is in memory.

    Parameters
    ----------
    windows
        The plan.
    rows
        One for each row of windows, in order; a row may come in parts.
    elsewhere
        What a window that was not looked at holds, `[channels]`.
    first
        The row to begin with. The strip of this row lacks what the row before would have added, unless it is the first
        of all; those that follow are whole. So work that was interrupted goes on one row earlier.

    Yields
    ------
    NDArray[np.float32]
        A strip of the map for each row of windows, `[h, width, channels]`, `h` from 0 to `windows.stride`.
    """
    shared = np.zeros((windows.overlap, windows.columns * windows.stride + windows.overlap, len(elsewhere)), np.float32)
    for number, row in enumerate(rows, first):
        canvas = _add_up(windows, row, elsewhere)
        canvas[: windows.overlap] += shared
        shared = canvas[windows.stride :].copy()
        top = windows.start(number)
        final = canvas[max(-top, 0) : max(min(windows.stride, windows.height - top), 0)]
        yield final[:, windows.overlap : windows.overlap + windows.width]
        del canvas, final  # before there is a next one


def _add_up(windows: Windows, row: Iterable[WindowValues], elsewhere: Floats) -> Floats:
    """Add up one row of windows, `[side, columns * stride + overlap, channels]`."""
    canvas = np.zeros((windows.side, windows.columns * windows.stride + windows.overlap, len(elsewhere)), np.float32)
    spans = [slice(left, left + windows.side) for left in range(0, windows.columns * windows.stride, windows.stride)]
    weight, missing = windows.weight[..., None], set(range(windows.columns))
    for part in row:
        for column, values in zip(part.columns.tolist(), part.values, strict=True):
            canvas[:, spans[column]] += weight * values.transpose(1, 2, 0)
            missing.remove(column)
    for column in missing:
        canvas[:, spans[column]] += weight * elsewhere
    return canvas
