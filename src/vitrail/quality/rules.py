"""From measured cells to artefacts: one small rule for each kind."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from vitrail.classes import ArtefactKind
from vitrail.quality.areas import EIGHT, drop_small_pieces
from vitrail.quality.features import BLOCK, mean_of_squares, neutral

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.quality.features import Cells
    from vitrail.settings.schema import ArtefactSettings

    Plane = NDArray[np.float32]
    Mask = NDArray[np.bool_]

HEMATOXYLIN, EOSIN = (0.60, 0.71, 0.37), (0.17, 0.83, 0.53)
"""Optical densities in red, green and blue; only their plane and its edges matter."""

_FAINT = 0.05
"""Below this density a hue means nothing."""

_LINE = 15
"""Cells along which a fold is averaged: 120 um, longer than most crypts and nests are."""

_SIDES = (4, 6, 8)
"""Cells from a fold's middle to its sides: folds are 20 to 80 um wide."""

_ANGLES = 16
_TRACE = 0.04
"""Added to both densities before they are compared, as a stain may be all but absent."""

_WEAKER = 0.85
"""A fold goes on where its contrast falls to this part."""

_BESIDE = 0.5
"""A fold lies on tissue: one side at least has this part of the tissue's median density."""

_BRANCHING = 1.25
"""A band's area is its length times its width; a net of septa or crypts has more."""

_GAP = 2
"""Cells by which a ring is thickened to close its gaps."""

_RING = 0.05
"""Share of a cell that a bubble's thin rim may cover."""

_PALER, _STRONG = 0.7, 0.4
"""Blood may be by this part less red, where at least that part of it is red enough."""

_SURELY_INK = 1.22
"""Share of eosin of red ink on glass."""

_STROKE = 6
"""A black stroke is at least so many squares of the least width large; a clump of dust is not."""

_NEAR = 8
"""Red within so many cells of red is judged together: tissue under ink interrupts it."""

_BESIDE_PEN = 4
"""Black within so many cells of ink, and joined to it, is ink over tissue."""

_SCRAP = 3
"""Fewer cells of pen are noise."""


@dataclass(frozen=True, kw_only=True)
class _Light:
    """The densities of a slide's cells, taken apart."""

    cells: Cells
    settings: ArtefactSettings

    @cached_property
    def density(self) -> Plane:
        """[rows, columns, 3]."""
        return self.cells.density.astype(np.float32)

    @cached_property
    def length(self) -> Plane:
        """Length of the density's vector."""
        return np.asarray(np.sqrt(np.square(self.density).sum(axis=-1)), dtype=np.float32)

    @cached_property
    def stains(self) -> Plane:
        """[rows, columns, 3]: hematoxylin, eosin, and what leads out of their plane."""
        vectors = np.array([HEMATOXYLIN, EOSIN, np.cross(HEMATOXYLIN, EOSIN)])
        unit = [vector / np.linalg.norm(vector) for vector in vectors]
        unmix = np.linalg.inv(np.stack(unit)).astype(np.float32)
        return np.asarray(sum(self.density[..., c, None] * unmix[c] for c in range(3)), dtype=np.float32)

    @cached_property
    def hue(self) -> Plane:
        """[rows, columns, 2]: the shares of eosin, and of what leads out of the plane, in the density."""
        return np.asarray(self.stains[..., 1:] / np.maximum(self.length, _FAINT)[..., None], dtype=np.float32)

    @cached_property
    def tissue(self) -> Mask:
        """Where there is something with a hue that stains can have."""
        stained = (self.hue[..., 0] > 0) & ~neutral(self.density, self.settings.grey)
        return np.asarray((self.density.mean(axis=-1) > self.settings.tissue) & stained, dtype=np.bool_)

    def radius(self, um: float) -> int:
        """Return a diameter in micrometres as a radius in cells."""
        return max(round(um / 2 / self.cells.grid.cell_um), 1)


