"""SmoothGrad: the mean gradient over noisy copies of an image (Smilkov et al. 2017, arXiv:1706.03825, equation 2).

A gradient alone says how the score would change, not what it rests on, and the sum of its channels has the sign of a
brighter pixel. So it is multiplied with what the image has and its blurred copy has not: to the first order a map's sum
is the score's difference between the two, and positive speaks for the target, as everywhere in Vitrail. It claims no
completeness, since a first order is far from exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vitrail.classes import TissueClass
from vitrail.explain.hooks import frozen
from vitrail.explain.input_gradients import ImageScore, blurred
from vitrail.explain.methods.base import ExplanationMethod
from vitrail.explain.methods.sampling import image_generators

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vitrail.explain.dense import DenseNetwork
    from vitrail.explain.methods.base import Head
    from vitrail.explain.saliency import Maps
    from vitrail.explain.target import Pixels

COPIES = 20
"""Noisy copies of an image."""

NOISE = 0.15
"""Standard deviation of the noise, over the range of the image's values: the source's 10 to 20 %."""


class SmoothGrad(ExplanationMethod):
    """SmoothGrad, times the difference to the blurred tile."""

    name, title, colour = "smoothgrad", "SmoothGrad", (213, 94, 0)
    passes, gradients = COPIES + 1, COPIES
    any_network = True

    def explain(
        self,
        network: nn.Module,
        images: Tensor,
        target: TissueClass = TissueClass.TUMOR,
        *,
        head: Head = None,  # noqa: ARG002 - it has none
        pixels: Pixels = "predicted",
        mpp: float | None = None,  # noqa: ARG002 - pixels have no size here
        dense: DenseNetwork | None = None,  # noqa: ARG002 - nor has a pixel other cells
    ) -> Maps:
        """Explain images; see `ExplanationMethod.explain` and `smoothgrad`."""
        return smoothgrad(network, images, target=target, pixels=pixels)


METHOD = SmoothGrad()


def smoothgrad(
    network: nn.Module,
    images: Tensor,
    baseline: Tensor | None = None,
    target: TissueClass = TissueClass.TUMOR,
    *,
    pixels: Pixels = "predicted",
    copies: int = COPIES,
    noise: float = NOISE,
) -> Maps:
    """Explain images by the mean gradient over noisy copies, times the difference to a baseline.

    Parameters
    ----------
    network
        A classifier or a segmenter, in either mode.
    images
        `[n, 3, h, w]`, standardised.
    baseline
        What is subtracted from the images, of their shape or one that expands to it. None takes the blurred images,
        see `blurred`.
    target
        The class.
    pixels
        Of a segmenter: which pixels' class is explained, see `target_pixels`.
    copies
        Noisy copies, each of which costs a forward and a backward pass.
    noise
        Standard deviation, over the range of each image's values.

    Returns
    -------
    Maps
        One map an image.
    """
    images = images.detach()
    difference = images - (blurred(images) if baseline is None else baseline.to(images))
    generators = image_generators(images)
    sigma = (images.amax((1, 2, 3)) - images.amin((1, 2, 3))) * noise
    mean = torch.zeros_like(images)
    with frozen(network):
        score = ImageScore.on(network, images, target, pixels)
        for _ in range(copies):
            drawn = torch.stack([torch.randn(images.shape[1:], generator=generator) for generator in generators])
            mean += score.gradient(images + drawn.to(images) * sigma.view(-1, 1, 1, 1)) / copies
        return score.maps(METHOD.name, mean * difference)
