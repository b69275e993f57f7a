"""A class map on its way to disk, and what is counted as it passes by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.classes import ARTEFACT_CLASS, CLASSES, TissueClass
from vitrail.inference.outputs import MAP_PX, NOT_PREDICTED, tile_positions
from vitrail.interop.class_map import CLASS_CHANNELS, Channel, MapHeader
from vitrail.interop.ome_tiff import ClassMapWriter
from vitrail.metrics.seam_index import SeamIndex
from vitrail.quality.areas import looked_up

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from vitrail.inference.context import SlideContext
    from vitrail.inference.sliding import Plan
    from vitrail.tiles.grid import TileGrid

    Bytes = NDArray[np.uint8]
    Floats = NDArray[np.float64]

ARTEFACT = len(CLASSES)
"""Index of the channel that says where artefacts are: nothing else is said there."""

CHANNELS = (*CLASS_CHANNELS, Channel(name=ARTEFACT_CLASS.title, rgb=ARTEFACT_CLASS.rgb))
"""Of a slide's class map."""

UNCERTAINTY = Channel(name="Spread of the tumor probability", rgb=(255, 255, 255))
"""Of a slide's map of uncertainty."""


def write_class_map(path: Path, strips: Iterable[Path], plan: Plan, context: SlideContext) -> ClassMapStats:
    """Write the strips of `segment_slide` as an OME-TIFF, artefacts in a channel of their own.

    Parameters
    ----------
    path
        The file.
    strips
        From top to bottom.
    plan
        Of the map.
    context
        The slide's tiles, tissue and artefacts.

    Returns
    -------
    ClassMapStats
        Of the whole map.

    Raises
    ------
    ExchangeError
        The file cannot be written.
    """
    stats, top = ClassMapStats(plan, context), 0
    size_px = (plan.windows.width, plan.windows.height)
    header = MapHeader(size=size_px, mpp=plan.downsample * context.slide.mpp, channels=CHANNELS)
    with ClassMapWriter(path, header) as writer:
        for strip in map(np.load, strips):
            if len(strip):
                classes = strip[..., : len(CLASSES)]
                stats.seams.add(classes)
                with_artefacts = np.pad(classes, ((0, 0), (0, 0), (0, 1)))
                if context.artefacts is not None:
                    cell = context.artefacts.cell, context.artefacts.cell
                    spoilt = looked_up(context.artefacts.mask(), cell, stats.centres(strip, top))
                    with_artefacts[spoilt] = 0
                    with_artefacts[spoilt, ARTEFACT] = 255
                stats.add(with_artefacts, top)
                for start in range(0, len(strip), 64):  # as floats they are four times as large
                    writer.write_rows(with_artefacts[start : start + 64].astype(np.float32) / 255)
            top += len(strip)
    return stats


def write_uncertainty(path: Path, strips: Iterable[Path], plan: Plan, context: SlideContext) -> TileSums:
    """Write how far the answers about each pixel differ as an OME-TIFF of one channel, in floats.

    Parameters
    ----------
    path
        The file.
    strips
        Of a `class_layer` with `uncertain`, from top to bottom.
    plan
        Of the map.
    context
        The slide's tiles.

    Returns
    -------
    TileSums
        The sum over the pixels of each tile.

    Raises
    ------
    ExchangeError
        The file cannot be written.
    """
    sums, top = TileSums(plan, context.grid), 0
    header = MapHeader(
        size=(plan.windows.width, plan.windows.height),
        mpp=plan.downsample * context.slide.mpp,
        channels=(UNCERTAINTY,),
        depth="float32",
        title=UNCERTAINTY.name,
    )
    with ClassMapWriter(path, header) as writer:
        for strip in map(np.load, strips):
            for start in range(0, len(strip), 64):
                spread = strip[start : start + 64, :, len(CLASSES) :].astype(np.float32) / (2 * 255)
                sums.add(spread[..., 0], top + start)
                writer.write_rows(spread)
            top += len(strip)
    return sums


