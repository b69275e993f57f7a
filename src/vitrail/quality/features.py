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
from vitrail.quality.background import find_glass, local_std, optical_density, over_channels
from vitrail.slides.slide import read_region, read_thumbnail

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.core.progress import Progress
    from vitrail.settings.schema import ArtefactSettings
    from vitrail.slides.slide import Slide

    Plane = NDArray[np.float32]
    Mask = NDArray[np.bool_]

BLOCK = 8
"""Cells along the side of a block."""

_STRIP_PX = 2**21
"""Most pixels of a strip that is measured at once, unless one row of blocks has more: about 100 MB with its copies."""


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
    """

    shape: tuple[int, int]
    pixels: int
    pixel: float
    pixel_um: float

    @property
    def cell(self) -> float:
        """Level-0 pixels for each cell."""
        return self.pixels * self.pixel

    @property
    def cell_um(self) -> float:
        """Micrometres for each cell."""
        return self.pixels * self.pixel_um

    @classmethod
    def over(cls, slide: Slide, pixel_um: float, cell_um: float) -> CellGrid:
        """Lay a grid over a slide; a slide coarser than `pixel_um` is measured on its own pixels."""
        fine = max(pixel_um, slide.mpp)
        pixels = max(round(cell_um / fine), 1)
        block = BLOCK * pixels * fine / slide.mpp
        rows, columns = (BLOCK * math.ceil(side / block) for side in (slide.region.height, slide.region.width))
        return cls(shape=(rows, columns), pixels=pixels, pixel=fine / slide.mpp, pixel_um=fine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """What was measured.

    Attributes
    ----------
    grid
        Where the cells lie.
    density
        `[rows, columns, 3]`, float16: mean optical density in red, green and blue.
    black
        `[rows, columns]`, float16: share of pixels that are dense and neutral.
    fine, coarse
        `[rows / 8, columns / 8]`: mean squared difference of the densities of neighbouring pixels, and of neighbouring
        cells, in a block, away from glass.
    """

    grid: CellGrid
    density: NDArray[np.float16]
    black: NDArray[np.float16]
    fine: Plane
    coarse: Plane


def neutral(density: Plane, grey: float) -> Mask:
    """Return where the smallest of three densities is at least `grey` times the largest: outside any H&E mixture."""
    least, most = over_channels(np.minimum, density), over_channels(np.maximum, density)
    return np.asarray(least >= grey * most, dtype=np.bool_)


def mean_of_squares(plane: NDArray[np.generic], n: int) -> Plane:
    """Average squares of n x n pixels of `[h, w]` or `[h, w, channels]`."""
    height, width = plane.shape[:2]
    squares = plane.reshape(height // n, n, width // n, n, *plane.shape[2:])
    total: Plane = np.zeros((height // n, width // n, *plane.shape[2:]), np.float32)
    for row, column in np.ndindex(n, n):  # in numpy's own order, which takes it four times as long
        total += squares[:, row, :, column].astype(np.float32)
    total /= np.float32(n * n)
    return total


def measure_cells(slide: Slide, grid: CellGrid, settings: ArtefactSettings, progress: Progress | None = None) -> Cells:
    """Measure a slide in one pass.

    Parameters
    ----------
    slide
        The slide.
    grid
        Its cells.
    settings
        A pixel is black when its density reaches `black` in one channel and its channels agree as `grey` asks (see
        `neutral`), or when it reaches `opaque` in all channels. A cell holds something from the density `tissue` on.
    progress
        Told of every strip.

    Returns
    -------
    Cells
        Densities and sharpness.

    Raises
    ------
    SlideError
        The slide cannot be read.
    """
    overview = read_thumbnail(slide, 512)
    density = optical_density(overview)
    light = find_glass(overview, density, local_std(density.mean(axis=-1))).rgb or (245.0, 245.0, 245.0)
    rows, columns = grid.shape
    n, blocks = grid.pixels, (rows // BLOCK, columns // BLOCK)
    cells = Cells(
        grid=grid,
        density=np.zeros((rows, columns, 3), np.float16),
        black=np.zeros((rows, columns), np.float16),
        fine=np.zeros(blocks, np.float32),
        coarse=np.zeros(blocks, np.float32),
    )
    strip_rows = BLOCK * max(_STRIP_PX // (columns * n**2 * BLOCK), 1)
    with (progress or Silent()).task("artefacts", blocks[0]) as step:
        for top in range(0, rows, strip_rows):
            bottom = min(top + strip_rows, rows)
            region = Region(x=0, y=top * grid.cell, width=columns * grid.cell, height=(bottom - top) * grid.cell)
            pixels = read_region(slide, region, (columns * n, (bottom - top) * n))
            _measure_strip(cells, top, optical_density(pixels, light, dark=1.0), settings)
            step((bottom - top) // BLOCK)
    return cells


def _measure_strip(cells: Cells, top: int, density: Plane, settings: ArtefactSettings) -> None:
    """Measure the cells from row `top` on; a function, so that no plane of one strip outlives it."""
    n = cells.grid.pixels
    rows = slice(top, top + density.shape[0] // n)
    blocks = slice(rows.start // BLOCK, rows.stop // BLOCK)
    np.maximum(density, 0, out=density)  # noise above the light is no tissue
    dense = (over_channels(np.maximum, density) >= settings.black) & neutral(density, settings.grey)
    dense |= over_channels(np.minimum, density) >= settings.opaque
    mean = mean_of_squares(density, n)
    cells.density[rows], cells.black[rows] = mean, mean_of_squares(dense, n)
    # without the cells beside glass: one sharp edge outweighs all the detail of a block
    rim = np.pad(mean.mean(axis=-1) < settings.tissue, 1)
    inner = ~(rim[1:-1, 1:-1] | rim[:-2, 1:-1] | rim[2:, 1:-1] | rim[1:-1, :-2] | rim[1:-1, 2:])
    cells.coarse[blocks] = _roughness(mean.mean(axis=-1), inner, BLOCK)
    inner_px = np.repeat(np.repeat(inner, n, axis=0), n, axis=1)
    cells.fine[blocks] = _roughness(over_channels(np.add, density) / np.float32(3), inner_px, BLOCK * n)


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
