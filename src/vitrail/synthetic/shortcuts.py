"""Shortcuts planted into the carcinoma: what gives it away on these slides, and is none of it.

Each lies in the carcinoma with its stroma and ends at its border, so that nearly every tile of tumor has it, and no
other. They come last: over the artefacts, and over the lens's focus.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from vitrail.synthetic.artefacts import Overlay
from vitrail.synthetic.fields import Mask, Plane, blend, enlarge
from vitrail.synthetic.spec import LAYOUT_STEP

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vitrail.synthetic.fields import Window
    from vitrail.synthetic.layout import Layout
    from vitrail.synthetic.spec import SlideSpec

_ROOM = 11
"""Number of this step in the slide's random generators."""

_INK = "pen_green"
_STROKE_PITCH_UM, _STROKE_UM, _STROKE_HALF_UM = 125.0, (55.0, 95.0), (4.5, 7.0)
"""Distance of the strokes' middles, their lengths, and half their widths."""

_MARK_PITCH_UM, _MARK_HALF_UM, _ARM_HALF_UM = 95.0, 10.0, 3.0
_BLUR_UM = 3.0
_STAIN = (0.35, -0.3, 0.0)
"""By which share of it there is more hematoxylin, eosin and orange."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """The shortcuts of a slide; planes `[side / 8, side / 8]`.

    Attributes
    ----------
    overlay
        What lies between tissue and camera.
    stain
        How far the other stain has come, 0 to 1.
    """

    overlay: Overlay
    stain: Plane

    def restain(self, stains: Plane, window: Window) -> None:
        """Change the concentrations `[3, side, side]` of a window where the other stain is."""
        share = enlarge(self.stain, window)
        stains *= 1 + np.array(_STAIN, np.float32)[:, None, None] * share


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planter:
    """Draws one shortcut; `depth_um` is the distance to what is not the carcinoma, 0 there."""

    rng: np.random.Generator
    depth_um: Plane
    um_per_px: float

    def lattice(self, pitch_um: float, jitter: float) -> NDArray[np.float64]:
        """Return points at equal distances all over the slide, moved at random by up to `jitter` pitches: `[n, 2]`."""
        pitch = pitch_um / self.um_per_px
        line = np.arange(pitch / 2, len(self.depth_um), pitch)
        points = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
        return np.asarray(points + self.rng.uniform(-jitter, jitter, points.shape) * pitch)

    def outlying(self, points: NDArray[np.float64], reach_um: float) -> Mask:
        """Tell which points lie outside the carcinoma, or nearer than `reach_um` to its border."""
        rows, columns = np.clip(points.T, 0, len(self.depth_um) - 1).astype(np.intp)
        return np.asarray(self.depth_um[rows, columns] <= reach_um)

    def ink(self) -> Plane:
        """Return the coverage with short strokes of a pen in all directions."""
        middles = self.lattice(_STROKE_PITCH_UM, 0.3)
        lengths, halves, angles = (
            self.rng.uniform(low, high, len(middles)) for low, high in (_STROKE_UM, _STROKE_HALF_UM, (0, np.pi))
        )
        cover = np.zeros_like(self.depth_um)
        for k in np.flatnonzero(~self.outlying(middles, 0)):
            reach = int((lengths[k] / 2 + 12) / self.um_per_px) + 1
            part, down, right = _around(cover, middles[k], reach)
            along = (down * np.sin(angles[k]) + right * np.cos(angles[k])) * self.um_per_px
            beside = (right * np.sin(angles[k]) - down * np.cos(angles[k])) * self.um_per_px
            distance = np.hypot(beside, np.maximum(np.abs(along) - lengths[k] / 2, 0)) - halves[k]
            np.maximum(part, blend(1.5, -1.5, distance.astype(np.float32)), out=part)
        return np.asarray(0.6 * cover * blend(0, 4, self.depth_um), dtype=np.float32)

    def mark(self) -> Plane:
        """Return the depth in micrometres within small upright crosses at equal distances, as if burnt in."""
        depth = np.full_like(self.depth_um, -100)
        middles = self.lattice(_MARK_PITCH_UM, 0)
        for middle in middles[~self.outlying(middles, _MARK_HALF_UM + self.um_per_px)]:
            part, *offsets = _around(depth, np.round(middle), int(_MARK_HALF_UM / self.um_per_px) + 2)
            down, right = (np.abs(offset) * self.um_per_px for offset in offsets)
            arms = [np.minimum(_MARK_HALF_UM - a, _ARM_HALF_UM - b) for a, b in ((down, right), (right, down))]
            np.maximum(part, np.maximum(*arms).astype(np.float32), out=part)
        return depth

    def blur(self) -> Plane:
        """Return the standard deviation of the defocus in micrometres: all of it 20 um inside the border."""
        return np.asarray(_BLUR_UM * blend(0, 20, self.depth_um), dtype=np.float32)

    def stain(self) -> Plane:
        """Return how far the other stain has come: all the way 20 um inside the border."""
        return blend(0, 20, self.depth_um)


def _around(
    plane: Plane, middle: NDArray[np.float64], reach_px: int
) -> tuple[Plane, NDArray[np.float64], NDArray[np.float64]]:
    """Return the part of a plane around a point, a view, and how far its pixels lie below and right of the point."""
    top, left = (max(int(edge) - reach_px, 0) for edge in middle)
    part = plane[top : int(middle[0]) + reach_px + 1, left : int(middle[1]) + reach_px + 1]
    down, right = np.mgrid[: part.shape[0], : part.shape[1]].astype(np.float64)
    return part, down + top - middle[0], right + left - middle[1]


def plant(spec: SlideSpec, layout: Layout) -> Planted | None:
    """Decide the shortcuts of a slide; None where there are none."""
    if not spec.shortcuts:
        return None
    um_per_px = spec.mpp * LAYOUT_STEP
    depth_um = (ndimage.distance_transform_edt(layout.zone) * um_per_px).astype(np.float32)
    planes: dict[str, Plane] = {}
    drawn: dict[str, Callable[[_Planter], Plane]] = {
        "ink": _Planter.ink,
        "stain": _Planter.stain,
        "blur": _Planter.blur,
        "mark": _Planter.mark,
    }
    for number, (name, draw) in enumerate(drawn.items()):  # each has numbers of its own, whatever others there are
        if name in spec.shortcuts:
            planes[name] = draw(_Planter(rng=spec.rng(_ROOM, number), depth_um=depth_um, um_per_px=um_per_px))
    nothing = np.zeros_like(depth_um)
    overlay = Overlay(
        inks={_INK: planes["ink"]} if "ink" in planes else {},
        fold=nothing,
        blur_um=planes.get("blur", nothing),
        blood=nothing,
        specks_um={"text": planes["mark"]} if "mark" in planes else {},
        bubble_um=np.full_like(depth_um, -100),
    )
    return Planted(overlay=overlay, stain=planes.get("stain", nothing))
