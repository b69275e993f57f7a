"""Both networks on every tissue tile of a whole slide, annotated or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vitrail.predict.slidemap import MAP_PX, NOT_PREDICTED, SlideMap
from vitrail.slides.slide import read_region
from vitrail.tiles.grid import covering_grid
from vitrail.tiles.labels import is_white

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.predict.engine import Engine
    from vitrail.progress import Step
    from vitrail.slides.slide import Slide
    from vitrail.tiles.grid import TileGrid

GLASS = 0.9
"""A tile with a larger share of white pixels is taken for empty glass."""


def predict_slide(slide: Slide, engines: tuple[Engine, Engine], white: int, step: Step) -> SlideMap:
    """Apply classifier and segmenter to every tile of a slide that is not empty glass, a row of tiles at a time.

    Parameters
    ----------
    slide
        The slide.
    engines
        The classifier and the segmenter, trained on tiles of the same size.
    white
        A pixel is glass when its three channels reach this.
    step
        Called after every row of tiles.

    Raises
    ------
    SlideError
        The slide cannot be read.
    """
    grid = covering_grid(slide, engines[0].spec.side_um)
    classifier = np.full((grid.rows, grid.columns), np.nan, np.float32)
    segmenter = np.full((grid.rows, grid.columns, MAP_PX, MAP_PX), NOT_PREDICTED, np.uint8)
    for row in range(grid.rows):
        images, columns = _tissue(slide, grid, row, (engines[0].spec.side_px, white))
        classifier[row, columns] = engines[0].tumor_probability(images)
        segmenter[row, columns] = _reduced(engines[1].pixel_classes(images))
        step(1)
    mosaic = segmenter.swapaxes(1, 2).reshape(grid.rows * MAP_PX, grid.columns * MAP_PX)
    return SlideMap(side=grid.side, classifier=classifier, segmenter=mosaic)


def _tissue(
    slide: Slide, grid: TileGrid, row: int, pixels: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read the tiles of one row that hold tissue; returns their pixels and columns."""
    side_px, white = pixels
    images = np.stack(
        [read_region(slide, grid.tile(row, column), (side_px, side_px)) for column in range(grid.columns)]
    )
    columns = np.flatnonzero(is_white(images, white).mean(axis=(1, 2)) <= GLASS)
    return images[columns], columns


def _reduced(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pick `MAP_PX` by `MAP_PX` pixels of each `[n, h, w]`, evenly spread."""
    rows, columns = ((np.arange(MAP_PX) + 0.5) * length // MAP_PX for length in classes.shape[1:])
    return classes[:, rows.astype(int)[:, None], columns.astype(int)[None, :]]
