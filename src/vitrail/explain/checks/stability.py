"""Stability: whether a map follows what is done to its tile.

A tile whose stain is a little paler, or that is a little out of focus, shows the same tissue, and one that is shifted
or turned shows it elsewhere; the map must stay, or move likewise. After the change is undone on the map, it is
correlated with the map of the tile as it was. Maps that all look alike are perfectly stable and say nothing, so that
the correlation with another tile's map, changed and undone likewise, is what chance gives.

Alvarez-Melis and Jaakkola 2018 (arXiv:1806.08049) ask for robustness; that explanations should move with the image is
the equivariance of Crabbé and van der Schaar 2023 (arXiv:2304.06715).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from scipy import ndimage

from vitrail.explain.checks.perturbation import PER_SIDE
from vitrail.explain.checks.replacements import density
from vitrail.metrics.correlation import pearson

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Image = NDArray[np.uint8]
    Value = TypeVar("Value", bound=np.generic)

CHANGES = ("stain", "focus", "shift", "turn")

STAIN = 0.08
"""By this share the density of each channel is raised or lowered."""

BLUR_PX = 0.7
"""Standard deviation of the blur, and of the blur that sharpening takes away."""


def change(image: Image, name: str, seed: tuple[int, ...]) -> Image:
    """Change a square image as another scanner, another day or another place of the grid would.

    Parameters
    ----------
    image
        `[side, side, 3]`.
    name
        One of `CHANGES`. `stain`: the optical density of each channel is `STAIN` more or less; `focus`: blurred or
        sharpened; `shift`: a block down and right, mirrored in; `turn`: by 90 degrees.
    seed
        Numbers that decide more or less, blurred or sharpened.

    Returns
    -------
    NDArray[np.uint8]
        As large.
    """
    rng = np.random.default_rng(seed)
    if name == "stain":
        factors = 1 + STAIN * rng.choice((-1, 1), 3)
        return np.rint(255 * 10 ** (-density(image) * factors)).astype(np.uint8)
    if name == "focus":
        soft = ndimage.gaussian_filter(image.astype(np.float64), (BLUR_PX, BLUR_PX, 0), mode="reflect")
        sharp = 2.0 * image - soft
        return np.rint(np.clip(soft if rng.random() < 0.5 else sharp, 0, 255)).astype(np.uint8)
    return moved(image, name)


def moved(values: NDArray[Value], name: str) -> NDArray[Value]:
    """Move what belongs to an image, `[side, side, ...]`, as the image is moved."""
    if name == "shift":
        side, by = values.shape[0], shift_px(values.shape[0])
        at = np.abs(np.arange(-by, side - by))  # mirrored at the first row and column
        return values[at][:, at]
    return np.ascontiguousarray(np.rot90(values)) if name == "turn" else values


def shift_px(side_px: int) -> int:
    """Return by how much tiles are shifted: a block."""
    return round(side_px / PER_SIDE)


def follow(
    before: ArrayLike, after: ArrayLike, name: str, others: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlate the maps of changed images, once the change is undone, with those of the images.

    Parameters
    ----------
    before, after
        The maps at the images' resolution, `[n, side, side]`.
    name
        The change.
    others
        For each image another one, `[n]`.

    Returns
    -------
    tuple[NDArray[np.float64], NDArray[np.float64]]
        Pearson's coefficient with the same image's map, and with the other one's, `[n]` each; NaN where a map is
        constant.
    """
    before, after = (np.asarray(maps, np.float64) for maps in (before, after))
    if name == "turn":
        after = np.rot90(after, -1, (1, 2))
    if name == "shift":
        by = shift_px(before.shape[1])
        before, after = before[:, : before.shape[1] - by, : before.shape[2] - by], after[:, by:, by:]
    return pearson(before, after), pearson(before[others], after)
