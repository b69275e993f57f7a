"""Stain normalisation: the colours of a slide's tissue moved to those of one reference, before networks see them.

Either method is one map of bytes, linear in the logarithm of light, fitted once to a slide: a map fitted to each tile
would make tiles alike that differ in what they show. Glass stays as it is.

- reinhard gives the tissue mean and standard deviation of the reference, in Ruderman's l-alpha-beta (Reinhard et al.
  2001, doi:10.1109/38.946629);
- macenko finds the two stains as the edges of the plane that optical densities lie in, and replaces them, and the 99th
  percentile of their amounts, by those of the reference (Macenko et al. 2009, doi:10.1109/ISBI.2009.5193250).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vitrail.slides.readers.resample import area_resample
from vitrail.slides.slide import read_region

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.geometry import Region
    from vitrail.settings.schema import StainNormalisation
    from vitrail.slides.slide import Slide

    Pixels = NDArray[np.uint8]
    Floats = NDArray[np.float64]

# torchstain 1.4 (MIT) knows both methods, but measures each image anew that it maps: it cannot be fitted to a slide.

FIT_UM = 8.0
"""Micrometres per pixel at which colours are measured. Finer pixels vary more: the reference holds for this size."""

FEWEST_PIXELS = 200
"""Of tissue; with fewer a slide stays as it is."""

LIGHT = 240.0
"""Grey level from which optical density counts."""

STAINS = np.array([[0.4470, 0.1467], [0.7786, 0.8610], [0.4404, 0.4869]])
AMOUNTS = np.array([1.267, 0.991])
MEAN = np.array([8.577, -0.0911, 0.0503])
SPREAD = np.array([0.2439, 0.0423, 0.0155])
"""The reference: medians over 98 cores of head and neck cancer of the ORCA data set (Martino et al. 2020,
doi:10.3390/app10228285), measured as every slide is. Of macenko absorption of red, green and blue by hematoxylin and
eosin (unit columns), and the 99th percentile of their amounts; of reinhard mean and standard deviation of l, alpha and
beta. Published references are of pixels of a quarter of a micrometre, whose colours vary about twice as much."""
_CONES = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
_LAB = np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]]) / np.sqrt([[3], [6], [2]])
"""From red, green and blue to what the eye's three cones see, and from its logarithm to l-alpha-beta (Reinhard)."""

_GLASS, _TISSUE, _DARKEST = 0.05, 0.15, 2.0
"""Mean optical densities, natural: below the first there is glass, from the second on tissue, beyond the last none."""

_INK = 0.75
"""Least density of tissue in green, over that in red; blue ink has less, any hematoxylin more."""

_BEYOND = 1.0  # percent of the pixels whose hue lies beyond either stain, as in Macenko et al.
_APART = np.cos(np.deg2rad(3))  # stains closer to each other are one
_LEAST = 0.01  # spread of lightness, or amount of a stain, below which there is nothing to measure
_STRETCH = 4.0  # nothing is stretched by more: it would be noise


class LogLinear(NamedTuple):
    """A map of colours: `unmixed @ exp(gain @ log(mixed @ rgb) + offset)`.

    Attributes
    ----------
    mixed, gain, unmixed
        `[3, 3]`.
    offset
        `[3]`.
    """

    mixed: Floats
    gain: Floats
    offset: Floats
    unmixed: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StainTransform:
    """What makes a slide's colours those of the reference.

    Attributes
    ----------
    colours
        The map of tissue's colours; None leaves every byte as it is.
    problem
        Why there is none though there should be; empty elsewhere.
    """

    colours: LogLinear | None = None
    problem: str = ""

    def apply(self, rgb: Pixels) -> Pixels:
        """Move colours to those of the reference.

        Parameters
        ----------
        rgb
            `[..., 3]`, in the colours of what the map was fitted to.

        Returns
        -------
        NDArray[np.uint8]
            Of the same shape; glass is as it was.
        """
        if self.colours is None:
            return rgb
        mixed, gain, offset, unmixed = (each.T.astype(np.float32) for each in self.colours)
        flat = rgb.reshape(-1, 3)  # one product of matrices in place of one for each row
        tissue = (_DENSITY[flat] @ np.full((3, 1), 1 / 3, np.float32) - _GLASS) / (_TISSUE - _GLASS)
        moved = np.exp(np.log(np.maximum(flat, np.float32(1)) @ mixed) @ gain + offset) @ unmixed
        moved -= flat
        moved *= tissue.clip(0, 1)
        moved += flat
        moved.clip(0, 255, out=moved)
        return np.asarray(np.rint(moved), np.uint8).reshape(rgb.shape)


_DENSITY = -np.log(np.maximum(np.arange(256, dtype=np.float32), 1) / np.float32(LIGHT))