def name_artefacts(cells: Cells, settings: ArtefactSettings) -> dict[ArtefactKind, Mask]:
    """Tell which cells are spoilt, and how.

    Parameters
    ----------
    cells
        What was measured.
    settings
        The thresholds.

    Returns
    -------
    dict[ArtefactKind, NDArray[np.bool_]]
        A mask `[rows, columns]` for each kind.
    """
    light = _Light(cells=cells, settings=settings)
    # ink, dust and print are neutral as a whole, or in enough of their pixels
    grey = (light.density.max(axis=-1) > settings.grey_density) & neutral(light.density, settings.grey)
    black = np.asarray(grey | (cells.black > settings.speck), dtype=np.bool_)
    # a stroke of black ink is ragged, and tissue shines through: it has all that joins what a disk fits into
    stroke = light.radius(settings.pen_um)
    solid = ndimage.binary_closing(np.pad(black, 2), EIGHT)[2:-2, 2:-2]
    thick = ndimage.binary_dilation(_fits_disk(solid, stroke), EIGHT, iterations=2 * stroke, mask=solid)
    thick = drop_small_pieces(thick, _STROKE * (2 * stroke) ** 2, diagonal=True)
    bubble, rim = _find_bubbles((black | (cells.black > _RING)) & ~thick, light)
    blood, red_pen = _find_red(light)
    # blue, green and violet absorb red more, against green, than any mixture of the stains does
    coloured = (light.length > settings.ink_density) & (light.hue[..., 0] < settings.ink)
    pen = drop_small_pieces(coloured, _SCRAP, diagonal=True) | thick | red_pen
    pen |= ndimage.binary_dilation(pen, EIGHT, iterations=_BESIDE_PEN, mask=black | pen)
    foreign = ndimage.binary_dilation(pen | black, EIGHT)
    return {
        ArtefactKind.PEN: pen,
        ArtefactKind.FOLD: _find_folds(light, foreign | blood),
        ArtefactKind.BLUR: _find_blur(light, pen | rim | blood),
        ArtefactKind.BLOOD: blood & ~pen,
        ArtefactKind.DEBRIS: black & ~pen & ~rim,
        ArtefactKind.BUBBLE: bubble,
    }


def _fits_disk(mask: Mask, radius: int) -> Mask:
    """Keep what a disk fits into."""
    inside = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] > radius
    if not inside.any():
        return np.zeros(mask.shape, np.bool_)
    return np.asarray((ndimage.distance_transform_edt(~inside) <= radius) & mask, dtype=np.bool_)


def _find_bubbles(thin: Mask, light: _Light) -> tuple[Mask, Mask]:
    """Find what thin dark closed rings enclose, if it is round; return it with its rim, and the rim."""
    holes, _ = ndimage.label(~ndimage.binary_dilation(thin, EIGHT, iterations=_GAP))
    least = light.settings.bubble_um / light.cells.grid.cell_um - 2 * (_GAP + 1)
    inside = np.zeros(thin.shape, np.bool_)
    for number, box in enumerate(ndimage.find_objects(holes), start=1):
        height, width = (side.stop - side.start for side in box)
        on_edge = any(side.start == 0 or side.stop == length for side, length in zip(box, thin.shape, strict=True))
        if on_edge or min(height, width) < least or max(height, width) > 1.3 * min(height, width):
            continue
        hole = ndimage.binary_fill_holes(np.pad(holes[box] == number, 1))
        points = np.argwhere(hole)
        spread = np.square(points - points.mean(axis=0)).sum(axis=1).mean()
        # the area over that of a disk with the same mean squared distance from its middle: a square has 3 / pi
        if len(points) / (2 * np.pi * max(spread, 1e-6)) >= light.settings.round:
            inside[box] |= hole[1:-1, 1:-1]
    inside = ndimage.binary_dilation(inside, EIGHT, iterations=_GAP)
    bubble = ndimage.binary_dilation(inside, EIGHT, iterations=_GAP) & (inside | thin)
    return bubble, bubble & thin


def _find_red(light: _Light) -> tuple[Mask, Mask]:
    """Find what is red without hematoxylin; drawn out and with no hematoxylin at all it is ink, else blood."""
    settings = light.settings
    eosin, out = light.hue[..., 0], light.hue[..., 1]
    own = float(np.median(out[light.tissue])) if light.tissue.any() else 0.0
    strong = out - own > settings.red
    red = (light.length > settings.red_density) & (out - own > _PALER * settings.red) & (eosin > settings.eosin)
    red = ndimage.uniform_filter(red.astype(np.float32), 3) > 0.5
    red = _fits_disk(ndimage.binary_closing(np.pad(red, 2), EIGHT)[2:-2, 2:-2], 1)
    red = drop_small_pieces(red, int(np.pi * light.radius(settings.blood_um) ** 2), diagonal=True)
    pieces, _ = ndimage.label(red, EIGHT)
    enough = np.bincount(pieces[strong], minlength=pieces.max() + 1) >= _STRONG * np.bincount(pieces.ravel())
    red = np.asarray(enough[pieces] & (pieces > 0), dtype=np.bool_)
    ink = np.zeros(red.shape, np.bool_)
    groups, _ = ndimage.label(ndimage.binary_dilation(red, EIGHT, iterations=_NEAR), EIGHT)
    groups = np.where(red, groups, 0)
    for number, box in enumerate(ndimage.find_objects(groups), start=1):
        part = groups[box] == number
        hue = np.median(eosin[box][part])
        width = 2 * ndimage.distance_transform_edt(np.pad(part, 1)).max() - 1
        squares = part.sum() / width**2  # length over width, were it one stroke
        if hue >= _SURELY_INK or (hue >= settings.red_ink and squares >= settings.stroke):
            ink[box] |= part
    return red & ~ink, ink


