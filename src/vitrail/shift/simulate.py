"""Tiles as another laboratory, microscope or file format would have made them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import ndimage

from vitrail.quality.background import optical_density
from vitrail.quality.rules import EOSIN, HEMATOXYLIN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Images = NDArray[np.uint8]

FAMILIES = {
    "hematoxylin": "Hematoxylin, times",
    "eosin": "Eosin, times",
    "hue": "Hue, towards red and towards blue",
    "focus": "Blur, sigma in um",
    "jpeg": "JPEG, quality",
    "brightness": "Brightness, times",
}
"""Of shifts, and what the strength of each is."""

_VECTORS = np.array([HEMATOXYLIN, EOSIN, np.cross(HEMATOXYLIN, EOSIN)])
_UNMIXED = np.linalg.inv(_VECTORS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """A change of tiles.

    Attributes
    ----------
    family
        One of `FAMILIES`, or `none`.
    strength
        Of stains and brightness what they are multiplied by; of the hue by how much more red light and less blue light
        is absorbed, as a share; of blur its standard deviation in um; of JPEG its quality.
    """

    family: str
    strength: float

    @property
    def name(self) -> str:
        """Its key in tables."""
        return self.family if self.family == "none" else f"{self.family} {self.strength:g}"


UNCHANGED = Shift(family="none", strength=0.0)

SHIFTS: tuple[Shift, ...] = tuple(
    Shift(family=family, strength=strength)
    for family, strengths in {
        "hematoxylin": (0.5, 0.75, 1.25, 1.5),
        "eosin": (0.5, 0.75, 1.25, 1.5),
        "hue": (-0.2, 0.2),
        "focus": (0.5, 1.0, 2.0),
        "jpeg": (70, 50, 30),
        "brightness": (0.9, 1.1),
    }.items()
    for strength in strengths
)
"""All that are simulated."""


def shifted(images: Images, shift: Shift, um_per_px: float) -> Images:
    """Change tiles.

    Parameters
    ----------
    images
        `[n, h, w, 3]`, RGB.
    shift
        How.
    um_per_px
        Their scale.

    Returns
    -------
    NDArray[np.uint8]
        `[n, h, w, 3]`; without a shift the same bytes.
    """
    strength = shift.strength
    match shift.family:
        case "none":
            return images
        case "hematoxylin":
            return _restained(images, _UNMIXED @ np.diag([strength, 1.0, 1.0]) @ _VECTORS)
        case "eosin":
            return _restained(images, _UNMIXED @ np.diag([1.0, strength, 1.0]) @ _VECTORS)
        case "hue":
            return _restained(images, np.diag([1 + strength, 1.0, 1 - strength]))
        case "focus":
            px = strength / um_per_px
            return _bytes(ndimage.gaussian_filter(images.astype(np.float32), (0, px, px, 0), mode="reflect"))
        case "jpeg":
            return np.stack([_compressed(image, round(strength)) for image in images])
        case "brightness":
            return _bytes(images.astype(np.float32) * np.float32(strength))
    raise ValueError(f"no such shift: {shift.family!r}")


def _restained(images: Images, matrix: NDArray[np.float64]) -> Images:
    """Multiply the optical densities of pixels by a matrix: Beer and Lambert's law."""
    density = optical_density(images) @ matrix.astype(np.float32)
    return _bytes(np.float32(255) * np.power(np.float32(10), -density))


def _compressed(image: Images, quality: int) -> Images:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file))


def _bytes(levels: NDArray[np.float32]) -> Images:
    return np.rint(np.clip(levels, 0, 255)).astype(np.uint8)
