"""The empty glass of a slide: its colour, the fall of the light over it, and its noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

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

_SQUARE = np.ones((3, 3), np.bool_)
_MOST_SAMPLES = 20_000
_ROUNDS = 8
_STIFFNESS = 1e-3


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


def optical_density(rgb: NDArray[np.uint8]) -> Plane:
    """Return `-log10(I / 255)` of every channel; black counts as 1."""
    density: Plane = -np.log10(np.maximum(rgb, 1).astype(np.float32) / np.float32(255))
    return density


def local_std(plane: Plane) -> Plane:
    """Return the standard deviation over 3 by 3 pixels."""
    mean = ndimage.uniform_filter(plane, 3)
    square = ndimage.uniform_filter(plane * plane, 3)
    deviation: Plane = np.sqrt(np.maximum(square - mean * mean, 0))
    return deviation


def find_glass(
    rgb: NDArray[np.uint8], density: Plane, spread: Plane, given: tuple[float, float, float] | None = None
) -> Glass:
    """Measure the glass of a slide.

    It is the brightest mode of the flat pixels within the scanned area. From there, pixels join that differ as the
    fall of the light makes them: slowly, and alike in all colours. Where no mode is found, and the camera saw white,
    glass is white; a slide without either has no glass.

    Parameters
    ----------
    rgb
        [h, w, 3], 0 to 255.
    density, spread
        Its optical density, and the local deviation of the mean of that over the colours.
    given
        Red, green and blue of the glass, to impose it.
    """
    flat = spread < _FLAT
    white = flat & (rgb.min(axis=-1) >= _WHITE)
    dark = _dark_border(rgb)
    colour = _mode(density, flat & ~white & ~dark, int(np.count_nonzero(~white & ~dark)))
    if given is not None:
        colour = -np.log10(np.array(given, np.float32) / np.float32(255))
    if colour is None:
        return _white_glass(density, white, dark)
    return _measured(density, spread, (colour, flat & ~dark, white | dark))


def _dark_border(rgb: NDArray[np.uint8]) -> Mask:
    """Find black areas, and the pixels along them that are mixed with black."""
    black = ndimage.binary_opening(rgb.max(axis=-1) <= _BLACK, _SQUARE)
    return ndimage.binary_dilation(black, _SQUARE, iterations=2) if black.any() else black


def _mode(density: Plane, candidates: Mask, scanned: int) -> NDArray[np.float32] | None:
    """Return the colour of the brightest mode of the candidates, or None if there is none that could be glass."""
    grey = density[candidates].mean(axis=-1)
    count, edges = np.histogram(grey, bins=np.arange(-_BIN, _DARKEST, _BIN))
    count = np.convolve(count, np.ones(3), "same")
    (enough,) = np.nonzero(count >= max(_LEAST_SHARE * scanned, 1))
    if not enough.size:
        return None
    peak = int(enough[0])
    while peak + 1 < len(count) and count[peak + 1] > count[peak]:
        peak += 1
    near = np.abs(grey - (edges[peak] + _BIN / 2)) < _WIDTH
    colour: NDArray[np.float32] = np.median(density[candidates][near], axis=0)
    allowed = _STAINED if np.count_nonzero(near) < _RARE * scanned else _DEEP
    return None if colour[1] - max(colour[0], colour[2]) > allowed else colour


def _white_glass(density: Plane, white: Mask, dark: Mask) -> Glass:
    """Return glass as white as the camera gets, or none."""
    shade = np.zeros(density.shape[:2], np.float32)
    share = _ratio(white, ~dark)
    if share < _LEAST_SHARE:
        return Glass(colour=None, shade=shade, border=white | dark)
    return Glass(colour=np.zeros(3, np.float32), shade=shade, border=white | dark, share=share)


def _ratio(part: Mask, whole: Mask) -> float:
    return int(np.count_nonzero(part)) / max(int(np.count_nonzero(whole)), 1)


def _measured(density: Plane, spread: Plane, found: tuple[NDArray[np.float32], Mask, Mask]) -> Glass:
    """Measure fall and noise of the light around a colour `found` among flat pixels outside the scan border."""
    colour, flat, border = found
    shade, glass = _fall(density, colour, flat & ~border)
    bare = Glass(colour=colour, shade=shade, border=border)
    if not glass.any():
        return bare
    return Glass(
        colour=colour,
        shade=shade,
        border=border,
        share=_ratio(glass, ~border),
        noise=max(_LEAST_NOISE, float(np.quantile(np.abs(bare.excess(density)[glass]), 0.95)) / 2),
        spread=max(_LEAST_NOISE / 2, float(np.quantile(spread[glass], 0.95)) / 2),
    )


def _fall(density: Plane, colour: NDArray[np.float32], flat: Mask) -> tuple[Plane, Mask]:
    """Fit a paraboloid to the glass's mean density; each round takes in the glass that the last one reached.

    Returns
    -------
    The fall [h, w], within the range that was measured, and the pixels that it was measured on.
    """
    offset = (density - colour).astype(np.float32)
    mean = offset.mean(axis=-1)
    grey = flat & (np.abs(offset - mean[..., None]).max(axis=-1) < _GREY)
    shade, glass = np.zeros_like(mean), grey & (np.abs(mean) < _WIDTH)
    terms = _paraboloid(mean.shape)
    for _ in range(_ROUNDS if glass.any() else 0):
        fitted = _fitted(terms, mean, glass)
        low, high = fitted[glass].min(), fitted[glass].max()
        shade = np.clip(fitted, low, high)
        joined = grey & (np.abs(mean - shade) < _WIDTH)
        if not joined.any() or np.array_equal(joined, glass):
            break
        glass = joined
    return shade, glass


def _paraboloid(shape: tuple[int, int]) -> tuple[Plane, Plane]:
    """Return the coordinates of rows [h, 1] and columns [1, w], from -1 to 1."""
    rows, columns = (np.linspace(-1, 1, length, dtype=np.float32) for length in shape)
    return rows[:, None], columns[None, :]


def _fitted(terms: tuple[Plane, Plane], mean: Plane, glass: Mask) -> Plane:
    """Fit a quadratic of the place to some thousand glass pixels, and evaluate it everywhere."""
    where = np.flatnonzero(glass)
    where = where[:: max(1, where.size // _MOST_SAMPLES)]
    y, x = terms[0].ravel()[where // mean.shape[1]], terms[1].ravel()[where % mean.shape[1]]
    design = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1).astype(np.float64)
    stiffness = np.diag([0.0, 1, 1, 1, 1, 1]) * _STIFFNESS * len(where)
    a, b, c, d, e, f = np.linalg.solve(
        design.T @ design + stiffness, design.T @ mean.ravel()[where].astype(np.float64)
    ).astype(np.float32)
    y, x = terms
    fitted: Plane = a + b * x + c * y + d * x * x + e * x * y + f * y * y
    return fitted
