"""Which tiles of a slide are kept: enough annotation, and not too many of either class."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely

from vitrail.classes import LABELS, TissueClass
from vitrail.slides.rasterize import covered
from vitrail.tiles.masks import annotated, label_shares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.settings.schema import TileSettings
    from vitrail.slides.annotations import Annotations
    from vitrail.tiles.grid import TileGrid


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """All tiles of a slide's grid, before the choice.

    Attributes
    ----------
    row, column
        `[n]`, place in the grid.
    share
        `[n, 2]`, shares of tumor and of non-tumor pixels.
    """

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    share: NDArray[np.float64]

    @property
    def label(self) -> NDArray[np.int64]:
        """`[n]`: the class with more pixels; tumor where they are equal."""
        return np.where(self.share[:, 1] > self.share[:, 0], TissueClass.NON_TUMOR, TissueClass.TUMOR)


def candidates(annotations: Annotations, grid: TileGrid, side_px: int) -> Candidates:
    """Measure how much of each tile of a grid is annotated; only tiles that an outline crosses are drawn."""
    row, column = np.divmod(np.arange(grid.rows * grid.columns), max(grid.columns, 1))
    left, top, side = column * grid.side, row * grid.side, grid.side
    boxes = shapely.box(left, top, left + side, top + side)
    tumor, touches_tumor = covered(annotations.tumor, boxes)
    non_tumor, touches_non_tumor = covered(annotations.non_tumor, boxes)
    share = np.stack([tumor, non_tumor & ~touches_tumor], axis=1).astype(np.float64)
    crossed = (touches_tumor | touches_non_tumor) & ~share.any(axis=1)
    for run in _runs(crossed, grid.columns):
        size = (len(run) * side_px, side_px)
        strip = grid.strip(int(row[run[0]]), int(column[run[0]]), len(run))
        share[run] = label_shares(annotated(annotations, strip, size), side_px)
    return Candidates(row=row, column=column, share=share)


def _runs(wanted: NDArray[np.bool_], columns: int) -> list[NDArray[np.intp]]:
    """Return the wanted tiles of a grid, those side by side in a row together."""
    (tiles,) = np.nonzero(wanted)
    apart = (np.diff(tiles) > 1) | (tiles[1:] % columns == 0)
    return [run for run in np.split(tiles, np.flatnonzero(apart) + 1) if len(run)]


def choose(tiles: Candidates, settings: TileSettings, slide_id: str, seed: int) -> NDArray[np.int64]:
    """Draw the tiles to keep.

    The paper: "non-overlapping tiles with at least 30% annotated pixels", "a maximum of 125 tumor and 500 non-tumor
    tiles from each slide". A slide's draw depends on the seed and its name alone, not on the rest of the cohort.

    Returns
    -------
    Indices into `tiles`, ascending.
    """
    rng = np.random.default_rng([seed, zlib.crc32(slide_id.encode())])
    enough = tiles.share.sum(axis=1) >= settings.min_annotated - _ROUNDING
    most = dict(zip(LABELS, (settings.max_tumor, settings.max_non_tumor), strict=True))
    kept = [_draw(np.flatnonzero(enough & (tiles.label == label)), most[label], rng) for label in LABELS]
    return np.sort(np.concatenate(kept))


_ROUNDING = 1e-9


def _draw(rows: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return rows if len(rows) <= most else rng.choice(rows, most, replace=False)
