"""Artefacts: pen, folds, defocus, blood, debris and bubbles, found by what they do to light.

Hematoxylin and eosin span a plane, and in it a cone, of optical densities (Ruifrok and Johnston 2001, Anal Quant Cytol
Histol 23:291). Ink and dust lie outside it; shed blood lies on its red side, away from the slide's own hue; a fold has
its surroundings' hue and about twice their density; out of focus, fine detail is lost and coarse detail stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vitrail.quality.features import CellGrid, measure_cells
from vitrail.quality.kinds import ARTEFACTS, ArtefactKind
from vitrail.quality.rules import name_artefacts
from vitrail.settings.schema import ArtefactSettings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

    from vitrail.core.progress import Progress
    from vitrail.geometry import Region
    from vitrail.slides.slide import Slide

__all__ = ["ARTEFACTS", "ArtefactKind", "Artefacts", "find_artefacts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefacts:
    """The artefacts of a slide.

    Attributes
    ----------
    masks
        For each kind, where it is: [rows, columns], in the order of `ARTEFACTS`; a cell may have several kinds.
    cell
        Level-0 pixels along the side of a cell; the first cell begins at (0, 0).
    cell_um
        Micrometres along the side of a cell.
    """

    masks: NDArray[np.bool_]
    cell: float
    cell_um: float

    def mask(self, kinds: Iterable[ArtefactKind] | None = None) -> NDArray[np.bool_]:
        """Return where any of some kinds is (by default of all), [rows, columns]."""
        return np.asarray(self.masks[_indices(kinds)].any(axis=0), dtype=np.bool_)

    def share(self, region: Region, kinds: Iterable[ArtefactKind] | None = None) -> float:
        """Return the share of a region, in level-0 pixels, that any of some kinds (by default of all) covers."""
        box = [[region.x, region.y, region.width, region.height]]
        return float(self.shares(box, kinds)[0])

    def shares(self, boxes: ArrayLike, kinds: Iterable[ArtefactKind] | None = None) -> NDArray[np.float64]:
        """Return the shares of many rectangles at once.

        Parameters
        ----------
        boxes
            [n, 4]: x, y, width, height in level-0 pixels; what lies beyond the slide counts as clean.
        kinds
            Which kinds count; by default all.

        Returns
        -------
        NDArray
            [n], 0 to 1. Cells on the edge of a rectangle count by the part inside it.
        """
        left, top, width, height = np.asarray(boxes, dtype=float).reshape(-1, 4).T / self.cell
        right, bottom = left + width, top + height
        total = np.pad(np.cumsum(np.cumsum(self.mask(kinds), axis=0, dtype=np.int64), axis=1), ((1, 0), (1, 0)))
        inside = _at(total, bottom, right) - _at(total, top, right) - _at(total, bottom, left) + _at(total, top, left)
        return np.asarray(np.clip(inside / (width * height), 0, 1), dtype=np.float64)


def find_artefacts(
    slide: Slide, settings: ArtefactSettings | None = None, *, progress: Progress | None = None
) -> Artefacts:
    """Find the artefacts of a slide.

    The slide is read once, in strips, at 2 um per pixel; what is kept are a few numbers for each cell of 8 um.

    Parameters
    ----------
    slide
        The slide.
    settings
        Thresholds; by default those of `ArtefactSettings`.
    progress
        Told of every strip.

    Raises
    ------
    SlideError
        The slide cannot be read.
    """
    settings = settings or ArtefactSettings()
    grid = CellGrid.over(slide, settings.pixel_um, settings.cell_um, settings.tissue)
    cells = measure_cells(slide, grid, (settings.black, settings.grey, settings.opaque), progress)
    found = name_artefacts(cells, settings)
    masks = np.stack([found[kind] for kind in ARTEFACTS])
    return Artefacts(masks=masks, cell=grid.cell, cell_um=grid.cell_um)


def _indices(kinds: Iterable[ArtefactKind] | None) -> list[int]:
    return [int(kind) for kind in (ARTEFACTS if kinds is None else kinds)]


def _at(total: NDArray[np.int64], row: NDArray[np.float64], column: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate an integral image: exact, as it is bilinear within a cell."""
    row, column = np.clip(row, 0, total.shape[0] - 1), np.clip(column, 0, total.shape[1] - 1)
    top, left = (np.minimum(v.astype(np.intp), n - 2) for v, n in zip((row, column), total.shape, strict=True))
    down, across = row - top, column - left
    upper = total[top, left] * (1 - across) + total[top, left + 1] * across
    lower = total[top + 1, left] * (1 - across) + total[top + 1, left + 1] * across
    return np.asarray(upper * (1 - down) + lower * down, dtype=np.float64)
