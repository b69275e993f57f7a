"""The empty glass of a slide: its colour, the fall of the light over it, and its noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from vitrail.quality.areas import EIGHT

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Plane = NDArray[np.float32]
    Mask = NDArray[np.bool_]

_FLAT = 0.006
"""Largest local deviation of glass in optical density: three grey levels. Even faded tissue has more, nearly all."""

_BIN, _WIDTH = 0.005, 0.02
"""Bin of the histogram of flat pixels, and half the width of its glass peak, in optical density."""

_DARKEST = 0.45
"""Glass passes at least a third of the camera's range."""

_LEAST_SHARE = 0.005
"""Fewer flat pixels of one brightness are no glass."""

_STAINED, _DEEP, _RARE = 0.022, 0.08, 0.2
"""Eosin and hematoxylin absorb green most, glass and lamps do not: a flat mode that lacks the first much green is pale
tissue, unless it is too common for that: then stain is left in the mounting medium. Beyond the second it is tissue."""

_GREY = 0.012
"""The fall of the light is grey: glass differs by no more than this between the colours."""

_WHITE, _BLACK = 252, 24
"""Flat pixels beyond these are scan borders or were never scanned."""

_LEAST_NOISE = 0.0018
"""One grey level at 240: rounding alone makes this much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Glass:
    """What empty glass looks like on a slide.

    Attributes
    ----------
    colour
        [3], its optical density in red, green and blue against 255; None where there is no glass.
    shade
        [h, w], what the fall of the light adds to it in all colours.
    border
        [h, w], True where nothing was scanned.
    share
        Share of the scanned pixels that it was measured on.
    noise, spread
        Standard deviation of its density in the worst colour; the usual largest local deviation of its mean density.
    """

    colour: NDArray[np.float32] | None
    shade: Plane
    border: Mask
    share: float = 0.0
    noise: float = _LEAST_NOISE
    spread: float = _LEAST_NOISE / 2

    @property
    def rgb(self) -> tuple[float, float, float] | None:
        """Its colour, 0 to 255."""
        if self.colour is None:
            return None
        red, green, blue = np.round(255 * np.power(10.0, -self.colour.astype(np.float64)), 1).tolist()
        return red, green, blue

    def excess(self, density: Plane) -> Plane:
        """Return how much more than glass each pixel absorbs in the colour that it absorbs most, [h, w]."""
        colour = np.zeros(3, np.float32) if self.colour is None else self.colour
        highest: Plane = density[..., 0] - colour[0]
        for channel in (1, 2):
            np.maximum(highest, density[..., channel] - colour[channel], out=highest)
        highest -= self.shade
        return highest


def optical_density(rgb: NDArray[np.uint8], light: ArrayLike = 255.0, dark: float = 0.0) -> Plane:
    """Return the decadic optical density of pixels, `-log10(I / I0)`.

    (Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291.)

    Parameters
    ----------
    rgb
        `[..., 3]`, 0 to 255.
    light
        `I0`: what the camera sees without tissue, one number or one for each channel.
    dark
        Added to pixels and light, so that the darkest levels differ; without it black counts as 1.

    Returns
    -------
    NDArray[np.float32]
        `[..., 3]`; below 0 where a pixel is brighter than the light.
    """
    levels = np.maximum(np.arange(256, dtype=np.float32)[:, None] + np.float32(dark), np.float32(1))
    lights = np.broadcast_to(np.asarray(light, np.float32) + np.float32(dark), 3)
    table: Plane = -np.log10(levels / lights)  # a picture has no more than 256 levels
    density = np.empty(rgb.shape, np.float32)
    for channel in range(3):
        density[..., channel] = table[:, channel][rgb[..., channel]]
    return density


def over_channels(combine: np.ufunc, plane: Plane) -> Plane:
    """Combine the three channels of `[h, w, 3]`; reduced along so short an axis, numpy takes eight times as long."""
    combined: Plane = combine(combine(plane[..., 0], plane[..., 1]), plane[..., 2])
    return combined


def local_std(plane: Plane) -> Plane:
    """Return the standard deviation over 3 by 3 pixels."""
    mean = ndimage.uniform_filter(plane, 3)
    square = ndimage.uniform_filter(plane * plane, 3)
    deviation: Plane = np.sqrt(np.maximum(square - mean * mean, 0))
    return deviation


def find_glass(
    rgb: NDArray[np.uint8], density: Plane, spread: Plane, imposed: tuple[float, float, float] | None = None
) -> Glass:
    """Measure the glass of a slide.

    It is the brightest mode of the flat pixels within the scanned area. From there, pixels join that differ as the
    fall of the light makes them: slowly, and alike in all colours. Where no mode is found, and the camera saw white,
    glass is white; a slide without either has no glass.

    Parameters
    ----------
    rgb
        `[h, w, 3]`, 0 to 255.
    density, spread
        Its optical density, and the local deviation of the mean of that over the colours.
    imposed
        Red, green and blue of the glass, instead of what is found.

    Returns
    -------
    Glass
        Its colour, fall and noise.
    """
    flat = spread < _FLAT
    white = flat & (rgb.min(axis=-1) >= _WHITE)
    dark = ndimage.binary_opening(rgb.max(axis=-1) <= _BLACK, EIGHT)
    if dark.any():
        dark = ndimage.binary_dilation(dark, EIGHT, iterations=2)  # pixels along black are mixed with it
    border = white | dark
    scanned = border.size - int(np.count_nonzero(border))
    if imposed is None:
        colour = _brightest_mode(density[flat & ~border], scanned)
    else:
        colour = -np.log10(np.array(imposed, np.float32) / np.float32(255))
    level = np.zeros(density.shape[:2], np.float32)
    if colour is None:
        share = int(np.count_nonzero(white)) / max(dark.size - int(np.count_nonzero(dark)), 1)
        if share < _LEAST_SHARE:
            return Glass(colour=None, shade=level, border=border)
        return Glass(colour=np.zeros(3, np.float32), shade=level, border=border, share=share)
    shade, glass = _fit_fall(density, colour, flat & ~border)
    bare = Glass(colour=colour, shade=shade, border=border)
    if not glass.any():
        return bare
    return replace(
        bare,
        share=int(np.count_nonzero(glass)) / max(scanned, 1),
        noise=max(_LEAST_NOISE, float(np.quantile(np.abs(bare.excess(density)[glass]), 0.95)) / 2),
        spread=max(_LEAST_NOISE / 2, float(np.quantile(spread[glass], 0.95)) / 2),
    )


def _brightest_mode(candidates: Plane, scanned: int) -> NDArray[np.float32] | None:
    """Return the colour of the brightest mode of densities `[n, 3]`, or None if there is none that could be glass."""
    grey = candidates.mean(axis=-1)
    count, edges = np.histogram(grey, bins=np.arange(-_BIN, _DARKEST, _BIN))
    count = np.convolve(count, np.ones(3), "same")
    (enough,) = np.nonzero(count >= max(_LEAST_SHARE * scanned, 1))
    if not enough.size:
        return None
    peak = int(enough[0])
    while peak + 1 < len(count) and count[peak + 1] > count[peak]:
        peak += 1
    near = np.abs(grey - (edges[peak] + _BIN / 2)) < _WIDTH
    colour: NDArray[np.float32] = np.median(candidates[near], axis=0)
    allowed = _STAINED if np.count_nonzero(near) < _RARE * scanned else _DEEP
    return None if colour[1] - max(colour[0], colour[2]) > allowed else colour


def _fit_fall(density: Plane, colour: NDArray[np.float32], flat: Mask) -> tuple[Plane, Mask]:
    """Fit a paraboloid to the glass's mean density; each round takes in the glass that the last one reached.

    Returns
    -------
    tuple[NDArray[np.float32], NDArray[np.bool_]]
        The fall `[h, w]`, within the range that was measured, and the pixels that it was measured on.
    """
    offset = (density - colour).astype(np.float32)
    mean = offset.mean(axis=-1)
    grey = flat & (np.abs(offset - mean[..., None]).max(axis=-1) < _GREY)
    shade, glass = np.zeros_like(mean), grey & (np.abs(mean) < _WIDTH)
    rows, columns = (np.linspace(-1, 1, length, dtype=np.float32) for length in mean.shape)
    for _ in range(8 if glass.any() else 0):
        index = np.flatnonzero(glass)
        index = index[:: max(1, index.size // 20_000)]  # some thousand pixels fix six numbers
        y, x = rows[index // mean.shape[1]], columns[index % mean.shape[1]]
        design = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1).astype(np.float64)
        stiffness = np.diag([0.0, 1, 1, 1, 1, 1]) * 1e-3 * len(index)  # where glass is in one corner alone
        a, b, c, d, e, f = np.linalg.solve(
            design.T @ design + stiffness, design.T @ mean.ravel()[index].astype(np.float64)
        ).astype(np.float32)
        y, x = rows[:, None], columns[None, :]
        fitted: Plane = a + b * x + c * y + d * x * x + e * x * y + f * y * y
        shade = np.clip(fitted, fitted[glass].min(), fitted[glass].max())
        joined = grey & (np.abs(mean - shade) < _WIDTH)
        if not joined.any() or np.array_equal(joined, glass):
            break
        glass = joined
    return shade, glass
