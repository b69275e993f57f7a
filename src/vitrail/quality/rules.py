"""From measured cells to artefacts: one small rule for each kind."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from vitrail.quality.features import BLOCK, neutral
from vitrail.quality.kinds import ArtefactKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.quality.features import Cells
    from vitrail.settings.schema import ArtefactSettings

    Plane = NDArray[np.float32]
    Mask = NDArray[np.bool_]

_HEMATOXYLIN, _EOSIN = np.array([0.60, 0.71, 0.37]), np.array([0.17, 0.83, 0.53])
"""Optical densities in red, green and blue; only their plane and its edges matter."""

_EIGHT = np.ones((3, 3), np.bool_)
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
        normal = np.cross(_HEMATOXYLIN, _EOSIN)
        unit = [v / np.linalg.norm(v) for v in (_HEMATOXYLIN, _EOSIN, normal)]
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
    A mask [rows, columns] for each kind.
    """
    light = _Light(cells=cells, settings=settings)
    black = _black(light)
    thick = _thick(black, light.radius(settings.pen_um))
    bubble, rim = _bubbles((black | (cells.black > _RING)) & ~thick, light)
    blood, red_pen = _red(light)
    pen = _without_scraps(_coloured_pen(light), _SCRAP) | thick | red_pen
    pen |= ndimage.binary_dilation(pen, _EIGHT, iterations=_BESIDE_PEN, mask=black | pen)
    foreign = ndimage.binary_dilation(pen | black, _EIGHT)
    return {
        ArtefactKind.PEN: pen,
        ArtefactKind.FOLD: _folds(light, foreign | blood),
        ArtefactKind.BLUR: _blurred(light, pen | rim | blood),
        ArtefactKind.BLOOD: blood & ~pen,
        ArtefactKind.DEBRIS: black & ~pen & ~rim,
        ArtefactKind.BUBBLE: bubble,
    }


def _coloured_pen(light: _Light) -> Mask:
    """Blue, green, violet: red is absorbed more, against green, than any mixture of the stains does."""
    dense = light.length > light.settings.ink_density
    return np.asarray(dense & (light.hue[..., 0] < light.settings.ink), dtype=np.bool_)


def _black(light: _Light) -> Mask:
    """Find ink, dust and print: neutral as a whole, or in enough of their pixels."""
    settings = light.settings
    dense = light.density.max(axis=-1) > settings.grey_density
    whole = dense & neutral(light.density, settings.grey)
    return np.asarray(whole | (light.cells.black > settings.speck), dtype=np.bool_)


def _thick(mask: Mask, radius: int) -> Mask:
    """Keep what a disc fits into, with what lies beside it: a stroke is ragged, and tissue shines through."""
    whole = ndimage.binary_closing(np.pad(mask, 2), _EIGHT)[2:-2, 2:-2]
    grown = ndimage.binary_dilation(_opened(whole, radius), _EIGHT, iterations=2 * radius, mask=whole)
    return _without_scraps(grown, _STROKE * (2 * radius) ** 2)


def _opened(mask: Mask, radius: int) -> Mask:
    """Keep what a disc fits into."""
    inside = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] > radius
    if not inside.any():
        return np.zeros(mask.shape, np.bool_)
    return np.asarray((ndimage.distance_transform_edt(~inside) <= radius) & mask, dtype=np.bool_)


def _without_scraps(mask: Mask, least: int) -> Mask:
    """Drop connected parts of fewer than `least` cells."""
    parts = _labels(mask)
    keep = np.bincount(parts.ravel()) >= least
    keep[0] = False
    return np.asarray(keep[parts], dtype=np.bool_)


def _labels(mask: Mask) -> NDArray[np.int32]:
    """Count the connected parts of a mask from 1."""
    return np.asarray(ndimage.label(mask, _EIGHT)[0], dtype=np.int32)


