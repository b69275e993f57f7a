"""COCO's masks: run lengths down the columns of an image, as numbers or packed into text.

As in the COCO API's maskApi.c: in the text each number is in groups of 5 bits, lowest first, a sixth bit says that more
follow, and from the third on numbers are differences to the one before the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from vitrail.slides.outlines.features import MalformedError, number
from vitrail.slides.polygonize import outline_classes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vitrail.slides.outlines.features import Ring

_STRIP_PX = 1 << 22
MOST_PX = 1 << 28
"""Of the box around a mask: a slide's mask at full resolution is better drawn as an outline."""

_LONGEST_SIDE = 2_000_000
_MOST_RUNS = 4_000_000


def mask_polygons(segmentation: dict[str, Any]) -> tuple[list[list[Ring]], int]:
    """Outline a mask along its pixels' edges.

    Parameters
    ----------
    segmentation
        With `size`, height and width, and `counts`: numbers, or text.

    Returns
    -------
    list[list[Ring]]
        Of each 4-connected region the outer ring and its holes.
    int
        Pixels of the box around it.

    Raises
    ------
    MalformedError
        It is no such mask, or one of more than 268 million pixels.
    """
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or len(size) != 2:
        raise MalformedError(f"the size of a mask is {str(size)[:40]!r}")
    height, width = (int(number(side, "a side of a mask")) for side in size)
    if not (0 < height <= _LONGEST_SIDE and 0 < width <= _LONGEST_SIDE):
        raise MalformedError(f"a mask of {width} x {height} pixels")
    runs = unpack(counts) if isinstance(counts, str) else _numbers(counts)
    if len(runs) and (runs.min() < 0 or int(runs.sum()) != height * width):
        raise MalformedError(f"the runs of a mask do not add up to its {height * width} pixels")
    ends = np.cumsum(runs)
    starts, stops = ends[0::2][: len(runs) // 2], ends[1::2]
    covered = stops > starts
    starts, stops = starts[covered], stops[covered]
    if not len(starts):
        return [], 0
    first, last = int(starts[0]) // height, int(stops[-1] - 1) // height
    columns = starts // height
    within = columns == (stops - 1) // height
    top, bottom = 0, height
    if within.all():
        top, bottom = int((starts % height).min()), int(((stops - 1) % height).max()) + 1
        columns = columns - first
        starts, stops = (
            (edge - (columns + first) * height - top + columns * (bottom - top)) for edge in (starts, stops)
        )
    else:
        starts, stops = starts - first * height, stops - first * height
    shape = last + 1 - first, bottom - top
    pixels = shape[0] * shape[1]
    if pixels > MOST_PX:
        raise MalformedError(f"a mask of {pixels:,} pixels, more than {MOST_PX:,}: export outlines instead")
    # columns of the image are rows here, so that a strip of them is a piece of the runs
    regions = outline_classes(_strips(starts, stops, shape), (1,))[1]
    flip = np.array([[0.0, 1.0], [1.0, 0.0]])
    polygons: list[list[Ring]] = [
        [shapely.get_coordinates(ring) @ flip + (first, top) for ring in (region.exterior, *region.interiors)]
        for region in regions
    ]
    return polygons, pixels


def _numbers(counts: Any) -> NDArray[np.int64]:
    if not isinstance(counts, list) or len(counts) > _MOST_RUNS:
        raise MalformedError(f"the runs of a mask are {str(counts)[:40]!r}")
    if not all(isinstance(each, int) and 0 <= each <= _LONGEST_SIDE**2 for each in counts):
        raise MalformedError("the runs of a mask are no numbers")
    return np.array(counts, np.int64)


def unpack(packed: str) -> NDArray[np.int64]:
    """Return the run lengths in a text.

    Parameters
    ----------
    packed
        Characters from 0 to o.

    Returns
    -------
    NDArray[np.int64]
        Background first.

    Raises
    ------
    MalformedError
        It is no such text.
    """
    runs, value, shift = list[int](), 0, 0
    if len(packed) > 8 * _MOST_RUNS:
        raise MalformedError("the runs of a mask are too many")
    for letter in packed:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise MalformedError(f"the runs of a mask hold {letter!r}")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            if not 0 <= runs[-1] <= _LONGEST_SIDE**2:
                raise MalformedError("the runs of a mask are no numbers of pixels")
            value, shift = 0, 0
    if shift:
        raise MalformedError("the runs of a mask end amid a number")
    return np.array(runs, np.int64)


def _strips(starts: NDArray[np.int64], stops: NDArray[np.int64], shape: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """Yield the mask, some columns of the image at a time, each as a row."""
    step = max(1, _STRIP_PX // shape[1])
    for row in range(0, shape[0], step):
        rows = min(step, shape[0] - row)
        low, high = row * shape[1], (row + rows) * shape[1]
        here = slice(np.searchsorted(stops, low, "right"), np.searchsorted(starts, high, "left"))
        change = np.zeros(high - low + 1, np.int8)
        np.add.at(change, np.clip(starts[here] - low, 0, high - low), 1)
        np.add.at(change, np.clip(stops[here] - low, 0, high - low), -1)
        yield np.cumsum(change[:-1], dtype=np.int8).astype(np.uint8).reshape(rows, shape[1])
