"""Nuclei: a bank of drawn shapes for every kind of cell, each with the contour that it was drawn from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.synthetic.fields import Plane

VERTICES = 14
"""Corners of each nucleus in the truth."""

_SHAPES = 192
_HARMONICS = np.arange(2, 7, dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class NucleusKind:
    """How the nuclei of one kind of cell look.

    Attributes
    ----------
    truth
        Their class in the truth.
    radius_um
        Mean and standard deviation of the geometric mean of the half axes.
    elongation
        Mean and standard deviation of long over short axis.
    rough
        Amplitude of the contour's harmonics, as a share of the radius.
    bend
        Curvature of the long axis.
    density
        Mean and standard deviation of the hematoxylin concentration.
    chromatin
        Contrast of the texture inside.
    rim
        Hematoxylin of the nuclear membrane above that of the inside.
    nucleoli
        Mean number of nucleoli.
    nucleolus
        Hematoxylin that each of them adds.
    """

    truth: str
    radius_um: tuple[float, float]
    elongation: tuple[float, float]
    rough: float
    bend: float
    density: tuple[float, float]
    chromatin: float
    rim: float
    nucleoli: float
    nucleolus: float = 0.55

    def normal(self, without: tuple[str, ...]) -> NucleusKind:
        """Return the kind with what `without` names as in normal squamous epithelium (`SlideSpec.without` says what).

        The mean number of nucleoli stays, and with it the random numbers that are drawn; they become fainter instead.
        """
        norm, kind = KINDS["epithelial"], self
        if "size" in without:
            kind = replace(kind, radius_um=norm.radius_um)
        if "darkness" in without:
            faint = self.nucleolus * min(norm.nucleoli / max(self.nucleoli, norm.nucleoli), 1)
            kind = replace(kind, density=norm.density, chromatin=norm.chromatin, rim=norm.rim, nucleolus=faint)
        if "outline" in without:
            kind = replace(kind, elongation=norm.elongation, rough=norm.rough, bend=norm.bend)
        return kind


def _kind(truth: str, radius: tuple[float, float], elongation: tuple[float, float], *look: float) -> NucleusKind:
    rough, bend, dense, spread, chromatin, rim, nucleoli = look
    return NucleusKind(
        truth=f"Nucleus: {truth}",
        radius_um=radius,
        elongation=elongation,
        rough=rough,
        bend=bend,
        density=(dense, spread),
        chromatin=chromatin,
        rim=rim,
        nucleoli=nucleoli,
    )


KINDS = {
    #                     truth         radius      elongation   rough bend  dense spread chromatin rim nucleoli
    "atypical": _kind("atypical", (4.5, 0.65), (1.35, 0.22), 0.10, 0.06, 0.60, 0.15, 0.22, 0.24, 1.6),
    "giant": _kind("atypical", (6.7, 0.9), (1.4, 0.25), 0.13, 0.08, 0.72, 0.20, 0.26, 0.26, 2.2),
    "hyperchromatic": _kind("atypical", (4.3, 0.6), (1.5, 0.3), 0.14, 0.12, 0.98, 0.14, 0.16, 0.05, 0.0),
    "mitosis": _kind("atypical", (3.3, 0.4), (2.1, 0.5), 0.22, 0.1, 1.55, 0.1, 0.25, 0.0, 0.0),
    "epithelial": _kind("epithelial", (2.95, 0.2), (1.18, 0.08), 0.04, 0.0, 0.60, 0.07, 0.16, 0.18, 0.7),
    "basal": _kind("epithelial", (2.75, 0.17), (1.6, 0.15), 0.04, 0.0, 0.82, 0.08, 0.14, 0.10, 0.2),
    "flat": _kind("epithelial", (2.2, 0.25), (2.8, 0.5), 0.03, 0.05, 0.85, 0.1, 0.08, 0.0, 0.0),
    "glandular": _kind("epithelial", (2.5, 0.2), (1.15, 0.1), 0.04, 0.0, 0.92, 0.1, 0.12, 0.08, 0.4),
    "fibroblast": _kind("stromal", (2.6, 0.35), (3.0, 0.6), 0.06, 0.14, 0.74, 0.14, 0.14, 0.08, 0.3),
    "fibrocyte": _kind("stromal", (1.9, 0.25), (4.2, 0.8), 0.04, 0.16, 0.92, 0.12, 0.06, 0.0, 0.0),
    "endothelial": _kind("stromal", (2.1, 0.2), (2.8, 0.4), 0.04, 0.2, 0.9, 0.1, 0.08, 0.0, 0.0),
    "lymphocyte": _kind("lymphocyte", (2.55, 0.2), (1.1, 0.08), 0.04, 0.0, 1.02, 0.12, 0.22, 0.1, 0.0),
    "plasma": _kind("lymphocyte", (2.75, 0.2), (1.12, 0.08), 0.03, 0.0, 0.98, 0.1, 0.32, 0.16, 0.0),
    "myocyte": _kind("other", (2.0, 0.25), (3.6, 0.6), 0.03, 0.08, 0.9, 0.1, 0.06, 0.0, 0.0),
    "adipocyte": _kind("other", (1.7, 0.2), (3.4, 0.5), 0.03, 0.15, 0.9, 0.1, 0.05, 0.0, 0.0),
    "pyknotic": _kind("other", (1.7, 0.4), (1.3, 0.3), 0.12, 0.0, 1.4, 0.15, 0.1, 0.0, 0.0),
}
"""Every kind; sizes follow textbook histology (a lymphocyte's nucleus is 5 to 6 um wide, a carcinoma's 8 to 15)."""

KIND_NAMES = tuple(KINDS)

ATYPICAL = tuple(k for k, name in enumerate(KIND_NAMES) if KINDS[name].truth == "Nucleus: atypical")
"""The carcinoma's kinds, as indices into `KIND_NAMES`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bank:
    """Drawn nuclei of one kind, sorted by the direction of their long axis.

    Attributes
    ----------
    cover
        `[n, s, s]`: how much of each pixel the nucleus takes, 0 to 1; its centre is the middle pixel's centre.
    stain
        `[n, s, s]`: hematoxylin concentration.
    contour
        `[n, VERTICES, 2]`: x and y of the corners, level-0 pixels from the centre.
    """

    cover: Plane
    stain: Plane
    contour: Plane

    @property
    def half(self) -> int:
        """Pixels from the middle to the edge of a drawing."""
        return int(self.cover.shape[1] // 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shapes:
    """Contours of n nuclei: half axes in pixels, bend and direction `[n]`, harmonics `[n, 5]`."""

    long: Plane
    short: Plane
    amplitude: Plane
    phase: Plane
    bend: Plane
    angle: Plane

    def radius(self, theta: Plane) -> Plane:
        """Return the contour's radius, in half axes, at angles `[n, ...]`."""
        wide = (slice(None), *(None,) * (theta.ndim - 1))
        total = np.ones_like(theta)
        for k, order in enumerate(_HARMONICS):
            total += self.amplitude[:, k][wide] * np.cos(order * theta + self.phase[:, k][wide])
        return total

    def contours(self) -> Plane:
        """Return the corners `[n, VERTICES, 2]` as pixels from the centre."""
        theta = np.tile(np.linspace(0, 2 * np.pi, VERTICES, endpoint=False, dtype=np.float32), (len(self.long), 1))
        radius = self.radius(theta)
        p = self.long[:, None] * radius * np.cos(theta)
        q = self.short[:, None] * radius * np.sin(theta) + self.bend[:, None] * p**2 / self.long[:, None]
        c, s = np.cos(self.angle)[:, None], np.sin(self.angle)[:, None]
        return np.stack([c * p - s * q, s * p + c * q], axis=-1).astype(np.float32)

    def inside(self, half: int) -> Plane:
        """Return the distance to the contour in pixels, positive inside, `[n, s, s]` (first order)."""
        line = np.arange(-half, half + 1, dtype=np.float32)
        c, s = np.cos(self.angle)[:, None, None], np.sin(self.angle)[:, None, None]
        p = c * line + s * line[:, None]
        a, b = self.long[:, None, None], self.short[:, None, None]
        q = c * line[:, None] - s * line - self.bend[:, None, None] * p**2 / a
        rho = np.hypot(p / a, q / b) + np.float32(1e-3)
        slope = np.hypot(p / a**2, q / b**2) / rho + np.float32(1e-3)
        return np.asarray((self.radius(np.arctan2(q / b, p / a)) - rho) / slope, dtype=np.float32)


@lru_cache(maxsize=8)
def nucleus_banks(mpp: float, without: tuple[str, ...] = ()) -> tuple[Bank, ...]:
    """Return a bank for each of `KIND_NAMES`, the same for every slide of this resolution.

    Parameters
    ----------
    mpp
        Micrometres per level-0 pixel.
    without
        Of the parts of atypia those that the carcinoma's nuclei lack: `size`, `darkness`, `outline`.

    Returns
    -------
    tuple[Bank, ...]
        Drawing k of a kind is the same nucleus with and without them: its drawings are as large, and all else in it is
        drawn from the same random numbers.
    """
    if not without:
        return tuple(_draw_bank(KINDS[name], mpp, k) for k, name in enumerate(KIND_NAMES))
    banks = list(nucleus_banks(mpp))
    for k in ATYPICAL:
        banks[k] = _draw_bank(KINDS[KIND_NAMES[k]].normal(without), mpp, k, banks[k].half)
    return tuple(banks)


def turned(angle: Plane, rng: np.random.Generator) -> NDArray[np.int32]:
    """Return the number of a drawing for each direction of the long axis (radians): near it, not always the same."""
    steps = angle / np.pi * _SHAPES + rng.uniform(-5, 5, angle.shape)
    return np.asarray(np.floor(steps).astype(np.int32) % _SHAPES, dtype=np.int32)


def _draw_bank(kind: NucleusKind, mpp: float, number: int, half: int | None = None) -> Bank:
    """Draw nuclei of one kind: their contours, then clumped chromatin, a darker membrane and nucleoli within them.

    `number` seeds its generator; the drawings reach `half` pixels from the middle, by default as far as they must.
    """
    n, rng = _SHAPES, np.random.default_rng([77, number])
    radius = np.clip(rng.normal(*kind.radius_um, n), 0.6 * kind.radius_um[0], 1.6 * kind.radius_um[0]) / mpp
    stretch = np.sqrt(np.clip(rng.normal(*kind.elongation, n), 1, 1.6 * kind.elongation[0]))
    falling = kind.rough / np.sqrt(_HARMONICS / 2)
    amplitude = np.clip(rng.normal(0, 0.6, (n, len(_HARMONICS))), -1.2, 1.2) * falling
    shapes = _Shapes(
        long=(radius * stretch).astype(np.float32),
        short=(radius / stretch).astype(np.float32),
        amplitude=amplitude.astype(np.float32),
        phase=rng.uniform(0, 2 * np.pi, amplitude.shape).astype(np.float32),
        bend=rng.normal(0, kind.bend, n).astype(np.float32),
        angle=(np.arange(n) * np.pi / n).astype(np.float32),
    )
    contour = shapes.contours()
    half = half or int(np.ceil(np.abs(contour).max())) + 2
    depth = shapes.inside(half)
    grain = rng.standard_normal(depth.shape).astype(np.float32)
    clumps = ndimage.gaussian_filter(grain, (0, 0.55 / mpp, 0.55 / mpp))
    clumps /= clumps.std()
    base = rng.normal(*kind.density, n).astype(np.float32)[:, None, None]
    stain = base * (1 + kind.chromatin * clumps) + kind.rim * np.exp(-((depth * mpp / 0.7) ** 2))
    nucleoli = np.zeros_like(depth)
    line = np.arange(depth.shape[1], dtype=np.float32) - half
    count = rng.poisson(kind.nucleoli, n)
    for k in range(4):
        x, y = rng.normal(0, 0.3 * kind.radius_um[0] / mpp, (2, n, 1, 1))
        square = ((line - x) ** 2 + (line[:, None] - y) ** 2) * mpp**2
        present = np.greater(count, k).astype(np.float32)[:, None, None]
        nucleoli += present * kind.nucleolus * np.exp(-square / rng.uniform(0.35, 0.9, (n, 1, 1)))
    stain = np.clip(stain + np.minimum(nucleoli, 0.7), 0.15, 2.2).astype(np.float32)
    return Bank(cover=np.clip(depth / 1.4 + 0.5, 0, 1), stain=stain, contour=contour)
