"""Integrated gradients: the gradient summed along the way from a reference (Sundararajan et al. 2017).

Source: arXiv:1703.01365, equation 1. The integral is a sum over the nodes of Gauss and Legendre, and a map's sum is the
difference of the scores up to what this sum leaves out, its residue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from vitrail.classes import TissueClass
from vitrail.explain.hooks import frozen
from vitrail.explain.input_gradients import ImageScore, blurred
from vitrail.explain.methods.base import ExplanationMethod

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vitrail.explain.dense import DenseNetwork
    from vitrail.explain.methods.base import Head
    from vitrail.explain.saliency import Maps
    from vitrail.explain.target import Pixels

STEPS = 24
"""Nodes on the way."""


class IntegratedGradients(ExplanationMethod):
    """Integrated gradients from the blurred tile."""

    name, title, colour = "integrated_gradients", "Integrated gradients", (0, 114, 178)
    passes, gradients = STEPS + 2, STEPS
    complete = True
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
        """Explain images; see `ExplanationMethod.explain` and `integrated_gradients`."""
        return integrated_gradients(network, images, target=target, pixels=pixels)


METHOD = IntegratedGradients()


def integrated_gradients(
    network: nn.Module,
    images: Tensor,
    baseline: Tensor | None = None,
    target: TissueClass = TissueClass.TUMOR,
    *,
    pixels: Pixels = "predicted",
    steps: int = STEPS,
) -> Maps:
    """Explain images by what adds up on the straight way from a baseline to them.

    Parameters
    ----------
    network
        A classifier or a segmenter, in either mode.
    images
        `[n, 3, h, w]`, standardised.
    baseline
        Where the way begins, of the images' shape or one that expands to it: `white_glass`, or any image. None takes
        the blurred images, see `blurred`.
    target
        The class.
    pixels
        Of a segmenter: which pixels' class is explained, see `target_pixels`.
    steps
        Nodes on the way, each of which costs a forward and a backward pass.

    Returns
    -------
    Maps
        One map an image; a map's sum is the score of the image minus that of the baseline, up to its residue.
    """
    images = images.detach()
    start = blurred(images) if baseline is None else baseline.to(images).expand_as(images)
    nodes, weights = np.polynomial.legendre.leggauss(steps)  # on -1 to 1
    mean = torch.zeros_like(images)
    with frozen(network):
        score = ImageScore.on(network, images, target, pixels)
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            mean += score.gradient(torch.lerp(start, images, (node + 1) / 2)) * (weight / 2)
        return score.maps(METHOD.name, mean * (images - start), score.at(start))