class TileSums:
    """Sums over the pixels of each tile, while the strips of a map pass by.

    Parameters
    ----------
    plan
        Of the map.
    grid
        The slide's tiles.
    """

    def __init__(self, plan: Plan, grid: TileGrid) -> None:
        self._tile_px = grid.side / plan.downsample  # in pixels of the map
        self._sums = np.zeros((grid.rows, grid.columns))
        self._pixels = np.zeros((grid.rows, grid.columns))

    def add(self, values: NDArray[Any], top: int) -> None:
        """Add the rows `[h, width]` from `top` on."""
        rows, columns = (  # the tile of each row and column of pixels
            np.minimum((np.arange(start, start + length) + 0.5) / self._tile_px, most - 1).astype(np.intp)
            for start, length, most in zip((top, 0), values.shape, self._sums.shape, strict=True)
        )
        starts = np.flatnonzero(np.diff(columns, prepend=-1))
        widths = np.diff(np.append(starts, len(columns)))
        np.add.at(self._sums, (rows[:, None], columns[starts][None]), np.add.reduceat(values, starts, 1, np.float64))
        np.add.at(self._pixels, (rows[:, None], columns[starts][None]), widths[None])

    def means(self, tiles: pd.DataFrame) -> Floats:
        """Return the mean over each tile's pixels, 0 where the map has none, `[n]`."""
        rows, columns = tile_positions(tiles)
        return np.asarray(self._sums[rows, columns] / np.maximum(self._pixels[rows, columns], 1))


class ClassMapStats:
    """What is counted while the strips of a class map pass by.

    Parameters
    ----------
    plan
        Of the map.
    context
        The slide's tiles and tissue.

    Attributes
    ----------
    pixels
        Of each channel, where it is the likeliest and tissue is, `[5]`.
    seams
        The seam index over the windows' borders, before artefacts are cut out.
    small
        The class of `MAP_PX` by `MAP_PX` pixels of each tile, for figures; `ARTEFACT` where one is.
    """

    def __init__(self, plan: Plan, context: SlideContext) -> None:
        windows, grid = plan.windows, context.grid
        self.plan, self.pixels, self._context = plan, np.zeros(len(CHANNELS), np.int64), context
        self.seams = SeamIndex(period=windows.stride, first=windows.start(1) % windows.stride)
        self.small = np.full((grid.rows * MAP_PX, grid.columns * MAP_PX), NOT_PREDICTED, np.uint8)
        self._tile_px = grid.side / plan.downsample  # in pixels of the map
        self._tumor = TileSums(plan, grid)

    def centres(self, strip: Bytes, top: int) -> tuple[Floats, Floats]:
        """Return y and x of the pixels' centres of the rows from `top` on, in level-0 pixels."""
        height, width = strip.shape[:2]
        rows, columns = np.arange(top, top + height, dtype=np.float64), np.arange(width, dtype=np.float64)
        return (rows + 0.5) * self.plan.downsample, (columns + 0.5) * self.plan.downsample

    def add(self, strip: Bytes, top: int) -> None:
        """Count the rows `[h, width, 5]` from `top` on."""
        classes = strip.argmax(2).astype(np.uint8)
        tissue = looked_up(self._context.tissue.mask, self._context.tissue_cell, self.centres(strip, top))
        self.pixels += np.bincount(classes[tissue], minlength=len(CHANNELS))
        self._tumor.add(classes == TissueClass.TUMOR, top)
        # the pixels of the small map whose centres lie in these rows
        y, x = ((np.arange(length) + 0.5) * self._tile_px / MAP_PX for length in self.small.shape)
        here, inside = (y >= top) & (y < top + len(classes)), x < classes.shape[1]
        picked = classes[(y[here] - top).astype(np.intp)][:, x[inside].astype(np.intp)]
        self.small[np.ix_(here, inside)] = picked

    def tumor_shares(self, tiles: pd.DataFrame) -> Floats:
        """Return the fraction of each tile's pixels that are called tumor."""
        return self._tumor.means(tiles)
