"""A class map on its way to disk, counted as it passes by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vitrail.classes import ARTEFACT_CLASS, CLASSES, TissueClass
from vitrail.inference.context import looked_up
from vitrail.inference.outputs import MAP_PX, NOT_PREDICTED
from vitrail.interop.class_map import CLASS_CHANNELS, Channel, MapHeader
from vitrail.interop.ome_tiff import ClassMapWriter
from vitrail.metrics.seam_index import SeamIndex

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from vitrail.inference.context import SlideContext
    from vitrail.inference.sliding import Plan

    Bytes = NDArray[np.uint8]
    Floats = NDArray[np.float64]

_ROWS = 64

ARTEFACT = len(CLASSES)
"""Index of the channel that says where artefacts are: nothing else is said there."""

CHANNELS = (*CLASS_CHANNELS, Channel(name=ARTEFACT_CLASS.title, rgb=ARTEFACT_CLASS.rgb))
"""Of a slide's class map."""


def write_class_map(path: Path, strips: list[Path], counted: ClassMapStats, ground: SlideContext) -> None:
    """Write the strips of `segment_slide` as an OME-TIFF, artefacts in a channel of their own, and count them."""
    plan, top = counted.plan, 0
    size = (plan.windows.width, plan.windows.height)
    header = MapHeader(size=size, mpp=plan.downsample * ground.slide.mpp, channels=CHANNELS)
    with ClassMapWriter(path, header) as writer:
        for strip in map(np.load, strips):
            if len(strip):
                counted.seams.add(strip)
                whole = _with_artefacts(strip, ground, counted.centres(strip, top))
                counted.add(whole, top)
                for start in range(0, len(whole), _ROWS):  # as floats they are four times as large
                    writer.write_rows(whole[start : start + _ROWS].astype(np.float32) / 255)
            top += len(strip)


def _with_artefacts(strip: Bytes, ground: SlideContext, places: tuple[Floats, Floats]) -> Bytes:
    """Add the channel of artefacts to a strip `[h, width, 4]`, given the centres of its pixels."""
    whole = np.pad(strip, ((0, 0), (0, 0), (0, 1)))
    if ground.artefacts is not None:
        spoilt = looked_up(ground.artefacts.mask(), (ground.artefacts.cell,) * 2, places)
        whole[spoilt] = 0
        whole[spoilt, ARTEFACT] = 255
    return whole


class ClassMapStats:
    """What is counted while the strips of a class map pass by.

    Parameters
    ----------
    plan
        Of the map.
    ground
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

    def __init__(self, plan: Plan, ground: SlideContext) -> None:
        windows, grid = plan.windows, ground.grid
        self.plan, self.pixels, self._ground = plan, np.zeros(len(CHANNELS), np.int64), ground
        self.seams = SeamIndex(period=windows.stride, first=windows.start(1) % windows.stride)
        self.small = np.full((grid.rows * MAP_PX, grid.columns * MAP_PX), NOT_PREDICTED, np.uint8)
        self._side = grid.side / plan.downsample  # of a tile, in pixels of the map
        self._tumor, self._all = np.zeros((grid.rows, grid.columns)), np.zeros((grid.rows, grid.columns))

    def centres(self, strip: Bytes, top: int) -> tuple[Floats, Floats]:
        """Return y and x of the pixels' centres of the rows from `top` on, in level-0 pixels."""
        height, width = strip.shape[:2]
        rows, columns = np.arange(top, top + height, dtype=np.float64), np.arange(width, dtype=np.float64)
        return (rows + 0.5) * self.plan.downsample, (columns + 0.5) * self.plan.downsample

    def add(self, strip: Bytes, top: int) -> None:
        """Count the rows `[h, width, 5]` from `top` on."""
        classes = strip.argmax(2).astype(np.uint8)
        tissue = looked_up(self._ground.tissue.mask, self._ground.tissue_cell, self.centres(strip, top))
        self.pixels += np.bincount(classes[tissue], minlength=len(CHANNELS))
        rows, columns = (
            np.minimum((np.arange(start, start + length) + 0.5) / self._side, most - 1).astype(np.intp)
            for start, length, most in zip((top, 0), classes.shape, self._all.shape, strict=True)
        )
        starts = np.flatnonzero(np.diff(columns, prepend=-1))
        for counts, wanted in ((self._tumor, classes == TissueClass.TUMOR), (self._all, np.ones(classes.shape, bool))):
            sums = np.add.reduceat(wanted, starts, axis=1, dtype=np.int64)
            np.add.at(counts, (rows[:, None], columns[starts][None]), sums)
        self._pick(classes, top)

    def _pick(self, classes: Bytes, top: int) -> None:
        """Take over the pixels of the small map that lie in these rows."""
        rows, columns = ((np.arange(length) + 0.5) * self._side / MAP_PX for length in self.small.shape)
        here, inside = (rows >= top) & (rows < top + len(classes)), columns < classes.shape[1]
        picked = classes[(rows[here] - top).astype(np.intp)][:, columns[inside].astype(np.intp)]
        self.small[np.ix_(here, inside)] = picked

    def tumor_shares(self, tiles: pd.DataFrame) -> Floats:
        """Return the fraction of each tile's pixels that are called tumor."""
        rows, columns = ((tiles[axis] / tiles["side"]).round().astype(int) for axis in ("y", "x"))
        return np.asarray(self._tumor[rows, columns] / np.maximum(self._all[rows, columns], 1))