def fit_stain(rgb: Pixels, method: StainNormalisation) -> StainTransform:
    """Fit stain normalisation to a picture.

    Parameters
    ----------
    rgb
        `[h, w, 3]`, at `FIT_UM` per pixel; what is neither glass nor dark nor ink counts as tissue.
    method
        `macenko` or `reinhard`; `none` fits nothing.

    Returns
    -------
    StainTransform
        From the picture's colours to the reference's. It changes nothing and has a `problem` where there is too little
        tissue, or tissue of one colour.
    """
    if method == "none":
        return StainTransform()
    pixels = rgb.reshape(-1, 3)
    density = _DENSITY[pixels].astype(np.float64)
    mean = density.mean(1)
    tissue = (mean >= _TISSUE) & (mean < _DARKEST) & (density[:, 1] >= _INK * density[:, 0])
    count = int(np.count_nonzero(tissue))
    if count < FEWEST_PIXELS:
        found = f"{count} pixels of tissue at {FIT_UM:g} um, {FEWEST_PIXELS} are needed"
        return StainTransform(problem=f"stain not normalised: {found}")
    colours = _macenko(density[tissue]) if method == "macenko" else _reinhard(pixels[tissue])
    if colours is None:
        return StainTransform(problem="stain not normalised: all of the tissue has one colour")
    return StainTransform(colours=colours)


def measure_macenko(density: Floats) -> tuple[Floats, Floats]:
    """Find both stains of tissue.

    Parameters
    ----------
    density
        Natural optical densities of its pixels, `[n, 3]`.

    Returns
    -------
    stains : NDArray[np.float64]
        Absorption of red, green and blue by hematoxylin and by eosin, `[3, 2]`, unit columns.
    amounts : NDArray[np.float64]
        The 99th percentile of the amount of each, `[2]`.
    """
    axes = np.linalg.eigh(density.T @ density)[1][:, :0:-1]  # of the plane, the longest first
    axes = axes * np.where(axes.sum(0) < 0, -1, 1)
    along, across = (density @ axes).T
    edges = np.percentile(np.arctan2(across, along), (_BEYOND, 100 - _BEYOND))
    stains = axes @ np.array([np.cos(edges), np.sin(edges)])
    if np.sum(stains[:, ::-1] * STAINS) > np.sum(stains * STAINS):
        stains = stains[:, ::-1]
    return stains, np.percentile(density @ np.linalg.pinv(stains).T, 99, axis=0)


def measure_reinhard(rgb: Pixels) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of tissue, pixels `[n, 3]`, in l, alpha and beta: `[3]` each."""
    lab = np.log(np.maximum(rgb, 1) @ _CONES.T) @ _LAB.T
    return lab.mean(0), lab.std(0)


def _macenko(density: Floats) -> LogLinear | None:
    stains, amounts = measure_macenko(density)
    if not (amounts.min() > _LEAST and abs(stains[:, 0] @ stains[:, 1]) < _APART):
        return None
    ratio = np.minimum(AMOUNTS / amounts, _STRETCH)
    gain = STAINS * ratio @ np.linalg.pinv(stains)
    light = np.full(3, np.log(LIGHT))
    return LogLinear(mixed=np.eye(3), gain=gain, offset=light - gain @ light, unmixed=np.eye(3))


def _reinhard(rgb: Pixels) -> LogLinear | None:
    mean, spread = measure_reinhard(rgb)
    if spread[0] < _LEAST:
        return None
    ratio = np.minimum(SPREAD / np.maximum(spread, 1e-6), _STRETCH)
    back = np.linalg.inv(_LAB)
    gain = back * ratio @ _LAB
    return LogLinear(mixed=_CONES, gain=gain, offset=back @ (MEAN - ratio * mean), unmixed=np.linalg.inv(_CONES))


def fit_picture(rgb: Pixels, mpp: float, method: StainNormalisation) -> StainTransform:
    """Fit stain normalisation to a picture of any resolution.

    Parameters
    ----------
    rgb
        `[h, w, 3]`.
    mpp
        Micrometres per pixel.
    method
        As of `fit_stain`.

    Returns
    -------
    StainTransform
        As `fit_stain` returns it of the picture at `FIT_UM` per pixel.
    """
    height, width = rgb.shape[:2]
    size = max(1, round(width * mpp / FIT_UM)), max(1, round(height * mpp / FIT_UM))
    return fit_stain(area_resample(rgb, (0.0, 0.0, float(width), float(height)), size), method)


def stain_of(slide: Slide) -> StainTransform:
    """Return what makes a slide's colours the reference's, as its `stain` says; a process fits it once.

    Raises
    ------
    SlideError
        The slide cannot be read.
    """
    return StainTransform() if slide.stain == "none" else _stain_of(slide)


@lru_cache(maxsize=256)
def _stain_of(slide: Slide) -> StainTransform:
    region, scale = slide.region, slide.mpp / FIT_UM
    size = max(1, round(region.width * scale)), max(1, round(region.height * scale))
    return fit_stain(read_region(replace(slide, reading="fast"), region, size), slide.stain)


def read_for_networks(slide: Slide, region: Region, size: tuple[int, int]) -> Pixels:
    """Read a region of a slide as networks see it: what `read_region` returns, its stain normalised.

    Parameters
    ----------
    slide, region, size
        As of `read_region`; `slide.stain` says how.

    Returns
    -------
    NDArray[np.uint8]
        `[height, width, 3]`, RGB.

    Raises
    ------
    SlideError
        If the file cannot be decoded.
    """
    return stain_of(slide).apply(read_region(slide, region, size))
