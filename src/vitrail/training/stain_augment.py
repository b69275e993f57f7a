"""Tiles as other laboratories would have stained them.

Two ways: the amounts of the stains vary (Tellez et al. 2019, Med Image Anal 58:101544), or mean and spread of the
colours become those of a virtual slide (RandStainNA: Shen et al. 2022, doi 10.1007/978-3-031-16434-7_21).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from vitrail.quality.rules import EOSIN, HEMATOXYLIN

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Generator, Tensor

    from vitrail.training.loader import Share

_LEAST = 1 / 255  # black has no density, but an 8-bit camera gives no less light than this
_SHIFT = 0.125
_TILES = 16  # of a slide that is measured
_PALEST, _FADE = 95.0, 15.0  # lightness of glass, and below it that over which tissue begins
_MOST = 3.0  # tiles of even colour are not stretched to noise


@cache
def _stains(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return absorption of hematoxylin, eosin and what both lack, `[3, 3]`, unit rows, and the inverse."""
    vectors = torch.tensor(np.array([HEMATOXYLIN, EOSIN, np.cross(HEMATOXYLIN, EOSIN)]), dtype=torch.float32)
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    return vectors.to(device), torch.linalg.inv(vectors).to(device)


def restain(images: Tensor, strength: float, generator: Generator, share: Share | None = None) -> Tensor:
    """Scale and shift the amount of each stain in each image.

    Parameters
    ----------
    images
        Intensities 0 to 1, `[n, 3, h, w]`.
    strength
        Largest relative change of an amount; its shift, in natural optical density, is at most an eighth of it.
    generator
        Of the CPU.
    share
        Which tiles of a batch these are; all of it is drawn for. None means that these are all.

    Returns
    -------
    Tensor
        Of the same shape, within 0 to 1.
    """
    vectors, inverse = _stains(images.device)

    def drawn(most: float) -> Tensor:
        whole = torch.rand(share.total if share else len(images), 3, 1, generator=generator)
        return ((share.take(whole) if share else whole) * 2 - 1).mul_(most).to(images.device)

    density = -images.clamp_min(_LEAST).flatten(2).log()
    # one affine map of densities: unmix, scale, mix again
    factors = 1 + drawn(strength)
    maps = vectors.T @ (factors * inverse.T)
    shift = vectors.T @ drawn(strength * _SHIFT)
    return torch.baddbmm(shift, maps, density).neg_().exp_().clamp_(0, 1).view(images.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class StainTemplates:
    """How mean and spread of the colours of tissue, in Lab, vary over training slides.

    Attributes
    ----------
    centre, spread
        `[6]`: of the slides' means of L, a and b, and then of their standard deviations, their mean and standard
        deviation.
    """

    centre: Tensor
    spread: Tensor

    @classmethod
    def of(cls, images: NDArray[np.uint8], rows: NDArray[np.int64], slides: NDArray[np.str_]) -> StainTemplates:
        """Measure training slides, on 16 tiles of each.

        Parameters
        ----------
        images
            `[n, h, w, 3]`, which may be a memory map.
        rows
            Those that are trained on.
        slides
            The slide of each of these.

        Returns
        -------
        StainTemplates
            On the CPU.
        """
        figures = []
        for slide in np.unique(slides):
            own = rows[slides == slide]
            drawn = own[np.linspace(0, len(own) - 1, min(_TILES, len(own))).round().astype(int)]
            tiles = torch.from_numpy(np.asarray(images[np.sort(drawn)])).permute(3, 0, 1, 2).float() / 255
            lab = rgb_to_lab(tiles.reshape(1, 3, 1, -1))
            figures.append(torch.cat(_tissue_statistics(lab), 1).flatten())
        table = torch.stack(figures)
        return cls(centre=table.mean(0), spread=table.std(0, correction=0))

    def dress(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Give the tissue of each image mean and spread of a virtual slide of its own; glass stays as it is.

        Parameters
        ----------
        images
            Intensities 0 to 1, `[n, 3, h, w]`.
        drawn
            From the standard normal distribution, `[n, 6]`, on the CPU: where the virtual slides lie.

        Returns
        -------
        Tensor
            Of the same shape, within 0 to 1.
        """
        wanted = (self.centre + drawn * self.spread).to(images.device)
        lab = rgb_to_lab(images)
        mean, spread = _tissue_statistics(lab)
        ratio = (wanted[:, 3:, None].clamp_min(0) / spread.clamp_min(1e-3)).clamp_max(_MOST)
        dressed = ((lab.flatten(2) - mean) * ratio + wanted[:, :3, None]).view(images.shape)
        return lab_to_rgb(lab + (dressed - lab) * _tissue(lab))


def _tissue(lab: Tensor) -> Tensor:
    """Return how much of each pixel is tissue and no glass, `[n, 1, h, w]`, by its lightness."""
    return ((_PALEST - lab[:, :1]) / _FADE).clamp(0, 1)


def _tissue_statistics(lab: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of L, a and b of the tissue of each image, `[n, 3, 1]` each."""
    values, weight = lab.flatten(2), _tissue(lab).flatten(2) + 1e-6  # images of glass alone have a mean, too
    total = weight.sum(2, keepdim=True)
    mean = (values * weight).sum(2, keepdim=True) / total
    return mean, (((values - mean) ** 2 * weight).sum(2, keepdim=True) / total).sqrt()


_TO_XYZ = torch.tensor(  # linear sRGB to XYZ (IEC 61966-2-1), over the white of daylight D65
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
) / torch.tensor([[0.95047], [1.0], [1.08883]])
_TO_LAB = torch.tensor([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])
_OFFSET = torch.tensor([16.0, 0.0, 0.0]).view(3, 1)
_KNEE = 0.206893  # 6/29: below it CIE's cube root is a straight line


def rgb_to_lab(images: Tensor) -> Tensor:
    """Turn sRGB intensities 0 to 1 into CIE L*a*b* (D65), `[n, 3, h, w]` both."""
    flat = images.flatten(2)
    linear = torch.where(flat > 0.04045, ((flat + 0.055) / 1.055).clamp_min(0) ** 2.4, flat / 12.92)
    xyz = _TO_XYZ.to(images.device) @ linear
    root = torch.where(xyz > _KNEE**3, xyz.clamp_min(1e-9) ** (1 / 3), 7.787 * xyz + 16 / 116)
    return (_TO_LAB.to(images.device) @ root - _OFFSET.to(images.device)).view(images.shape)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Turn CIE L*a*b* (D65) into sRGB intensities, `[n, 3, h, w]` both, clipped to 0 to 1."""
    device = lab.device
    root = torch.linalg.inv(_TO_LAB).to(device) @ (lab.flatten(2) + _OFFSET.to(device))
    xyz = torch.where(root > _KNEE, root**3, (root - 16 / 116) / 7.787)
    linear = (torch.linalg.inv(_TO_XYZ).to(device) @ xyz).clamp(0, 1)
    flat = torch.where(linear > 0.0031308, 1.055 * linear.clamp_min(1e-9) ** (1 / 2.4) - 0.055, 12.92 * linear)
    return flat.clamp(0, 1).view(lab.shape)
