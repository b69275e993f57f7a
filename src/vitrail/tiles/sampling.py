"""Which tiles of a slide are cut: enough annotation, and not too many of either class."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely

from vitrail.classes import LABELS, TissueClass
from vitrail.slides.rasterize import covered, rasterize
from vitrail.tiles.masks import annotated, label_shares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.settings.schema import TileSettings
    from vitrail.slides.annotations import Annotations
    from vitrail.tiles.grid import TileGrid

_ROUNDING = 1e-9
_HALF = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """All tiles of a slide's grid, before the choice.

    Attributes
    ----------
    row, column
        `[n]`, in the grid.
    share
        `[n, 2]`, shares of tumor and of non-tumor pixels.
    undecided
        `[n]`, share of tissue that may be either, see `Annotations.undecided`, of tiles where it matters; 0 elsewhere.
    """

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    share: NDArray[np.float64]
    undecided: NDArray[np.float64] | None = None

    @property
    def label(self) -> NDArray[np.int64]:
        """`[n]`: the class with more pixels; tumor where they are equal."""
        return np.where(self.share[:, 1] > self.share[:, 0], TissueClass.NON_TUMOR, TissueClass.TUMOR)

    @property
    def ambiguous(self) -> NDArray[np.bool_]:
        """`[n]`: whether a tile would be of the other class if all that is undecided were."""
        if self.undecided is None:
            return np.zeros(len(self.share), np.bool_)
        other = self.share[:, 1] + self.undecided
        return np.asarray((self.label == TissueClass.TUMOR) & (self.undecided > 0) & (self.share[:, 0] < other))


def candidates(annotations: Annotations, grid: TileGrid, side_px: int) -> Candidates:
    """Measure how much of each tile of a grid is annotated; only tiles that an outline crosses are drawn.

    Parameters
    ----------
    annotations
        A slide's outlines.
    grid
        Its tiles.
    side_px
        Side of a tile in pixels, as it is drawn.

    Returns
    -------
    Candidates
        Row by row.
    """
    row, column = np.divmod(np.arange(grid.rows * grid.columns), max(grid.columns, 1))
    left, top, side = column * grid.side, row * grid.side, grid.side
    boxes = shapely.box(left, top, left + side, top + side)
    tumor, touches_tumor = covered(annotations.tumor, boxes)
    non_tumor, touches_non_tumor = covered(annotations.non_tumor, boxes)
    share = np.stack([tumor, non_tumor & ~touches_tumor], axis=1).astype(np.float64)
    (crossed,) = np.nonzero((touches_tumor | touches_non_tumor) & ~share.any(axis=1))
    apart = (np.diff(crossed) > 1) | (crossed[1:] % max(grid.columns, 1) == 0)
    for run in np.split(crossed, np.flatnonzero(apart) + 1):  # tiles side by side in a row are drawn together
        if len(run):
            strip = grid.strip(int(row[run[0]]), int(column[run[0]]), len(run))
            share[run] = label_shares(annotated(annotations, strip, (len(run) * side_px, side_px)), side_px)
    undecided = None
    if annotations.undecided is not None:  # more than half tumor is tumor, whatever the rest is
        undecided, size = np.zeros(len(share)), (side_px, side_px)
        for tile in np.flatnonzero((share[:, 0] > share[:, 1]) & (share.sum(axis=1) < 1) & (share[:, 0] < _HALF)):
            square = grid.strip(int(row[tile]), int(column[tile]), 1)
            undecided[tile] = rasterize(annotations.undecided, square, size).mean()
    return Candidates(row=row, column=column, share=share, undecided=undecided)


def choose(tiles: Candidates, settings: TileSettings, slide_id: str, seed: int) -> NDArray[np.int64]:
    """Draw the tiles to cut.

    The paper: "non-overlapping tiles with at least 30% annotated pixels", "a maximum of 125 tumor and 500 non-tumor
    tiles from each slide". Tiles that are ambiguous are never cut. A slide's draw depends on the seed and its name
    alone, not on the rest of the cohort.

    Parameters
    ----------
    tiles
        All tiles of the slide.
    settings
        How much annotation, and how many tiles.
    slide_id
        The slide's name.
    seed
        The study's.

    Returns
    -------
    NDArray[np.int64]
        Indices into `tiles`, ascending.
    """
    rng = np.random.default_rng([seed, zlib.crc32(slide_id.encode())])
    enough = (tiles.share.sum(axis=1) >= settings.min_annotated - _ROUNDING) & ~tiles.ambiguous
    chosen = []
    for label, most in zip(LABELS, (settings.max_tumor, settings.max_non_tumor), strict=True):
        rows = np.flatnonzero(enough & (tiles.label == label))
        chosen.append(rows if len(rows) <= most else rng.choice(rows, most, replace=False))
    return np.sort(np.concatenate(chosen))
