"""Artefacts drawn over a synthetic slide, with their truth: pen, folds, blurred areas, blood, dust, print, bubbles.

Every artefact is decided as planes at one eighth of the resolution - distances, coverages, blurs - and enlarged where a
block is drawn, so that blocks meet without a seam and the truth comes from the same planes as the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from vitrail.classes import ARTEFACTS, ArtefactKind
from vitrail.synthetic.fields import Mask, Plane, Window, blend, enlarge, smooth_noise
from vitrail.synthetic.layout import Layout, TissueType
from vitrail.synthetic.spec import LAYOUT_STEP, SlideSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vitrail.synthetic.block import Block

_ROOM = 7
"""Number of this step in the slide's random generators."""

_INKS: dict[str, tuple[float, float, float]] = {
    "pen_blue": (0.95, 0.62, 0.16),
    "pen_black": (1.25, 1.22, 1.18),
    "pen_green": (0.90, 0.36, 0.52),
    "pen_red": (0.05, 0.85, 0.80),
}
"""Optical density of undiluted ink in red, green and blue."""

_DARK: dict[str, tuple[float, float, float]] = {
    "dust": (0.85, 0.95, 1.05),
    "fibre": (0.62, 0.60, 0.52),
    "text": (1.30, 1.28, 1.25),
}
_GLYPHS = (
    *("ehhhhhe", "4c4444e", "eh1248v", "v2421he", "26aiv22"),
    *("vgu11he", "68guhhe", "v124888", "ehhehhe", "ehhf12c"),
)
"""The ten digits in 5 x 7 dots: a letter is a row, its bits in base 32 are the dots."""

_FAR_UM = 1e4


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """What lies over a slide or is wrong with it; planes `[side / 8, side / 8]`.

    Attributes
    ----------
    inks
        Coverage with ink, 0 to about 1, by name of the pen.
    fold
        By how much the section is thickened: 1 where it lies double.
    blur_um
        Standard deviation of the defocus in micrometres.
    blood
        Coverage with shed blood, 0 to 1.
    specks_um
        Depth within dust, fibre or print, by name; negative outside.
    bubble_um
        Depth within an air bubble; negative outside.
    """

    inks: dict[str, Plane] = field(default_factory=dict)
    fold: Plane
    blur_um: Plane
    blood: Plane
    specks_um: dict[str, Plane] = field(default_factory=dict)
    bubble_um: Plane


