"""What is measured on a slide before anything is called an artefact: optical density and sharpness, cell by cell.

A cell is a square of about 8 um, measured on pixels of about 2 um; a block is 8 x 8 cells. The slide is read once, in
strips of whole blocks, so that memory does not grow with its height.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vitrail.core.progress import Silent
from vitrail.geometry import Region
from vitrail.slides.slide import read_region, read_thumbnail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vitrail.core.progress import Progress
    from vitrail.slides.slide import Slide

    Plane = NDArray[np.float32]
    Mask = NDArray[np.bool_]

BLOCK = 8
"""Cells along the side of a block."""

_OVERVIEW_PX = 1024
_STRIP_PX = 2**21
"""Most pixels of a strip that is measured at once, unless one row of blocks has more: about 100 MB with its copies."""

_GLASS = (200, 20, 0.005)
"""Glass is at least as bright as the first, its channels differ by no more than the second, its share is the third."""

_NO_GLASS = 245.0
_DIM = 1.0
"""Added to light and to pixels, so that black has a density."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellGrid:
    """Squares that cover a slide, the last ones reaching beyond it.

    Attributes
    ----------
    shape
        Rows and columns; both are multiples of `BLOCK`.
    pixels
        Measured pixels along the side of a cell.
    pixel
        Level-0 pixels for each measured pixel.
    pixel_um
        Micrometres for each measured pixel.
    tissue
        Optical density from which a cell holds something.
    """

    shape: tuple[int, int]
    pixels: int
    pixel: float
    pixel_um: float
    tissue: float

    @property
    def cell(self) -> float:
        """Level-0 pixels for each cell."""
        return self.pixels * self.pixel

    @property
    def cell_um(self) -> float:
        """Micrometres for each cell."""
        return self.pixels * self.pixel_um

    @classmethod
    def over(cls, slide: Slide, pixel_um: float, cell_um: float, tissue: float) -> CellGrid:
        """Lay a grid over a slide; a slide coarser than `pixel_um` is measured on its own pixels."""
        fine = max(pixel_um, slide.mpp)
        pixels = max(round(cell_um / fine), 1)
        block = BLOCK * pixels * fine / slide.mpp
        rows, columns = (BLOCK * math.ceil(side / block) for side in (slide.region.height, slide.region.width))
        return cls(shape=(rows, columns), pixels=pixels, pixel=fine / slide.mpp, pixel_um=fine, tissue=tissue)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """What was measured.

    Attributes
    ----------
    grid
        Where the cells lie.
    density
        [rows, columns, 3], float16: mean optical density in red, green and blue.
    black
        [rows, columns], float16: share of pixels that are dense and neutral.
    fine, coarse
        [rows / 8, columns / 8]: mean squared difference of the densities of neighbouring pixels, and of neighbouring
        cells, in a block, away from glass.
    """

    grid: CellGrid
    density: NDArray[np.float16]
    black: NDArray[np.float16]
    fine: Plane
    coarse: Plane


def glass_light(slide: Slide) -> Plane:
    """Return what the camera sees through empty glass, [3], from an overview; 245 where there is no glass."""
    pixels = read_thumbnail(slide, _OVERVIEW_PX).reshape(-1, 3)
    least, chroma, share = _GLASS
    bright = pixels[(pixels.min(axis=1) >= least) & (np.ptp(pixels, axis=1) <= chroma)]
    if len(bright) < share * len(pixels):
        return np.full(3, _NO_GLASS, np.float32)
    return np.asarray(np.median(bright, axis=0), dtype=np.float32)


def optical_density(pixels: NDArray[np.uint8], light: Plane) -> Plane:
    """Return `-log10(I / I0)`, never negative (Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291)."""
    levels = np.arange(256, dtype=np.float32)[:, None]
    table = np.maximum(-np.log10((levels + _DIM) / (light + _DIM)), 0).astype(np.float32)
    return np.stack([table[pixels[..., c], c] for c in range(3)], axis=-1)


def neutral(density: Plane, grey: float) -> Mask:
    """Return where the smallest of three densities is at least `grey` times the largest: outside any H&E mixture."""
    return np.asarray(density.min(axis=-1) >= grey * density.max(axis=-1), dtype=np.bool_)


