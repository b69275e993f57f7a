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
from vitrail.synthetic.fields import Mask, Plane, Window, around, blend, enlarge, smooth_noise
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
class _Painter:
    """Draws one artefact onto an overlay."""

    rng: np.random.Generator
    overlay: Overlay
    tissue: Mask
    um_per_px: float

    @property
    def side_px(self) -> int:
        return int(self.tissue.shape[0])

    def part(self, share: float, least_um: float, most_um: float) -> float:
        """Return a share of the slide's side in micrometres, within limits."""
        return float(np.clip(share * self.side_px * self.um_per_px, least_um, most_um))

    def noise(self, scale_um: float) -> Plane:
        return smooth_noise(self.rng, self.side_px, scale_um / self.um_per_px)

    def point(self) -> NDArray[np.float64]:
        """Draw a point in the tissue, or anywhere where there is none: row, column."""
        spots = np.flatnonzero(self.tissue)
        spot = int(self.rng.choice(spots)) if spots.size else int(self.rng.integers(self.tissue.size))
        return np.array(divmod(spot, self.side_px), dtype=float)

    def path(self, length_um: float, bend: float, step_um: float) -> NDArray[np.float64]:
        """Draw a smooth path `[n, 2]` through the tissue; `bend` is its turning in radians over the whole length."""
        count = max(int(length_um / step_um), 8)
        turns = smooth_noise(self.rng, count, count / 3)[0]
        angle = self.rng.uniform(0, 2 * np.pi) + np.cumsum(turns) * (bend / count)
        points = np.cumsum(np.stack([np.sin(angle), np.cos(angle)], axis=1), axis=0) * (step_um / self.um_per_px)
        return np.asarray(points - points[count // 2] + self.point())

    def distance(self, points: NDArray[np.float64], reach_um: float) -> Plane:
        """Return the distance from points `[n, 2]` in micrometres, as far as `reach_um`."""
        plane = np.full(self.tissue.shape, _FAR_UM, np.float32)
        for row, column in points:
            near, distance_px = around(plane, (row, column), int(reach_um / self.um_per_px) + 2)
            np.minimum(near, distance_px * self.um_per_px, out=near)
        return plane

    def specks(self, name: str) -> Plane:
        """Return the depth within dust, fibre or print, to be drawn on."""
        return self.overlay.specks_um.setdefault(name, np.full(self.tissue.shape, -_FAR_UM, np.float32))

    def pen(self, name: str) -> None:
        """Draw a stroke of a marker: streaky, darker where ink pools at its edge, and a dot where the hand rested."""
        half_um = self.part(self.rng.uniform(0.025, 0.04), 22, 450)
        points = self.path(self.part(0.9, 300, 9000), self.rng.uniform(0.5, 3.5), half_um / 4)
        distance = self.distance(points, 1.4 * half_um) + 0.12 * half_um * self.noise(2.5 * half_um)
        rim = blend(0.55 * half_um, 0.9 * half_um, distance)
        cover = blend(half_um + 5, half_um - 5, distance) * (
            0.62 + 0.22 * rim + 0.08 * self.noise(half_um) + 0.05 * self.noise(14)
        )
        plane = self.overlay.inks.setdefault(name, np.zeros_like(cover))
        np.maximum(plane, cover * self.rng.uniform(0.55, 1.1), out=plane)

    def fold(self, _name: str) -> None:
        """Fold the section along a bent line: double, at its ends tapering, dark where it turns."""
        half_um = self.rng.uniform(10, 26)
        points = self.path(self.part(0.45, 200, 3000), self.rng.uniform(0.2, 1.2), 4.0)
        distance = self.distance(points, 2 * half_um)
        width = half_um * (1 + 0.25 * self.noise(90))
        thick = blend(2.5, -2.5, distance - width) * (1.0 + 0.3 * blend(7, 2, np.abs(distance - width + 5)))
        np.maximum(self.overlay.fold, np.where(self.tissue, thick, 0), out=self.overlay.fold)

    def blur(self, _name: str) -> None:
        """Lose the focus over a part of the slide, as where the tissue is raised."""
        size_um = self.part(0.22, 90, 1500)
        distance = self.distance(self.path(size_um, 1.0, size_um / 30), 1.4 * size_um) + 0.2 * size_um * self.noise(
            size_um
        )
        sigma = self.rng.uniform(2.5, 6.0) * blend(size_um, 0.75 * size_um, distance)
        np.maximum(self.overlay.blur_um, sigma, out=self.overlay.blur_um)

    def blood(self, _name: str) -> None:
        """Shed blood: a lake with ragged edges and drops around it."""
        size_um = self.part(0.12, 60, 700)
        distance = self.distance(self.path(1.5 * size_um, 2.0, size_um / 10), 2.5 * size_um)
        ragged = distance + 0.35 * size_um * self.noise(0.7 * size_um) + 0.12 * size_um * self.noise(25)
        np.maximum(self.overlay.blood, blend(size_um + 6, size_um - 6, ragged), out=self.overlay.blood)

    def dust(self, name: str) -> None:
        """Strew angular particles of a few to forty micrometres in a cluster."""
        depth = self.specks(name)
        centre = self.point()
        spread = self.part(0.15, 80, 800) / self.um_per_px
        angular = 1 + 0.3 * self.noise(11) + 0.15 * self.noise(6)
        for radius_um in self.rng.gamma(1.6, 4.5, 18) + 4:
            particle = centre + self.rng.normal(0, spread, 2)
            np.maximum(depth, radius_um * angular - self.distance(particle[None], 2 * radius_um), out=depth)

    def fibre(self, name: str) -> None:
        """Lay a thin textile fibre over the slide."""
        half_um = self.rng.uniform(4.5, 8)
        points = self.path(self.part(0.35, 180, 1500), self.rng.uniform(2, 7), 2.0)
        depth = self.specks(name)
        np.maximum(depth, half_um - self.distance(points, 30), out=depth)

    def text(self, name: str) -> None:
        """Print three digits."""
        stroke = self.part(0.014, 12, 60)
        glyphs = [
            [[int(row, 32) >> bit & 1 for bit in range(4, -1, -1)] for row in _GLYPHS[int(digit)]]
            for digit in self.rng.integers(0, 10, 3)
        ]
        dots = np.concatenate([np.pad(np.array(glyph, np.bool_), 1) for glyph in glyphs], axis=1)
        size = max(round(stroke / self.um_per_px), 2)
        digits = np.kron(dots, np.ones((size, size), np.bool_))
        canvas = np.zeros(self.tissue.shape, np.bool_)
        row, column = (int(v) for v in np.clip(self.point(), 0, [max(self.side_px - n, 0) for n in digits.shape]))
        part = canvas[row : row + digits.shape[0], column : column + digits.shape[1]]
        part |= digits[: part.shape[0], : part.shape[1]]
        signed = ndimage.distance_transform_edt(canvas) - ndimage.distance_transform_edt(~canvas)
        depth = self.specks(name)
        np.maximum(depth, ndimage.gaussian_filter(signed * self.um_per_px, 0.7), out=depth)

    def bubble(self, _name: str) -> None:
        """Catch air under the cover glass: nearly round."""
        radius_um = self.part(self.rng.uniform(0.05, 0.13), 55, 900)
        distance = self.distance(self.point()[None], 1.3 * radius_um)
        depth = radius_um - distance * (1 + 0.03 * self.noise(1.2 * radius_um))
        np.maximum(self.overlay.bubble_um, depth, out=self.overlay.bubble_um)


_DRAWN: dict[str, Callable[[_Painter, str], None]] = {
    **dict.fromkeys(_INKS, _Painter.pen),
    "fold": _Painter.fold,
    "blur": _Painter.blur,
    "blood": _Painter.blood,
    "dust": _Painter.dust,
    "fibre": _Painter.fibre,
    "text": _Painter.text,
    "bubble": _Painter.bubble,
}
"""How each of the names that `SlideSpec.artefacts` may hold is drawn."""


def draw_overlay(spec: SlideSpec, layout: Layout) -> Overlay | None:
    """Decide the artefacts of a slide, in the order of `spec.artefacts`; None where there are none."""
    if not spec.artefacts:
        return None
    shape = layout.types.shape
    fold, blur, blood = (np.zeros(shape, np.float32) for _ in range(3))
    overlay = Overlay(fold=fold, blur_um=blur, blood=blood, bubble_um=np.full(shape, -_FAR_UM, np.float32))
    tissue = layout.types != TissueType.GLASS
    for number, name in enumerate(spec.artefacts):
        rng = spec.rng(_ROOM, number)
        _DRAWN[name](_Painter(rng=rng, overlay=overlay, tissue=tissue, um_per_px=spec.mpp * LAYOUT_STEP), name)
    return overlay


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
        overlay, window = self.overlay, self.window
        sigma = enlarge(overlay.blur_um, window) / self.mpp
        if sigma.max() > 0:
            _defocus(picture, sigma, float(overlay.blur_um.max()) / self.mpp)
        densities = [
            enlarge(cover, window)[..., None] * np.array(_INKS[name], np.float32)
            for name, cover in overlay.inks.items()
        ]
        for name, depth in overlay.specks_um.items():
            inside = blend(-1.0, 1.6, enlarge(np.maximum(depth, -100), window))
            densities.append(inside[..., None] * np.array(_DARK[name], np.float32))
        # a bubble has a dark rim, light gathered within it, and a grey veil inside
        depth = enlarge(np.clip(overlay.bubble_um, -100, 100), window)
        dark = blend(-1.5, 1.5, depth) * blend(11, 7, depth)
        bright = blend(8, 12, depth) * blend(20, 13, depth)
        halo = blend(-12, -2, depth) * blend(2, -1, depth)
        rim = np.asarray(0.95 * dark - 0.07 * bright - 0.03 * halo + 0.05 * blend(10, 20, depth), dtype=np.float32)
        for density in [*densities, rim[..., None]]:
            picture *= np.exp(density * np.float32(-np.log(10)))


def _defocus(picture: Plane, sigma: Plane, widest: float) -> None:
    """Blur each pixel by its own standard deviation, between pictures blurred by doubling ones, up to the slide's."""
    sharp = picture.copy()
    previous = sharp
    for low, high in pairwise([0.0, *[widest / 2**k for k in (3, 2, 1, 0)]]):
        blurred = np.stack([ndimage.gaussian_filter(sharp[..., c], high, truncate=2.5) for c in range(3)], axis=2)
        share = np.clip((sigma - low) / (high - low), 0, 1)[..., None]
        np.copyto(picture, previous + share * (blurred - previous), where=(sigma > low)[..., None])
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