def _find_folds(light: _Light, foreign: Mask) -> Mask:
    """Find bands in which both stains are denser than on either side, and by far."""
    settings, judged = light.settings, light.tissue & ~foreign
    folds = np.zeros(foreign.shape, np.bool_)
    if not judged.any():
        return folds
    density = light.density.mean(axis=-1)
    usual = float(np.median(density[judged]))
    hematoxylin, eosin, dense = (
        np.where(foreign, 0, np.maximum(plane, 0)) for plane in (light.stains[..., 0], light.stains[..., 1], density)
    )
    contrast = _fold_contrast(hematoxylin, eosin, dense, _BESIDE * usual)
    contrast[(density < settings.fold_density * usual) | foreign] = 0
    weak = ndimage.binary_closing(np.pad(contrast >= max(_WEAKER * settings.fold, 1), 1), EIGHT)[1:-1, 1:-1]
    pieces, _ = ndimage.label(weak, EIGHT)
    boxes = ndimage.find_objects(pieces)
    least = settings.fold_um / light.cells.grid.cell_um
    for number in np.unique(pieces[(contrast >= settings.fold) & (pieces > 0)]):
        band = pieces[boxes[number - 1]] == number
        # length from the spread along the main axis, width from the mean distance to the edge, as of a rectangle
        spread = np.cov(np.argwhere(band).T) if band.sum() > 1 else np.zeros((2, 2))
        depth = ndimage.distance_transform_edt(np.pad(band, 1))[1:-1, 1:-1][band].mean()
        length, width = float(np.sqrt(12 * np.linalg.eigvalsh(spread)[-1])), float(4 * depth - 1)
        if length >= max(least, settings.fold_slim * width) and band.sum() <= _BRANCHING * length * width:
            folds[boxes[number - 1]] |= band
    return folds


def _fold_contrast(hematoxylin: Plane, eosin: Plane, density: Plane, beside: float) -> Plane:
    """Return by how much each cell is denser than the denser of its two sides, in the best direction.

    The lesser of the stains' contrasts counts, so that crowded nuclei, which raise one stain alone, are no fold; of
    the density, one side must have as much as `beside`.
    """
    best = np.zeros_like(hematoxylin)
    steps = np.arange(_LINE) - _LINE // 2
    for angle in np.arange(_ANGLES) * (np.pi / _ANGLES):
        along = np.array([np.sin(angle), np.cos(angle)])
        across = np.array([along[1], -along[0]])
        lines = [
            np.asarray(sum(_moved(plane, along * step) for step in steps) / _LINE, dtype=np.float32)
            for plane in (hematoxylin, eosin, density)
        ]
        for side in _SIDES:
            sides = [np.maximum(_moved(line, across * side), _moved(line, -across * side)) for line in lines]
            ratios = [(line + _TRACE) / (other + _TRACE) for line, other in zip(lines[:2], sides[:2], strict=True)]
            np.maximum(best, np.where(sides[2] >= beside, np.minimum(*ratios), 0), out=best)
    return best


def _moved(plane: Plane, offset: NDArray[np.float64]) -> Plane:
    """Return a plane whose cell holds what lies `offset` (rows, columns, rounded) from it; nothing beyond the edge."""
    dy, dx = (int(v) for v in np.rint(offset))
    height, width = plane.shape
    moved = np.zeros_like(plane)
    to = (slice(max(-dy, 0), max(height - max(dy, 0), 0)), slice(max(-dx, 0), max(width - max(dx, 0), 0)))
    of = (slice(max(dy, 0), max(height - max(-dy, 0), 0)), slice(max(dx, 0), max(width - max(-dx, 0), 0)))
    moved[to] = plane[of]
    return moved


def _find_blur(light: _Light, foreign: Mask) -> Mask:
    """Find blocks of tissue without fine detail, by what they have of coarse detail."""
    settings, cells = light.settings, light.cells
    tissue, spoilt = mean_of_squares(light.tissue & ~foreign, BLOCK), mean_of_squares(foreign, BLOCK)
    judged = (tissue > 0.25) & (spoilt < 0.1) & (cells.coarse > 0)
    detail = cells.fine / np.maximum(cells.coarse, 1e-7)
    pieces, _ = ndimage.label(judged & (detail < settings.blur_edge), EIGHT)
    sure = np.bincount(pieces[judged & (detail < settings.blur)], minlength=int(pieces.max()) + 1)
    blurred = sure >= settings.blur_blocks
    blurred[0] = False
    return np.repeat(np.repeat(blurred[pieces], BLOCK, axis=0), BLOCK, axis=1) & light.tissue