@dataclass(frozen=True, slots=True, kw_only=True)
class _Easel:
    """What an artefact is drawn on and with."""

    rng: np.random.Generator
    overlay: Overlay
    tissue: Mask
    um: float

    @property
    def side(self) -> int:
        return int(self.tissue.shape[0])

    def part(self, share: float, least_um: float, most_um: float) -> float:
        """Return a share of the slide's side in micrometres, within limits."""
        return float(np.clip(share * self.side * self.um, least_um, most_um))

    def noise(self, scale_um: float) -> Plane:
        return smooth_noise(self.rng, self.side, scale_um / self.um)

    def place(self) -> NDArray[np.float64]:
        """Draw a place in the tissue, or anywhere where there is none: row, column."""
        spots = np.flatnonzero(self.tissue)
        spot = int(self.rng.choice(spots)) if spots.size else int(self.rng.integers(self.tissue.size))
        return np.array(divmod(spot, self.side), dtype=float)

    def path(self, length_um: float, bend: float, step_um: float) -> NDArray[np.float64]:
        """Draw a smooth path `[n, 2]` through the tissue; `bend` is its turning in radians over the whole length."""
        count = max(int(length_um / step_um), 8)
        turns = smooth_noise(self.rng, count, count / 3)[0]
        angle = self.rng.uniform(0, 2 * np.pi) + np.cumsum(turns) * (bend / count)
        points = np.cumsum(np.stack([np.sin(angle), np.cos(angle)], axis=1), axis=0) * (step_um / self.um)
        return np.asarray(points - points[count // 2] + self.place())

    def distance(self, points: NDArray[np.float64], reach_um: float) -> Plane:
        """Return the distance from a path in micrometres, as far as `reach_um`."""
        plane = np.full(self.tissue.shape, _FAR_UM, np.float32)
        reach = int(reach_um / self.um) + 2
        for row, column in points:
            _near(plane, (row, column), reach, self.um)
        return plane


def _near(plane: Plane, centre: tuple[float, float], reach: int, um: float) -> None:
    """Lower a plane to the distance from a point, within a square around it."""
    top, left = max(int(centre[0]) - reach, 0), max(int(centre[1]) - reach, 0)
    part = plane[top : max(int(centre[0]) + reach + 1, 0), left : max(int(centre[1]) + reach + 1, 0)]
    if part.size:
        dy = np.arange(top, top + part.shape[0])[:, None] - centre[0]
        dx = np.arange(left, left + part.shape[1]) - centre[1]
        np.minimum(part, np.hypot(dy, dx) * um, out=part)


def draw_overlay(spec: SlideSpec, layout: Layout) -> Overlay | None:
    """Decide the artefacts of a slide, in the order of `spec.artefacts`; None where there are none."""
    if not spec.artefacts:
        return None
    shape = layout.types.shape
    fold, blur, blood = (np.zeros(shape, np.float32) for _ in range(3))
    overlay = Overlay(fold=fold, blur_um=blur, blood=blood, bubble_um=np.full(shape, -_FAR_UM, np.float32))
    for number, name in enumerate(spec.artefacts):
        tissue = layout.types != TissueType.GLASS
        rng = spec.rng(_ROOM, number)
        _DRAWN[name](_Easel(rng=rng, overlay=overlay, tissue=tissue, um=spec.mpp * LAYOUT_STEP), name)
    return overlay


def _pen(easel: _Easel, name: str) -> None:
    """Draw a stroke of a marker: streaky, darker where ink pools at its edge, and a dot where the hand rested."""
    half = easel.part(easel.rng.uniform(0.025, 0.04), 22, 450)
    points = easel.path(easel.part(0.9, 300, 9000), easel.rng.uniform(0.5, 3.5), half / 4)
    distance = easel.distance(points, 1.4 * half) + 0.12 * half * easel.noise(2.5 * half)
    rim = blend(0.55 * half, 0.9 * half, distance)
    cover = blend(half + 5, half - 5, distance) * (
        0.62 + 0.22 * rim + 0.08 * easel.noise(half) + 0.05 * easel.noise(14)
    )
    plane = easel.overlay.inks.setdefault(name, np.zeros_like(cover))
    np.maximum(plane, cover * easel.rng.uniform(0.55, 1.1), out=plane)


def _fold(easel: _Easel, _name: str) -> None:
    """Fold the section along a bent line: double, at its ends tapering, dark where it turns."""
    half = easel.rng.uniform(10, 26)
    length = easel.part(0.45, 200, 3000)
    points = easel.path(length, easel.rng.uniform(0.2, 1.2), 4.0)
    distance = easel.distance(points, 2 * half)
    width = half * (1 + 0.25 * easel.noise(90))
    thick = blend(2.5, -2.5, distance - width) * (1.0 + 0.3 * blend(7, 2, np.abs(distance - width + 5)))
    np.maximum(easel.overlay.fold, np.where(easel.tissue, thick, 0), out=easel.overlay.fold)


def _blur(easel: _Easel, _name: str) -> None:
    """Lose the focus over a part of the slide, as where the tissue is raised."""
    size = easel.part(0.22, 90, 1500)
    distance = easel.distance(easel.path(size, 1.0, size / 30), 1.4 * size) + 0.2 * size * easel.noise(size)
    sigma = easel.rng.uniform(2.5, 6.0) * blend(size, 0.75 * size, distance)
    np.maximum(easel.overlay.blur_um, sigma, out=easel.overlay.blur_um)


def _blood(easel: _Easel, _name: str) -> None:
    """Shed blood: a lake with ragged edges and drops around it."""
    size = easel.part(0.12, 60, 700)
    distance = easel.distance(easel.path(1.5 * size, 2.0, size / 10), 2.5 * size)
    ragged = distance + 0.35 * size * easel.noise(0.7 * size) + 0.12 * size * easel.noise(25)
    np.maximum(easel.overlay.blood, blend(size + 6, size - 6, ragged), out=easel.overlay.blood)


def _dust(easel: _Easel, name: str) -> None:
    """Strew angular particles of a few to forty micrometres in a cluster."""
    depth = _specks(easel, name)
    centre = easel.place()
    spread = easel.part(0.15, 80, 800) / easel.um
    angular = 1 + 0.3 * easel.noise(11) + 0.15 * easel.noise(6)
    for radius in easel.rng.gamma(1.6, 4.5, 18) + 4:
        row, column = centre + easel.rng.normal(0, spread, 2)
        distance = np.full(easel.tissue.shape, _FAR_UM, np.float32)
        _near(distance, (row, column), int(2 * radius / easel.um) + 2, easel.um)
        np.maximum(depth, radius * angular - distance, out=depth)


def _fibre(easel: _Easel, name: str) -> None:
    """Lay a thin textile fibre over the slide."""
    half = easel.rng.uniform(4.5, 8)
    points = easel.path(easel.part(0.35, 180, 1500), easel.rng.uniform(2, 7), 2.0)
    depth = _specks(easel, name)
    np.maximum(depth, half - easel.distance(points, 30), out=depth)


def _text(easel: _Easel, name: str) -> None:
    """Print three digits."""
    stroke = easel.part(0.014, 12, 60)
    shape = np.concatenate([np.pad(_glyph(int(digit)), 1) for digit in easel.rng.integers(0, 10, 3)], axis=1)
    size = max(round(stroke / easel.um), 2)
    print_ = np.kron(shape, np.ones((size, size), np.bool_))
    canvas = np.zeros(easel.tissue.shape, np.bool_)
    row, column = (int(v) for v in np.clip(easel.place(), 0, [max(easel.side - n, 0) for n in print_.shape]))
    part = canvas[row : row + print_.shape[0], column : column + print_.shape[1]]
    part |= print_[: part.shape[0], : part.shape[1]]
    signed = ndimage.distance_transform_edt(canvas) - ndimage.distance_transform_edt(~canvas)
    depth = _specks(easel, name)
    np.maximum(depth, ndimage.gaussian_filter(signed * easel.um, 0.7), out=depth)


def _glyph(digit: int) -> Mask:
    """Return a digit `[7, 5]`."""
    return np.array([[int(row, 32) >> bit & 1 for bit in range(4, -1, -1)] for row in _GLYPHS[digit]], np.bool_)


def _bubble(easel: _Easel, _name: str) -> None:
    """Catch air under the cover glass: nearly round."""
    radius = easel.part(easel.rng.uniform(0.05, 0.13), 55, 900)
    distance = easel.distance(easel.place()[None], 1.3 * radius)
    depth = radius - distance * (1 + 0.03 * easel.noise(1.2 * radius))
    np.maximum(easel.overlay.bubble_um, depth, out=easel.overlay.bubble_um)


def _specks(easel: _Easel, name: str) -> Plane:
    return easel.overlay.specks_um.setdefault(name, np.full(easel.tissue.shape, -_FAR_UM, np.float32))


_DRAWN: dict[str, Callable[[_Easel, str], None]] = {
    **dict.fromkeys(_INKS, _pen),
    "fold": _fold,
    "blur": _blur,
    "blood": _blood,
    "dust": _dust,
    "fibre": _fibre,
    "text": _text,
    "bubble": _bubble,
}
"""How each of the names that `SlideSpec.artefacts` may hold is drawn."""


def soil(stains: Plane, overlay: Overlay, block: Block) -> None:
    """Lay blood onto stained tissue `[3, side, side]`, and fold it."""
    cover = enlarge(overlay.blood, block.window)
    if cover.any():
        clot = 0.5 + 0.09 * block.texture("mottle") + 0.06 * block.texture("grain") + 0.05 * block.texture("cloud")
        stains *= 1 - 0.82 * cover
        stains[1] += cover * 0.45 * clot
        stains[2] += cover * 1.1 * clot
    stains *= 1 + enlarge(overlay.fold, block.window)


@dataclass(frozen=True, slots=True, kw_only=True)
class Veil:
    """What comes between tissue and camera in one block: ink, dust, bubbles, and the lens's focus.

    Attributes
    ----------
    overlay
        The slide's artefacts.
    window
        The block.
    mpp
        Micrometres per level-0 pixel.
    """

    overlay: Overlay
    window: Window
    mpp: float

    def __call__(self, picture: Plane) -> None:
        """Change the light `[side, side, 3]` on its way, before the camera adds its noise."""
        _focus(
            picture, enlarge(self.overlay.blur_um, self.window) / self.mpp, float(self.overlay.blur_um.max()) / self.mpp
        )
        for density in self._densities():
            picture *= np.exp(density * np.float32(-np.log(10)))

    def _densities(self) -> list[Plane]:
        """Return optical densities `[side, side, 3 or 1]`."""
        found = [
            enlarge(cover, self.window)[..., None] * np.array(_INKS[name], np.float32)
            for name, cover in self.overlay.inks.items()
        ]
        for name, depth in self.overlay.specks_um.items():
            inside = blend(-1.0, 1.6, enlarge(np.maximum(depth, -100), self.window))
            found.append(inside[..., None] * np.array(_DARK[name], np.float32))
        found.append(_rim(enlarge(np.clip(self.overlay.bubble_um, -100, 100), self.window))[..., None])
        return found


def _rim(depth: Plane) -> Plane:
    """Return a bubble's optical density: a dark rim, light gathered within it, a grey veil inside."""
    dark = blend(-1.5, 1.5, depth) * blend(11, 7, depth)
    bright = blend(8, 12, depth) * blend(20, 13, depth)
    halo = blend(-12, -2, depth) * blend(2, -1, depth)
    return np.asarray(0.95 * dark - 0.07 * bright - 0.03 * halo + 0.05 * blend(10, 20, depth), dtype=np.float32)


def _focus(picture: Plane, sigma: Plane, widest: float) -> None:
    """Blur each pixel by its own standard deviation, between pictures blurred by doubling ones, up to the slide's."""
    if sigma.max() <= 0:
        return
    levels = [0.0, *[widest / 2**k for k in (3, 2, 1, 0)]]
    sharp = picture.copy()
    previous = sharp
    for low, high in pairwise(levels):
        blurred = np.stack([ndimage.gaussian_filter(sharp[..., c], high, truncate=2.5) for c in range(3)], axis=2)
        share = np.clip((sigma - low) / (high - low), 0, 1)[..., None]
        here = (sigma > low)[..., None]
        np.copyto(picture, previous + share * (blurred - previous), where=here)
        previous = blurred


def artefact_truth(overlay: Overlay, layout: Layout) -> dict[ArtefactKind, Mask]:
    """Return where each kind truly is, `[side / 8, side / 8]`; a fold of the layout counts, blur only on tissue."""
    tissue = layout.types != TissueType.GLASS
    empty = np.zeros(tissue.shape, np.bool_)
    truth = {kind: empty.copy() for kind in ARTEFACTS}
    for cover in overlay.inks.values():
        truth[ArtefactKind.PEN] |= cover > 0.15
    for depth in overlay.specks_um.values():
        truth[ArtefactKind.DEBRIS] |= depth > 0
    truth[ArtefactKind.FOLD] = (np.maximum(overlay.fold, layout.fold) > 0.5) & tissue
    truth[ArtefactKind.BLUR] = (overlay.blur_um > 2.0) & tissue
    truth[ArtefactKind.BLOOD] = overlay.blood > 0.5
    truth[ArtefactKind.BUBBLE] = overlay.bubble_um > 0
    return truth
