"""From concentrations to colours: Beer and Lambert's law, the camera's blur and noise.

The transmitted light is `I = I0 * 10 ** -(c @ S)`, with the concentrations `c` and the stains' absorption `S` in red,
green and blue (Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from vitrail.quality.rules import EOSIN, HEMATOXYLIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from vitrail.synthetic.fields import Plane, Window
    from vitrail.synthetic.nuclei import Bank
    from vitrail.synthetic.populate import Nuclei

_VECTORS = np.array([HEMATOXYLIN, EOSIN, (0.10, 0.72, 0.69)], np.float32)
"""Unit absorption of hematoxylin, eosin, and the orange of keratin and red cells."""

_NORMAL = ndtri((np.arange(256) + 0.5) / 256).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stain:
    """The staining and the scanner of one slide.

    Attributes
    ----------
    vectors
        `[3, 3]`: absorption of each stain in red, green and blue, times its strength.
    light
        `[3]`: what the camera sees through empty glass, 0 to 255.
    blur
        Weight of each neighbour in the camera's 3-pixel blur.
    noise
        Standard deviation of the camera's noise in grey levels.
    """

    vectors: Plane
    light: Plane
    blur: float
    noise: float


def draw_stain(rng: np.random.Generator) -> Stain:
    """Draw a staining: hues and strengths vary between laboratories and days."""
    turned = np.clip(_VECTORS + rng.normal(0, 0.03, (3, 3)), 0.02, None)
    unit = turned / np.linalg.norm(turned, axis=1, keepdims=True)
    strength = rng.uniform(0.72, 1.2, 2)
    light = np.clip(242 + rng.normal(0, 3) + rng.normal(0, 1.3, 3), 230, 250)
    return Stain(
        vectors=(unit * np.array([[strength[0]], [strength[1]], [strength[1]]])).astype(np.float32),
        light=light.astype(np.float32),
        blur=float(rng.uniform(0.14, 0.22)),
        noise=float(rng.uniform(1.5, 2.6)),
    )


def stamp(stains: Plane, nuclei: Nuclei, window: Window, banks: tuple[Bank, ...]) -> None:
    """Lay nuclei onto the stained tissue `[3, side, side]` of a window; they displace the eosin under them."""
    side = stains.shape[1]
    x, y = nuclei.x - window.x, nuclei.y - window.y
    for k in np.flatnonzero((x >= 0) & (y >= 0) & (x < side) & (y < side)):
        bank = banks[nuclei.kind[k]]
        top, left, size = int(y[k]) - bank.half, int(x[k]) - bank.half, bank.cover.shape[1]
        if top < 0 or left < 0 or top + size > side or left + size > side:
            continue  # it touches the margin alone
        part = stains[:, top : top + size, left : left + size]
        cover = bank.cover[nuclei.drawing[k]]
        part[1:] *= 1 - 0.6 * cover
        part[0] += cover * (nuclei.gain[k] * bank.stain[nuclei.drawing[k]] - part[0])


def camera_noise(rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """Draw the camera's noise `[side, side, 3]`, as places in a table of 256 normal values.

    A table is several times as fast as normal numbers, and the eye cannot tell.
    """
    return np.frombuffer(rng.bytes(side * side * 3), np.uint8).reshape(side, side, 3)


def photograph(
    stains: Plane, stain: Stain, noise: NDArray[np.uint8], veils: Iterable[Callable[[Plane], None]] = ()
) -> NDArray[np.uint8]:
    """Return what the camera sees.

    Parameters
    ----------
    stains
        Concentrations `[3, side, side]`.
    stain
        The slide's staining.
    noise
        What `camera_noise` returns for these pixels.
    veils
        Each changes the light `[side, side, 3]` in place, before the camera adds its noise.

    Returns
    -------
    NDArray[np.uint8]
        `[side, side, 3]`, red, green and blue.
    """
    picture = np.empty((*stains.shape[1:], 3), np.float32)
    sharp = [_blur(plane, stain.blur) for plane in stains]
    for channel in range(3):
        density = sum(plane * stain.vectors[k, channel] for k, plane in enumerate(sharp))
        picture[..., channel] = stain.light[channel] * np.exp(density * np.float32(-np.log(10)))
    for veil in veils:
        veil(picture)
    picture += np.float32(stain.noise) * _NORMAL[noise]
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def _blur(plane: Plane, weight: float) -> Plane:
    """Mix each pixel with its neighbours, down and across; the outermost pixels stay as they are."""
    result = plane.copy()
    result[1:-1] += np.float32(weight) * (plane[:-2] + plane[2:] - 2 * plane[1:-1])
    wide = result.copy()
    wide[:, 1:-1] += np.float32(weight) * (result[:, :-2] + result[:, 2:] - 2 * result[:, 1:-1])
    return wide
