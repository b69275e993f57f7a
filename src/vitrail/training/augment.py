"""Random changes of training tiles, whole batches at once, on the device that trains.

The paper names rotation, mirroring, hue, saturation, brightness and contrast, and for the classifier blurring and
Gaussian noise. Rotation, mirroring and scale become one resampling, the four colour changes one affine map of RGB.
Changes of the stains themselves are in `vitrail.training.stain_augment`, compression in `vitrail.training.jpeg`.
"""

# Own code, because torchvision.transforms.v2 draws once a batch, not once an image, and kornia from torch's global
# generator, which the dropout uses, too: here all devices draw the same from one generator, as every training has so
# far, and a batch is resampled once instead of once a change.

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

from vitrail.training.jpeg import compress
from vitrail.training.loader import Share
from vitrail.training.stain_augment import restain

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from vitrail.settings.schema import AugmentSettings
    from vitrail.training.stain_augment import StainTemplates

_LATER = 0x5EED  # any number, so that both generators differ

_QUALITIES = (30, 95)  # of JPEG

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


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
    templates
        What virtual slides are drawn from for `augment.stain_templates`; None draws none.
    """

    def __init__(
        self,
        settings: AugmentSettings,
        generator: Generator,
        *,
        blur_px: float = 0.0,
        noise: float = 0.0,
        templates: StainTemplates | None = None,
    ) -> None:
        self.settings, self.generator, self.templates = settings, generator, templates
        self.blur_px, self.noise = blur_px, noise
        # the paper's changes draw as they did before there were others
        self.later = torch.Generator().manual_seed(generator.initial_seed() ^ _LATER)

    def __call__(
        self, images: Tensor, masks: Tensor | None = None, share: Share | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Change a batch, or a process's share of one.

        Parameters
        ----------
        images
            Intensities 0 to 1, `[n, 3, side, side]`.
        masks
            Of whole numbers, `[n, side, side]`; they are turned and mirrored as the images are.
        share
            Which tiles of the batch these are: all are drawn for, so that each is changed as it is where one process
            has the whole batch. None means that these are all.

        Returns
        -------
        tuple[Tensor, Tensor | None]
            Images and masks of the same shapes; intensities within 0 to 1.
        """
        own, turns = self.settings, 360 // self.settings.rotation_step_deg if self.settings.rotation_step_deg else 1
        share, device = share or Share.of(len(images)), images.device
        # whatever is switched off is drawn all the same, so that it changes nothing else
        angle = self._uniform(share, device, 0, turns).floor() * math.radians(own.rotation_step_deg)
        flips = torch.stack([self._uniform(share, device, 0, 1) < own.mirror for _axis in range(2)], 1)
        if own.rotation_step_deg or own.mirror or own.scale:
            matrices = rigid(angle, flips)
            if own.scale:
                largest = math.log1p(own.scale)
                matrices = matrices * self._uniform(share, device, -largest, largest, self.later).exp().view(-1, 1, 1)
            images, masks = warp(images, masks, matrices)
        hue = self._uniform(share, device, -own.hue, own.hue)
        saturation, brightness, contrast = (
            self._uniform(share, device, 1 - most, 1 + most) for most in (own.saturation, own.brightness, own.contrast)
        )
        if own.hue or own.saturation or own.brightness or own.contrast:
            images = recolour(images, hue, saturation, brightness, contrast)
        images = self._restained(images, share)
        sigma_px = self._uniform(share, device, 0, self.blur_px)
        if self.blur_px:
            images = blur(images, sigma_px, math.ceil(3 * self.blur_px))
        strength = self._uniform(share, device, 0, self.noise)
        seed = int(torch.randint(2**62, (), generator=self.generator))
        if self.noise:  # drawn on the device from a seed of the CPU's generator: moving it would cost more
            generator = torch.Generator(images.device).manual_seed(seed)
            noise = torch.randn((share.total, *images.shape[1:]), generator=generator, device=images.device)
            images = torch.addcmul(images, share.take(noise), strength.view(-1, 1, 1, 1))
        images = images.clamp(0, 1)
        if own.jpeg:
            hit = self._uniform(share, device, 0, 1, self.later) < own.jpeg
            quality = self._uniform(share, device, *_QUALITIES, self.later)
            if hit.any():
                images[hit] = compress(images[hit], quality[hit])
        return images, masks

    def _restained(self, images: Tensor, share: Share) -> Tensor:
        """Change stains and overall colours as slides of other laboratories have them."""
        own = self.settings
        if own.stain_templates and self.templates is not None:
            hits = torch.rand(share.total, generator=self.later) < own.stain_templates
            if hits.any():
                drawn = torch.zeros(share.total, 6)
                drawn[hits] = torch.randn(int(hits.sum()), 6, generator=self.later)
                own_hits = share.take(hits)
                if own_hits.any():
                    hit, images = own_hits.to(images.device), images.clone()
                    images[hit] = self.templates.dress(images[hit], share.take(drawn)[own_hits])
        return restain(images, own.stain, self.later, share) if own.stain else images

    def _uniform(
        self, share: Share, device: torch.device, low: float, high: float, generator: Generator | None = None
    ) -> Tensor:
        """Draw one value a tile of the batch; those of this process's tiles."""
        drawn = torch.rand(share.total, generator=generator or self.generator)
        return share.take(drawn).mul_(high - low).add_(low).to(device)


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
    Tensor
        `[n, 2, 3]`, from points of the new image to points of the old one, in units of half a side.
    """
    cos, sin = torch.cos(angle), torch.sin(angle)
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    linear = torch.where(flips, -1.0, 1.0).unsqueeze(2) * turn
    return torch.cat([linear, torch.zeros_like(linear[..., :1])], 2)


def warp(images: Tensor, masks: Tensor | None, matrices: Tensor) -> tuple[Tensor, Tensor | None]:
    """Resample square images, bilinearly, and their masks, to the nearest pixel, both mirrored beyond the border.

    Parameters
    ----------
    images
        `[n, c, side, side]`.
    masks
        `[n, side, side]`, or None.
    matrices
        What `rigid` returned.

    Returns
    -------
    tuple[Tensor, Tensor | None]
        Images and masks of the same shapes.
    """
    grid = affine_grid(matrices, list(images.shape), align_corners=False)
    moved = grid_sample(images.contiguous(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    if masks is None:
        return moved, None
    planes = masks.unsqueeze(1).float()
    turned = grid_sample(planes, grid, mode="nearest", padding_mode="reflection", align_corners=False)
    return moved, turned.squeeze(1).to(masks.dtype)


def recolour(images: Tensor, hue: Tensor, saturation: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Change hue, saturation, brightness and contrast in one affine map of RGB.

    Hue turns RGB about the axis of greys; saturation goes to or from the pixel's luma; brightness scales; contrast
    goes to or from the mean luma of the image.

    Parameters
    ----------
    images
        Intensities `[n, 3, h, w]`.
    hue
        Shift of each image, `[n]`, in turns of the colour circle.
    saturation, brightness, contrast
        Factors, each `[n]`; 1 leaves the image as it is.

    Returns
    -------
    Tensor
        Of the same shape, not clipped.
    """
    device = images.device
    luma, identity = torch.tensor(_LUMA, device=device), torch.eye(3, device=device)
    saturation, brightness, contrast = (factor.view(-1, 1, 1) for factor in (saturation, brightness, contrast))
    # rotations about (1, 1, 1), by Rodrigues' formula
    angle, third = (2 * math.pi * hue).view(-1, 1, 1), 1 / math.sqrt(3)
    cross = torch.tensor([[0, -third, third], [third, 0, -third], [-third, third, 0]], device=device)
    grey = torch.full((3, 3), 1 / 3, device=device)
    rotation = torch.cos(angle) * identity + torch.sin(angle) * cross + (1 - torch.cos(angle)) * grey
    saturating = saturation * identity + (1 - saturation) * luma.expand(3, 3)
    linear = brightness * saturating @ rotation
    mean_luma = ((linear @ images.mean((2, 3)).unsqueeze(2)).squeeze(2) * luma).sum(1)
    offset = ((1 - contrast.flatten()) * mean_luma).view(-1, 1, 1).expand(-1, 3, 1)
    return torch.baddbmm(offset, contrast * linear, images.flatten(2)).view(images.shape)


def blur(images: Tensor, sigma_px: Tensor, radius_px: int) -> Tensor:
    """Blur each image with its own Gaussian; beyond the border the image is mirrored.

    Parameters
    ----------
    images
        `[n, c, h, w]`.
    sigma_px
        `[n]`; 0 leaves the image as it is.
    radius_px
        Where the Gaussian is cut off.

    Returns
    -------
    Tensor
        Of the same shape.
    """
    n, channels, height, width = images.shape
    offsets = torch.arange(-radius_px, radius_px + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma_px.clamp_min(1e-3).unsqueeze(1)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    rows = pad(images.reshape(1, -1, height, width), (radius_px,) * 4, mode="reflect")
    rows = conv2d(rows, kernel.view(-1, 1, 1, 2 * radius_px + 1), groups=n * channels)
    return conv2d(rows, kernel.view(-1, 1, 2 * radius_px + 1, 1), groups=n * channels).view(images.shape)