def _bubbles(thin: Mask, light: _Light) -> tuple[Mask, Mask]:
    """Find what thin dark closed rings enclose, if it is round; return it with its rim, and the rim."""
    holes, _ = ndimage.label(~ndimage.binary_dilation(thin, _EIGHT, iterations=_GAP))
    least = light.settings.bubble_um / light.cells.grid.cell_um - 2 * (_GAP + 1)
    inside = np.zeros(thin.shape, np.bool_)
    for number, box in enumerate(ndimage.find_objects(holes), start=1):
        if _may_be_round(box, thin.shape, least):
            hole = ndimage.binary_fill_holes(np.pad(holes[box] == number, 1))
            if _roundness(hole) >= light.settings.round:
                inside[box] |= hole[1:-1, 1:-1]
    inside = ndimage.binary_dilation(inside, _EIGHT, iterations=_GAP)
    whole = ndimage.binary_dilation(inside, _EIGHT, iterations=_GAP) & (inside | thin)
    return whole, whole & thin


def _may_be_round(box: tuple[slice, ...], shape: tuple[int, ...], least: float) -> bool:
    """Say whether a box is large enough, about square, and off the edge of the slide."""
    height, width = (side.stop - side.start for side in box)
    inner = all(side.start > 0 and side.stop < length for side, length in zip(box, shape, strict=True))
    return inner and min(height, width) >= least and max(height, width) <= 1.3 * min(height, width)


def _roundness(hole: Mask) -> float:
    """Return the area over that of the disc with the same mean radius at the rim, squared distances averaged."""
    points = np.argwhere(hole)
    spread = np.square(points - points.mean(axis=0)).sum(axis=1).mean()
    return float(len(points) / (2 * np.pi * max(spread, 1e-6)))  # 1 for a disc, 3 / pi for a square


def _red(light: _Light) -> tuple[Mask, Mask]:
    """Find what is red without hematoxylin; drawn out and with no hematoxylin at all it is ink, else blood."""
    settings = light.settings
    eosin, out = light.hue[..., 0], light.hue[..., 1]
    own = float(np.median(out[light.tissue])) if light.tissue.any() else 0.0
    dense = light.length > settings.red_density
    strong = out - own > settings.red
    red = dense & (out - own > _PALER * settings.red) & (eosin > settings.eosin)
    red = ndimage.uniform_filter(red.astype(np.float32), 3) > 0.5
    red = _opened(ndimage.binary_closing(np.pad(red, 2), _EIGHT)[2:-2, 2:-2], 1)
    parts = _labels(_without_scraps(red, int(np.pi * light.radius(settings.blood_um) ** 2)))
    enough = np.bincount(parts[strong], minlength=parts.max() + 1) >= _STRONG * np.bincount(parts.ravel())
    red = np.asarray(enough[parts] & (parts > 0), dtype=np.bool_)
    ink = np.zeros(red.shape, np.bool_)
    groups = np.where(red, _labels(ndimage.binary_dilation(red, _EIGHT, iterations=_NEAR)), 0)
    for number, box in enumerate(ndimage.find_objects(groups), start=1):
        part = groups[box] == number
        hue = np.median(eosin[box][part])
        if hue >= _SURELY_INK or (hue >= settings.red_ink and _strokes(part) >= settings.stroke):
            ink[box] |= part
    return red & ~ink, ink


def _strokes(part: Mask) -> float:
    """Return how many squares of its greatest width a part fills: length over width, were it one stroke."""
    half = ndimage.distance_transform_edt(np.pad(part, 1)).max()
    return float(part.sum() / (2 * half - 1) ** 2)


def _folds(light: _Light, foreign: Mask) -> Mask:
    """Find bands in which both stains are denser than on either side, and by far."""
    settings, judged = light.settings, light.tissue & ~foreign
    if not judged.any():
        return np.zeros(foreign.shape, np.bool_)
    density = light.density.mean(axis=-1)
    usual = float(np.median(density[judged]))
    planes = [light.stains[..., 0], light.stains[..., 1], density]
    contrast = _ridges([np.where(foreign, 0, np.maximum(plane, 0)) for plane in planes], _BESIDE * usual)
    contrast[(density < settings.fold_density * usual) | foreign] = 0
    weak = ndimage.binary_closing(np.pad(contrast >= max(_WEAKER * settings.fold, 1), 1), _EIGHT)[1:-1, 1:-1]
    parts = _labels(weak)
    strong = np.unique(parts[contrast >= settings.fold])
    return _bands(parts, strong[strong > 0], settings.fold_um / light.cells.grid.cell_um, settings.fold_slim)


