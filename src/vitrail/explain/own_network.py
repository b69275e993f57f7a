"""A network of the user's own, explained: any module that turns images into something a score can be read from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from vitrail.errors import SettingsError
from vitrail.explain.methods.base import METHODS
from vitrail.explain.methods.gradcam import gradcam
from vitrail.models.batches import Batches
from vitrail.models.spec import Colours

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from vitrail.explain.methods.gradcam import Score
    from vitrail.explain.saliency import Maps, Saliency

    Triple = tuple[float, float, float]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What torchvision and most of timm standardise images with (He et al. 2016, doi:10.1109/CVPR.2016.90)."""

_BATCH = 16


class _Scored(nn.Module):
    """A network and the score that is read from its output, which is what methods take a classifier for."""

    def __init__(self, network: nn.Module, score: Score) -> None:
        super().__init__()
        self.network, self._score = network, score

    def forward(self, images: Tensor) -> Tensor:
        """Map images `[n, 3, h, w]` to their scores, `[n]`."""
        return self._score.of_images(self.network(images), len(images))


def explain_network(
    network: nn.Module,
    images: NDArray[np.uint8],
    score: Score,
    method: str = "deeplift",
    *,
    layer: str | None = None,
    mean: Triple = IMAGENET_MEAN,
    std: Triple = IMAGENET_STD,
) -> list[Saliency]:
    """Explain images by any network of torch, torchvision, timm or your own.

    Parameters
    ----------
    network
        Any module that treats the images of a batch apart when it is in eval mode; it stays as it is, where it is.
    images
        Bytes `[n, h, w, 3]`, at the size that the network takes.
    score
        What to explain: a function of the network's output. A logit shows more than a probability, which is flat where
        a network is sure.
    method
        `deeplift`, `integrated_gradients`, `smoothgrad`, `occlusion`, `rise`, or `gradcam`.
    layer
        Of Grad-CAM: whose feature maps are weighed, a name of `network.named_modules()`; for others None.
    mean, std
        What the network's images are standardised with, of intensities 0 to 1; by default ImageNet's.

    Returns
    -------
    list[Saliency]
        One signed map an image, over its image; positive speaks for a higher score.

    Raises
    ------
    SettingsError
        The method cannot explain such a network, a layer is missing or of no use, the images are no bytes of this
        shape, or the network does not compute in 32-bit floats.
    ModelError
        The score is not one number an image, the network does something that the method has no rule for, the layer is
        none, or the device's memory is too small.
    """
    able = ("gradcam", *(name for name, each in METHODS.items() if each.any_network))
    if method not in able:
        problem = f"{method!r} cannot explain a network of your own"
        raise SettingsError("method", problem, f"Take one of {', '.join(able)}")
    if (layer is None) == (method == "gradcam"):
        problem = "is missing: Grad-CAM weighs a layer" if layer is None else f"is of no use to {method}"
        raise SettingsError("layer", problem, "Name one of network.named_modules() with gradcam, and none with others")
    if getattr(images, "dtype", None) != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise SettingsError("images", "are not bytes [n, h, w, 3]", "Give an array of uint8, as pictures are read")
    if any(each.is_floating_point() and each.dtype != torch.float32 for each in network.parameters()):
        raise SettingsError("network", "does not compute in 32-bit floats", "Call network.float() first")
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    scored = _Scored(network, score)

    def explain(_rows: slice, batch: Tensor) -> Maps:
        if layer is not None:
            return gradcam(network, batch, layer, score)
        return replace(METHODS[method].explain(scored, batch), target=score.name)

    batches = Batches(Colours(mean=mean, std=std), device, _BATCH, "explanation").run(images, explain)
    saliencies = (each for maps in batches for each in maps.saliencies())
    return [each.over(image) for image, each in zip(images, saliencies, strict=True)]
