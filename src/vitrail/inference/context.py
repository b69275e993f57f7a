"""The context of a slide, before any network looks at it: its tiles, its tissue, its artefacts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vitrail.classes import ARTEFACTS
from vitrail.errors import SlideError
from vitrail.quality.artefacts import find_artefacts
from vitrail.quality.tissue import find_tissue
from vitrail.slides.slide import read_thumbnail
from vitrail.slides.stain import stain_of
from vitrail.tiles.grid import covering_grid

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from vitrail.classes import ArtefactKind
    from vitrail.core.progress import Progress
    from vitrail.models.spec import ModelSpec
    from vitrail.quality.artefacts import Artefacts
    from vitrail.quality.tissue import Tissue
    from vitrail.settings.load import Settings
    from vitrail.slides.slide import Slide
    from vitrail.tiles.grid import TileGrid

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SlideContext:
    """A slide before any network looks at it.

    Attributes
    ----------
    slide
        The slide.
    grid
        Its tiles.
    tissue
        Where its tissue is.
    artefacts
        Where artefacts are; None where they are not looked for.
    clean
        Where tissue is without artefacts.
    """

    slide: Slide
    grid: TileGrid
    tissue: Tissue
    artefacts: Artefacts | None
    clean: Tissue

    @property
    def boxes(self) -> Floats:
        """All tiles, row by row: x, y, width and height in level-0 pixels, `[rows * columns, 4]`."""
        y, x = np.mgrid[: self.grid.rows, : self.grid.columns].reshape(2, -1) * self.grid.side
        return np.column_stack([x, y, np.full((len(x), 2), self.grid.side)])

    @property
    def tissue_cell(self) -> tuple[float, float]:
        """Height and width of a pixel of the tissue mask in level-0 pixels."""
        return self.tissue.cell

    def artefact_mask(self, kinds: Iterable[ArtefactKind] | None = None) -> Mask:
        """Return where some kinds of artefact are, by default all, in the pixels of the tissue mask."""
        return np.zeros_like(self.tissue.mask) if self.artefacts is None else self.artefacts.within(self.tissue, kinds)

    def artefact_shares(self, boxes: Floats, kinds: Iterable[ArtefactKind] | None = None) -> Floats:
        """Return the share of boxes `[n, 4]` that any of some kinds of artefact covers, by default of all."""
        return np.zeros(len(boxes)) if self.artefacts is None else self.artefacts.shares(boxes, kinds)

    def artefact_shares_of_tissue(self) -> dict[str, float]:
        """Return the share of the tissue that each kind of artefact covers, by its key; they may overlap."""
        masks = {kind.key: self.artefact_mask([kind]) for kind in ARTEFACTS}
        return {key: round(float(mask[self.tissue.mask].mean()), 6) for key, mask in masks.items()}

    def mean_colour(self) -> list[float]:
        """Return the mean red, green and blue that networks see of clean tissue, or of all tissue, 0 to 255."""
        picture = stain_of(self.slide).apply(read_thumbnail(self.slide, 1024))
        size_px = picture.shape[1], picture.shape[0]
        weights = self.clean.cover(self.slide.region, size_px)
        if not weights.any():
            weights = self.tissue.cover(self.slide.region, size_px)
        inside = weights * (weights >= weights.max() / 2)  # pixels on the border are half glass
        mean = (picture * inside[..., None]).sum((0, 1)) / inside.sum()
        return [round(float(value), 2) for value in mean]


def find_context(slide: Slide, specs: Sequence[ModelSpec], settings: Settings, progress: Progress) -> SlideContext:
    """Find tissue and artefacts of a slide.

    Parameters
    ----------
    slide
        The slide.
    specs
        Of the networks that will look at it; the tiles are the first one's.
    settings
        The branches `predict`, `tissue` and `artefacts` matter.
    progress
        Told how far the work is.

    Returns
    -------
    SlideContext
        With at least one pixel of tissue.

    Raises
    ------
    SlideError
        The slide cannot be read, holds no tissue, is smaller than one tile, or its pixels are too coarse for the
        networks.
    """
    for spec in specs:
        if slide.mpp > spec.mpp * 1.5:  # beyond, a network would look at blur
            problem = f"has {slide.mpp:.3g} um/px, and the {spec.task} needs {spec.mpp:.3g}"
            raise SlideError(slide.path, problem, "Scan it finer, or give its true mpp if the header is wrong")
        width_um, height_um = slide.region.width * slide.mpp, slide.region.height * slide.mpp
        if min(width_um, height_um) < spec.side_um * (1 - 1e-6):  # a slide of exactly one tile is not smaller than one
            sizes = f"{width_um:.4g} x {height_um:.4g} um, a tile {spec.side_um:g}"
            problem = f"is smaller than one tile of the {spec.task} ({sizes})"
            raise SlideError(slide.path, problem, "Give a larger scan, or its true mpp if the header is wrong")
    tissue = find_tissue(slide, settings.tissue)
    if not tissue.mask.any():
        raise SlideError(slide.path, "holds no tissue", "Check the slide, or lower tissue.density")
    looks = settings.predict.artefacts
    artefacts = find_artefacts(slide, settings.artefacts, progress=progress) if looks else None
    grid = covering_grid(slide, specs[0].side_um)
    context = SlideContext(slide=slide, grid=grid, tissue=tissue, artefacts=artefacts, clean=tissue)
    return replace(context, clean=replace(tissue, mask=tissue.mask & ~context.artefact_mask()))