def measure_cells(
    slide: Slide, grid: CellGrid, black: tuple[float, float, float], progress: Progress | None = None
) -> Cells:
    """Measure a slide in one pass.

    Parameters
    ----------
    slide
        The slide.
    grid
        Its cells.
    black
        A pixel is black when its density reaches the first in one channel and its channels agree as the second asks
        (see `neutral`), or when it reaches the third in all channels.
    progress
        Told of every strip.

    Raises
    ------
    SlideError
        The slide cannot be read.
    """
    light = glass_light(slide)
    rows, columns = grid.shape
    blocks = (rows // BLOCK, columns // BLOCK)
    cells = Cells(
        grid=grid,
        density=np.zeros((rows, columns, 3), np.float16),
        black=np.zeros((rows, columns), np.float16),
        fine=np.zeros(blocks, np.float32),
        coarse=np.zeros(blocks, np.float32),
    )
    with (progress or Silent()).task("artefacts", blocks[0]) as step:
        for top, bottom in _strips(grid):
            _measure(cells, slice(top, bottom), optical_density(_read(slide, grid, top, bottom), light), black)
            step((bottom - top) // BLOCK)
    return cells


def _strips(grid: CellGrid) -> Iterator[tuple[int, int]]:
    """Yield first and last row of cells of each strip."""
    rows, columns = grid.shape
    wide = columns * grid.pixels**2 * BLOCK
    count = BLOCK * max(_STRIP_PX // wide, 1)
    yield from ((top, min(top + count, rows)) for top in range(0, rows, count))


def _read(slide: Slide, grid: CellGrid, top: int, bottom: int) -> NDArray[np.uint8]:
    width = grid.shape[1] * grid.cell
    region = Region(x=0, y=top * grid.cell, width=width, height=(bottom - top) * grid.cell)
    return read_region(slide, region, (grid.shape[1] * grid.pixels, (bottom - top) * grid.pixels))


def _measure(cells: Cells, rows: slice, density: Plane, black: tuple[float, float, float]) -> None:
    """Measure one strip."""
    n = cells.grid.pixels
    dense = (density.max(axis=-1) >= black[0]) & neutral(density, black[1]) | (density.min(axis=-1) >= black[2])
    mean = _mean(density, n)
    cells.density[rows], cells.black[rows] = mean, _mean(dense[..., None], n)[..., 0]
    blocks = slice(rows.start // BLOCK, rows.stop // BLOCK)
    inner = _inner(mean.mean(axis=-1) >= cells.grid.tissue)
    cells.coarse[blocks] = _roughness(mean.mean(axis=-1), inner, BLOCK)
    cells.fine[blocks] = _roughness(density.mean(axis=-1), np.repeat(np.repeat(inner, n, axis=0), n, axis=1), BLOCK * n)


def _inner(tissue: Mask) -> Mask:
    """Leave out the cells beside glass: one sharp edge outweighs all the detail of a block."""
    rim = np.pad(~tissue, 1)
    return tissue & ~(rim[:-2, 1:-1] | rim[2:, 1:-1] | rim[1:-1, :-2] | rim[1:-1, 2:])


def _mean(plane: NDArray[np.generic], n: int) -> Plane:
    """Average squares of n x n pixels of `[h, w, c]`."""
    height, width, channels = plane.shape
    squares = plane.reshape(height // n, n, width // n, n, channels)
    return np.asarray(squares.mean(axis=(1, 3), dtype=np.float32), dtype=np.float32)


def _roughness(plane: Plane, inner: Mask, n: int) -> Plane:
    """Return the mean squared difference of neighbours that are both inner, within each square of n x n pixels."""
    height, width = plane.shape
    shape = (height // n, n, width // n, n)
    squares, weights = plane.reshape(shape), inner.reshape(shape)
    total, count = np.zeros(shape[::2], np.float32), np.zeros(shape[::2], np.float32)
    for axis, first, second in ((1, np.s_[:, :-1], np.s_[:, 1:]), (3, np.s_[..., :-1], np.s_[..., 1:])):
        both = weights[first] & weights[second]
        total += (np.square(np.diff(squares, axis=axis)) * both).sum(axis=(1, 3))
        count += both.sum(axis=(1, 3), dtype=np.float32)
    return np.asarray(total / np.maximum(count, 1), dtype=np.float32)
