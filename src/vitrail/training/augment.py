"""Random changes of training tiles, whole batches at once, on the device that trains.

The paper names rotation, mirroring, hue, saturation, brightness and contrast, and for the classifier blurring and
Gaussian noise. Rotation and mirroring become one resampling, the four colour changes one affine map of RGB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from vitrail.settings.schema import AugmentSettings

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_SIGMAS = 3  # the blur's kernel ends here


@dataclass(frozen=True, slots=True, kw_only=True)
class Colour:
    """Colour changes, one value an image, each `[n]`.

    Attributes
    ----------
    hue
        Shift, in turns of the colour circle.
    saturation, brightness, contrast
        Factors; 1 leaves the image as it is.
    """

    hue: Tensor
    saturation: Tensor
    brightness: Tensor
    contrast: Tensor


class Augmenter:
    """Changes each image of a batch in its own way.

    Parameters
    ----------
    settings
        The largest strengths; each image draws its own between none and these, uniformly. Rotations are drawn from
        the multiples of a step.
    generator
        Of the CPU, whatever the device of the images, so that all devices draw the same.
    blur_px, noise
        Largest sigma of the blur, in pixels, and of the noise, of intensities; the paper has both for the classifier.
    """

    def __init__(
        self, settings: AugmentSettings, generator: Generator, *, blur_px: float = 0.0, noise: float = 0.0
    ) -> None:
        self.settings, self.generator = settings, generator
        self.blur_px, self.noise = blur_px, noise

    def __call__(self, images: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Change a batch.

        Parameters
        ----------
        images
            Intensities 0 to 1, `[n, 3, side, side]`.
        masks
            Of whole numbers, `[n, side, side]`; they are turned and mirrored as the images are.

        Returns
        -------
        images, masks
            Of the same shapes; intensities within 0 to 1.
        """
        images, masks = self._geometry(images, masks)
        images = self._noise(self._blur(self._colour(images)))
        return images.clamp(0, 1), masks

    def _geometry(self, images: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor | None]:
        step, chance = self.settings.rotation_step_deg, self.settings.mirror
        angle = self._uniform(images, 0, 360 // step if step else 1).floor() * math.radians(step)
        flips = torch.stack([self._uniform(images, 0, 1) < chance for _axis in range(2)], 1)
        return warp(images, masks, rigid(angle, flips)) if step or chance else (images, masks)

    def _colour(self, images: Tensor) -> Tensor:
        s = self.settings
        hue = self._uniform(images, -s.hue, s.hue)
        saturation, brightness, contrast = (
            self._uniform(images, 1 - most, 1 + most) for most in (s.saturation, s.brightness, s.contrast)
        )
        colour = Colour(hue=hue, saturation=saturation, brightness=brightness, contrast=contrast)
        return recolour(images, colour) if s.hue or s.saturation or s.brightness or s.contrast else images

    def _blur(self, images: Tensor) -> Tensor:
        sigma = self._uniform(images, 0, self.blur_px)
        return blur(images, sigma, math.ceil(_SIGMAS * self.blur_px)) if self.blur_px else images

    def _noise(self, images: Tensor) -> Tensor:
        """Add noise drawn on the device, which is seeded from the CPU's generator: moving it would cost more."""
        sigma = self._uniform(images, 0, self.noise)
        seed = int(torch.randint(2**62, (), generator=self.generator))
        if not self.noise:
            return images
        own = torch.Generator(images.device).manual_seed(seed)
        noise = torch.randn(images.shape, generator=own, device=images.device)
        return torch.addcmul(images, noise, sigma.view(-1, 1, 1, 1))

    def _uniform(self, images: Tensor, low: float, high: float) -> Tensor:
        """Draw one value an image."""
        return torch.rand(len(images), generator=self.generator).mul_(high - low).add_(low).to(images.device)


def rigid(angle: Tensor, flips: Tensor) -> Tensor:
    """Compose rotation and mirroring.

    Parameters
    ----------
    angle
        `[n]`, in radians, counter-clockwise as one looks at the image.
    flips
        `[n, 2]`, whether left and right, top and bottom change places, before the rotation.

    Returns
    -------
    matrices
        `[n, 2, 3]`, from places in the new image to places in the old one, in units of half a side.
    """
    cos, sin = torch.cos(angle), torch.sin(angle)
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    linear = torch.where(flips, -1.0, 1.0).unsqueeze(2) * turn
    return torch.cat([linear, torch.zeros_like(linear[..., :1])], 2)


def warp(images: Tensor, masks: Tensor | None, matrices: Tensor) -> tuple[Tensor, Tensor | None]:
    """Resample square images, bilinearly, and their masks, to the nearest pixel, both mirrored beyond the border."""
    grid = affine_grid(matrices, list(images.shape), align_corners=False)
    moved = _sample(images.contiguous(), grid, "bilinear")
    if masks is None:
        return moved, None
    return moved, _sample(masks.unsqueeze(1).float(), grid, "nearest").squeeze(1).to(masks.dtype)


def _sample(x: Tensor, grid: Tensor, mode: str) -> Tensor:
    return grid_sample(x, grid, mode=mode, padding_mode="reflection", align_corners=False)


def recolour(images: Tensor, colour: Colour) -> Tensor:
    """Change hue, saturation, brightness and contrast of intensities `[n, 3, h, w]` in one affine map.

    Hue turns RGB about the axis of greys; saturation goes to or from the pixel's luma; brightness scales; contrast
    goes to or from the mean luma of the image. The result is not clipped.
    """
    luma = torch.tensor(_LUMA, device=images.device)
    linear = colour.brightness.view(-1, 1, 1) * _saturation(colour.saturation, luma) @ _hue(colour.hue)
    grey = ((linear @ images.mean((2, 3)).unsqueeze(2)).squeeze(2) * luma).sum(1)
    linear = colour.contrast.view(-1, 1, 1) * linear
    offset = ((1 - colour.contrast) * grey).view(-1, 1, 1).expand(-1, 3, 1)
    return torch.baddbmm(offset, linear, images.flatten(2)).view(images.shape)


def _hue(turns: Tensor) -> Tensor:
    """Return rotations about (1, 1, 1), `[n, 3, 3]`, by Rodrigues' formula."""
    angle = (2 * math.pi * turns).view(-1, 1, 1)
    third = 1 / math.sqrt(3)
    cross = torch.tensor([[0, -third, third], [third, 0, -third], [-third, third, 0]], device=turns.device)
    grey = torch.full((3, 3), 1 / 3, device=turns.device)
    return (
        torch.cos(angle) * torch.eye(3, device=turns.device) + torch.sin(angle) * cross + (1 - torch.cos(angle)) * grey
    )


def _saturation(factor: Tensor, luma: Tensor) -> Tensor:
    factor = factor.view(-1, 1, 1)
    return factor * torch.eye(3, device=factor.device) + (1 - factor) * luma.expand(3, 3)


def blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur each image `[n, c, h, w]` with its own Gaussian of `sigma` `[n]` pixels, cut off at `radius` pixels.

    A sigma of 0 leaves the image as it is. Beyond the border the image is mirrored.
    """
    n, channels, height, width = images.shape
    places = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.exp(-0.5 * (places / sigma.clamp_min(1e-3).unsqueeze(1)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    rows = pad(images.reshape(1, -1, height, width), (radius,) * 4, mode="reflect")
    rows = conv2d(rows, kernel.view(-1, 1, 1, 2 * radius + 1), groups=n * channels)
    return conv2d(rows, kernel.view(-1, 1, 2 * radius + 1, 1), groups=n * channels).view(images.shape)