def _ridges(planes: list[Plane], beside: float) -> Plane:
    """Return by how much each cell is denser than the denser of its two sides, in the best direction.

    `planes` are hematoxylin, eosin and density: the lesser of the stains' contrasts counts, so that crowded nuclei,
    which raise one stain alone, are no fold; of the density, one side must have as much as `beside`.
    """
    best = np.zeros_like(planes[0])
    for angle in np.arange(_ANGLES) * (np.pi / _ANGLES):
        along = np.array([np.sin(angle), np.cos(angle)])
        across = np.array([along[1], -along[0]])
        lines = [_line_mean(plane, along) for plane in planes]
        for side in _SIDES:
            np.maximum(best, _contrast(lines, across * side, beside), out=best)
    return best


def _line_mean(plane: Plane, along: NDArray[np.float64]) -> Plane:
    steps = np.arange(_LINE) - _LINE // 2
    return np.asarray(sum(_moved(plane, along * step) for step in steps) / _LINE, dtype=np.float32)


def _contrast(lines: list[Plane], side: NDArray[np.float64], beside: float) -> Plane:
    """Compare lines with the denser of those on both sides."""
    sides = [np.maximum(_moved(line, side), _moved(line, -side)) for line in lines]
    ratios = [(line + _TRACE) / (other + _TRACE) for line, other in zip(lines[:2], sides[:2], strict=True)]
    return np.asarray(np.where(sides[2] >= beside, np.minimum(*ratios), 0), dtype=np.float32)


def _moved(plane: Plane, way: NDArray[np.float64]) -> Plane:
    """Return a plane whose cell holds what lies `way` (rows, columns, rounded) from it; nothing beyond the edge."""
    dy, dx = (int(v) for v in np.rint(way))
    height, width = plane.shape
    moved = np.zeros_like(plane)
    to = (slice(max(-dy, 0), max(height - max(dy, 0), 0)), slice(max(-dx, 0), max(width - max(dx, 0), 0)))
    of = (slice(max(dy, 0), max(height - max(-dy, 0), 0)), slice(max(dx, 0), max(width - max(-dx, 0), 0)))
    moved[to] = plane[of]
    return moved


def _bands(parts: NDArray[np.int32], numbers: NDArray[np.int32], length: float, slim: float) -> Mask:
    """Keep, of the parts numbered, the bands: long enough, slim enough, without branches."""
    kept = np.zeros(parts.shape, np.bool_)
    boxes = ndimage.find_objects(parts)
    for number in numbers:
        part = parts[boxes[number - 1]] == number
        long, wide = _extent(part)
        if long >= max(length, slim * wide) and part.sum() <= _BRANCHING * long * wide:
            kept[boxes[number - 1]] |= part
    return kept


def _extent(part: Mask) -> tuple[float, float]:
    """Return length and width of a band: from the spread along its main axis, and from the distance to its edge."""
    spread = np.cov(np.argwhere(part).T) if part.sum() > 1 else np.zeros((2, 2))
    depth = ndimage.distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1][part].mean()
    return float(np.sqrt(12 * np.linalg.eigvalsh(spread)[-1])), float(4 * depth - 1)  # as of a rectangle


def _blurred(light: _Light, foreign: Mask) -> Mask:
    """Find blocks of tissue without fine detail, by what they have of coarse detail."""
    settings = light.settings
    tissue = _block_mean(light.tissue & ~foreign) > 0.25
    clean = _block_mean(foreign) < 0.1
    detail = light.cells.fine / np.maximum(light.cells.coarse, 1e-7)
    judged = tissue & clean & (light.cells.coarse > 0)
    parts = _labels(judged & (detail < settings.blur_edge))
    core = np.bincount(parts[judged & (detail < settings.blur)], minlength=int(parts.max()) + 1) >= settings.blur_blocks
    core[0] = False
    return np.repeat(np.repeat(core[parts], BLOCK, axis=0), BLOCK, axis=1) & light.tissue


def _block_mean(mask: Mask) -> Plane:
    rows, columns = (n // BLOCK for n in mask.shape)
    return np.asarray(mask.reshape(rows, BLOCK, columns, BLOCK).mean(axis=(1, 3), dtype=np.float32), dtype=np.float32)
