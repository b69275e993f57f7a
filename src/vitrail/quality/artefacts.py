"""Artefacts: pen, folds, defocus, blood, debris and bubbles, found by what they do to light.

Hematoxylin and eosin span a plane, and in it a cone, of optical densities (Ruifrok and Johnston 2001, Anal Quant Cytol
Histol 23:291). Ink and dust lie outside it; shed blood lies on its red side, away from the slide's own hue; a fold has
its surroundings' hue and about twice their density; out of focus, fine detail is lost and coarse detail stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vitrail.classes import ARTEFACTS
from vitrail.core.shown import Shown
from vitrail.quality.areas import MaskSums, looked_up
from vitrail.quality.features import CellGrid, measure_cells
from vitrail.quality.rules import name_artefacts
from vitrail.settings.schema import ArtefactSettings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

    from vitrail.classes import ArtefactKind
    from vitrail.core.progress import Progress
    from vitrail.geometry import Region
    from vitrail.quality.tissue import Tissue
    from vitrail.slides.slide import Slide


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefacts(Shown):
    """The artefacts of a slide.

    Attributes
    ----------
    masks
        `[kinds, rows, columns]`: where each kind is, in the order of `ARTEFACTS`; a cell may have several kinds.
    cell
        Level-0 pixels along the side of a cell; the first cell begins at (0, 0).
    cell_um
        Micrometres along the side of a cell.
    """

    masks: NDArray[np.bool_]
    cell: float
    cell_um: float

    def __repr__(self) -> str:
        shares = (f"{kind.title.lower()} {self.masks[kind].mean():.1%}" for kind in ARTEFACTS if self.masks[kind].any())
        return f"<Artefacts: {', '.join(shares) or 'none'}; cells of {self.cell_um:g} um>"

    def mask(self, kinds: Iterable[ArtefactKind] | None = None) -> NDArray[np.bool_]:
        """Return where any of some kinds is (by default of all), `[rows, columns]`."""
        return np.asarray(
            self.masks[[int(kind) for kind in (ARTEFACTS if kinds is None else kinds)]].any(axis=0), dtype=np.bool_
        )

    def within(self, tissue: Tissue, kinds: Iterable[ArtefactKind] | None = None) -> NDArray[np.bool_]:
        """Return where any of some kinds is (by default of all), in the pixels of a mask of tissue."""
        y, x = ((np.arange(n) + 0.5) * side for n, side in zip(tissue.mask.shape, tissue.cell, strict=True))
        return looked_up(self.mask(kinds), (self.cell, self.cell), (y, x))

    def share(self, region: Region, kinds: Iterable[ArtefactKind] | None = None) -> float:
        """Return the share of a region, in level-0 pixels, that any of some kinds (by default of all) covers."""
        return float(self.shares([[region.x, region.y, region.width, region.height]], kinds)[0])

    def shares(self, boxes: ArrayLike, kinds: Iterable[ArtefactKind] | None = None) -> NDArray[np.float64]:
        """Return the shares of many rectangles at once.

        Parameters
        ----------
        boxes
            `[n, 4]`: x, y, width, height in level-0 pixels; what lies beyond the slide counts as clean.
        kinds
            Which kinds count; by default all.

        Returns
        -------
        NDArray[np.float64]
            `[n]`, from 0 to 1. Cells on the edge of a rectangle count by the part inside it.
        """
        left, top, width, height = np.asarray(boxes, dtype=float).reshape(-1, 4).T / self.cell
        inside = MaskSums(self.mask(kinds)).inside(top, left, top + height, left + width)
        return np.asarray(np.clip(inside / (width * height), 0, 1), dtype=np.float64)


def find_artefacts(
    slide: Slide, settings: ArtefactSettings | None = None, *, progress: Progress | None = None
) -> Artefacts:
    """Find the artefacts of a slide.

    The slide is read once, in strips, at 2 um per pixel; what stays are a few numbers for each cell of 8 um.

    Parameters
    ----------
    slide
        The slide.
    settings
        Thresholds; by default those of `ArtefactSettings`.
    progress
        Told of every strip.

    Returns
    -------
    Artefacts
        A mask for each kind.

    Raises
    ------
    SlideError
        The slide cannot be read.
    """
    settings = settings or ArtefactSettings()
    grid = CellGrid.over(slide, settings.pixel_um, settings.cell_um)
    masks = name_artefacts(measure_cells(slide, grid, settings, progress), settings)
    return Artefacts(masks=np.stack([masks[kind] for kind in ARTEFACTS]), cell=grid.cell, cell_um=grid.cell_um)
