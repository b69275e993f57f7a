"""Pictures of slides and maps in squares of 256 pixels, each level half as large as the one before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import simplejpeg

from vitrail.geometry import Region
from vitrail.slides.slide import read_region

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.slides.slide import Slide

    Size = tuple[int, int]

TILE_PX = 256
"""Side of a square; those at the right and lower edge are smaller."""

QUALITY = 87
"""Of the JPEG that a browser is sent: pixels change by less than the slide's own compression has changed them."""


def level_sizes(size: Size) -> tuple[Size, ...]:
    """List width and height of all levels, finest first.

    Parameters
    ----------
    size
        Width and height of the finest.

    Returns
    -------
    tuple[tuple[int, int], ...]
        Each is half of the one before, rounded up; the last fits into one square.
    """
    sizes = [size]
    while max(sizes[-1]) > TILE_PX:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return tuple(sizes)


def square(sizes: tuple[Size, ...], level: int, column: int, row: int) -> tuple[slice, slice]:
    """Return the rows and columns of a level that a square covers.

    Parameters
    ----------
    sizes
        Of all levels, as `level_sizes` lists them.
    level, column, row
        Which square.

    Returns
    -------
    tuple[slice, slice]
        Rows and columns.

    Raises
    ------
    LookupError
        There is no such square.
    """
    if not 0 <= level < len(sizes):
        raise LookupError(f"no level {level}")
    width, height = sizes[level]
    left, top = column * TILE_PX, row * TILE_PX
    if not (0 <= left < width and 0 <= top < height):
        raise LookupError(f"no square {column}, {row} on level {level}")
    return slice(top, min(top + TILE_PX, height)), slice(left, min(left + TILE_PX, width))


def slide_sizes(slide: Slide) -> tuple[Size, ...]:
    """List the sizes of a slide's levels as they are shown; its own pyramid may have others."""
    return level_sizes((max(1, round(slide.region.width)), max(1, round(slide.region.height))))


def slide_square(slide: Slide, level: int, column: int, row: int) -> bytes:
    """Read a square of a slide.

    Parameters
    ----------
    slide
        The slide.
    level
        0 is full resolution.
    column, row
        Of the square, counted from the top left corner.

    Returns
    -------
    bytes
        A JPEG.

    Raises
    ------
    LookupError
        There is no such square.
    SlideError
        The file cannot be decoded there.
    """
    rows, columns = square(slide_sizes(slide), level, column, row)
    scale, size = 2**level, (columns.stop - columns.start, rows.stop - rows.start)
    region = Region(x=columns.start * scale, y=rows.start * scale, width=size[0] * scale, height=size[1] * scale)
    return encode(read_region(slide, region, size))


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels `[h, w, 3]` as JPEG."""
    content: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=QUALITY, colorsubsampling="422")
    return content
