"""What is known of a slide before any network looks at it: its tiles, its tissue, its artefacts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vitrail.classes import ARTEFACTS
from vitrail.errors import SlideError
from vitrail.quality.artefacts import find_artefacts
from vitrail.quality.tissue import find_tissue
from vitrail.slides.slide import read_thumbnail
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

_COARSEST = 1.5
"""Pixels of a slide may be this many times as large as a network's: beyond, it would look at blur."""

_WHOLE = 1 - 1e-6
"""A slide of exactly one tile is not smaller than one."""

_THUMBNAIL_PX = 1024


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SlideContext:
    """What is known of a slide before any network looks at it.

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
        return _cell(self.tissue)

    def spoilt(self, boxes: Floats, kinds: Iterable[ArtefactKind] | None = None) -> Floats:
        """Return the share of boxes `[n, 4]` that any of some kinds of artefact covers, by default of all."""
        return np.zeros(len(boxes)) if self.artefacts is None else self.artefacts.shares(boxes, kinds)

    def spoilt_tissue(self) -> dict[str, float]:
        """Return the share of the tissue that each kind of artefact covers, by its key; one place may have several."""
        if self.artefacts is None:
            return {kind.key: 0.0 for kind in ARTEFACTS}
        found = {kind.key: _spoilt(self.tissue, self.artefacts, [kind])[self.tissue.mask] for kind in ARTEFACTS}
        return {key: round(float(there.mean()), 6) for key, there in found.items()}


def find_ground(slide: Slide, specs: Sequence[ModelSpec], settings: Settings, progress: Progress) -> SlideContext:
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

    Raises
    ------
    SlideError
        The slide cannot be read, holds no tissue, is smaller than one tile, or its pixels are too coarse for the
        networks.
    """
    for spec in specs:
        _check_fit(slide, spec)
    tissue = find_tissue(slide, settings.tissue)
    if not tissue.mask.any():
        raise SlideError(slide.path, "holds no tissue", "Check the slide, or lower tissue.density")
    wanted = settings.predict.artefacts
    artefacts = find_artefacts(slide, settings.artefacts, progress=progress) if wanted else None
    clean = _without(tissue, artefacts) if artefacts else tissue
    grid = covering_grid(slide, specs[0].side_um)
    return SlideContext(slide=slide, grid=grid, tissue=tissue, artefacts=artefacts, clean=clean)


def _check_fit(slide: Slide, spec: ModelSpec) -> None:
    if slide.mpp > spec.mpp * _COARSEST:
        problem = f"has {slide.mpp:.3g} um/px, and the {spec.task} needs {spec.mpp:.3g}"
        raise SlideError(slide.path, problem, "Scan it finer, or give its true mpp if the header is wrong")
    width, height = slide.region.width * slide.mpp, slide.region.height * slide.mpp
    if min(width, height) < spec.side_um * _WHOLE:
        problem = (
            f"is smaller than one tile of the {spec.task} ({width:.4g} x {height:.4g} um, a tile {spec.side_um:g})"
        )
        raise SlideError(slide.path, problem, "Give a larger scan, or its true mpp if the header is wrong")


def _without(tissue: Tissue, artefacts: Artefacts) -> Tissue:
    """Take artefacts out of tissue."""
    return replace(tissue, mask=tissue.mask & ~_spoilt(tissue, artefacts))


def _spoilt(tissue: Tissue, artefacts: Artefacts, kinds: Iterable[ArtefactKind] | None = None) -> Mask:
    """Return where some kinds of artefact are, in the pixels of the tissue mask."""
    places = [(np.arange(n) + 0.5) * side for n, side in zip(tissue.mask.shape, _cell(tissue), strict=True)]
    return looked_up(artefacts.mask(kinds), (artefacts.cell,) * 2, (places[0], places[1]))


def _cell(tissue: Tissue) -> tuple[float, float]:
    height, width = tissue.mask.shape
    return tissue.region.height / height, tissue.region.width / width


def looked_up(mask: Mask, cell: tuple[float, float], places: tuple[Floats, Floats]) -> Mask:
    """Return the values of a mask at places.

    Parameters
    ----------
    mask
        `[rows, columns]`, from the slide's top left corner.
    cell
        Height and width of its cells in level-0 pixels.
    places
        y `[h]` and x `[w]` in level-0 pixels; beyond the mask its last row and column go on.

    Returns
    -------
    `[h, w]`.
    """
    rows, columns = (
        np.minimum(place / side, most - 1).astype(np.intp)
        for place, side, most in zip(places, cell, mask.shape, strict=True)
    )
    found: Mask = mask[rows][:, columns]
    return found


def mean_colour(ground: SlideContext) -> list[float]:
    """Return the mean red, green and blue of the tissue without artefacts, or of all tissue, 0 to 255."""
    picture = read_thumbnail(ground.slide, _THUMBNAIL_PX)
    size = picture.shape[1], picture.shape[0]
    weights = ground.clean.cover(ground.slide.region, size)
    if not weights.any():
        weights = ground.tissue.cover(ground.slide.region, size)
    inside = weights * (weights >= weights.max() / 2)  # pixels on the border are half glass
    mean = (picture * inside[..., None]).sum((0, 1)) / inside.sum()
    return [round(float(value), 2) for value in mean]
