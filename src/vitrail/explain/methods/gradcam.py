"""Grad-CAM: feature maps, weighted by the mean gradient of a score (Selvaraju et al. 2017, doi:10.1109/ICCV.2017.74).

Where features have a zero, maps are signed; `Saliency.relu` is the map as first defined. The gradient never goes
through the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from vitrail.classes import TissueClass
from vitrail.errors import ModelError
from vitrail.explain.decoder_gradient import decode
from vitrail.explain.fused import Reader
from vitrail.explain.hooks import frozen, leaf_at, seen
from vitrail.explain.layers import final_stride
from vitrail.explain.methods.base import ExplanationMethod
from vitrail.explain.receptive_field import BOTTLENECK, FEATURES, frames
from vitrail.explain.saliency import Maps
from vitrail.explain.target import target_pixels
from vitrail.models.classifier import Classifier
from vitrail.models.segmenter import Segmenter

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from vitrail.explain.dense import DenseNetwork
    from vitrail.explain.methods.base import Head
    from vitrail.explain.target import Pixels


class GradCam(ExplanationMethod):
    """Grad-CAM of a classifier's final feature maps, and of a segmenter's bottleneck."""

    name, title, colour = "gradcam", "Grad-CAM", (230, 97, 1)
    describes = "weighs the network's last feature maps, which are coarse, by how far each raises the score"
    on_slides = True

    def records(self, network: nn.Module) -> bool:
        """Tell whether a segmenter is a U-Net, whose decoder's gradient is written out."""
        return isinstance(network, Segmenter) and network.architecture == "unet"

    def reader(self, network: nn.Module, head: Head = None) -> Reader | None:  # noqa: ARG002 - it has none
        """Return what weighs a classifier's final feature maps by the gradient of its logit; see `classifier_gradcam`.

        Parameters
        ----------
        network
            The network.
        head
            Grad-CAM has none.

        Returns
        -------
        Reader | None
            None of a segmenter, whose gradient goes through its decoder.
        """
        if not isinstance(network, Classifier):
            return None

        def read(_layer: str, features: Tensor, own: Tensor) -> Tensor:
            with torch.autocast(features.device.type, enabled=False):  # as the network's own head
                hidden = network.dense(own.float().mean((2, 3)))
                slopes = network.slope(hidden) * network.logit.weight
                return _weighted(features.float(), slopes @ network.dense.weight / own[0, 0].numel())

        unit = "logit of tumor in a cell of the feature map: a tile's cells add up to its logit, but for the biases"
        strides = (final_stride(network),)
        return Reader(method=self.name, layers=(FEATURES,), strides=strides, read=read, unit=unit, adds_up=True)

    def explain(
        self,
        network: nn.Module,
        images: Tensor,
        target: TissueClass = TissueClass.TUMOR,
        *,
        head: Head = None,
        pixels: Pixels = "predicted",
        mpp: float | None = None,
        dense: DenseNetwork | None = None,
    ) -> Maps:
        """Explain images; see `ExplanationMethod.explain`, `classifier_gradcam` and `segmenter_gradcam`."""
        if isinstance(network, Classifier):
            return super().explain(network, images, target, head=head, mpp=mpp, dense=dense)
        return segmenter_gradcam(network, images, target, pixels, dense)  # type: ignore[arg-type]  # `explains` said so


METHOD = GradCam()


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a user's own network is asked to explain.

    Attributes
    ----------
    name
        Its name in the maps.
    of
        Takes the network's output for a batch and gives each image's score, `[n]`.
    """

    name: str
    of: Callable[[Any], Tensor]

    def of_images(self, output: Any, count: int) -> Tensor:
        """Return the score of each image of a batch, `[count]`.

        Parameters
        ----------
        output
            Of the network, for the batch.
        count
            Images of the batch.

        Returns
        -------
        Tensor
            `[count]`.

        Raises
        ------
        ModelError
            `of` gives something else.
        """
        scores = self.of(output)
        if scores.shape != (count,):
            problem = f"gives {list(scores.shape)} for {count} images, not one number an image"
            raise ModelError(f"score {self.name!r}", problem, "Choose one, as in: lambda output: output[:, 1]")
        return scores


def classifier_gradcam(network: Classifier, images: Tensor, target: TissueClass = TissueClass.TUMOR) -> Maps:
    """Explain a classifier by its final feature maps, at the cost of a forward pass.

    Behind the feature maps `A` (of `Z` cells) come their means `a`, `h = W1 a + b1`, and the logit `w2 . f(h) + b2`. So
    the gradient is the same in all cells, `W1' (f'(h) * w2) / Z`, and needs no autograd: `f'` is 1 where the dense
    layer is linear, so that all images share their weights, and `1[h > 0]` behind a ReLU.

    Parameters
    ----------
    network
        The classifier, in either mode.
    images
        `[n, 3, h, w]`, standardised.
    target
        `TUMOR` is the logit, `NON_TUMOR` its negative.

    Returns
    -------
    Maps
        One map an image; its output is the logits.

    Raises
    ------
    ValueError
        The target is none of these two.
    """
    return METHOD.explain(network, images, target)


def segmenter_gradcam(
    network: Segmenter,
    images: Tensor,
    target: TissueClass = TissueClass.TUMOR,
    pixels: Pixels = "predicted",
    dense: DenseNetwork | None = None,
) -> Maps:
    """Explain a segmenter by the feature maps of its bottleneck.

    The score is the mean of a class's output over a set of pixels; Vinogradova et al. 2020 (arXiv:2002.11434) take the
    sum, with which a tile's values would grow with its number of pixels, and tiles could not be compared. The output
    is the logit, as there: the softmax also falls when other classes rise, and its gradient vanishes where the network
    is sure. The gradient goes through the decoder only, see `vitrail.explain.decoder_gradient`.

    The map is signed where the bottleneck lies behind an activation, as in the layout `paper`. Linear projections, as
    in `timm`, have no zero: half of their values are negative, and so may be the map of a tile that is all tumor.

    Parameters
    ----------
    network
        The segmenter, in either mode.
    images
        `[n, 3, h, w]`, standardised.
    target
        The class.
    pixels
        See `target_pixels`. Where an image has none, its map is 0 everywhere.
    dense
        Whose feature maps are weighed, of the images continued; None takes the network's own.

    Returns
    -------
    Maps
        One map an image; its output is the logits `[n, classes, h, w]`.

    Raises
    ------
    ValueError
        The mask is not one.
    """
    return bottleneck_maps(
        METHOD.name, network, images, target, pixels, dense=dense, weigh=lambda _, gradient: gradient.mean((2, 3))
    )


def bottleneck_maps(
    method: str,
    network: Segmenter,
    images: Tensor,
    target: TissueClass,
    pixels: Pixels,
    *,
    dense: DenseNetwork | None,
    weigh: Callable[[Tensor, Tensor], Tensor],
) -> Maps:
    """Weigh the feature maps of a segmenter's bottleneck by what follows from them and their gradient.

    Parameters
    ----------
    method
        Its name.
    network, images, target, pixels, dense
        See `segmenter_gradcam`.
    weigh
        Maps the network's own feature maps and the gradient of the score, `[n, c, h, w]` each, to weights `[n, c]`.

    Returns
    -------
    Maps
        One map an image.

    Raises
    ------
    ValueError
        The mask is not one.
    """
    channels, *sides = (int(side) for side in images.shape[1:])  # numbers, also where the pass is recorded
    size = height, width = sides[0], sides[1]
    with frozen(network), torch.no_grad():
        encoded = network.encode(images.detach())
        decoded = decode(network, encoded, size)
        inside = target_pixels(decoded.logits, target, pixels)
        gradient = decoded.gradient(target, inside / inside.sum((1, 2), keepdim=True).clamp(min=1))
        weights, features, source = weigh(encoded[-1], gradient), encoded[-1], network
        if dense is not None:
            source = cast("Segmenter", dense.network)
            features = source.encode(dense.continued(images.detach()))[-1]
            height, width = dense.continued_px(size)
        values = _weighted(features, weights)
    strides = (dense.stride if dense else network.stride,)
    (frame,) = frames(source, (channels, height, width), (BOTTLENECK,), strides)
    maps = Maps(
        method=method,
        layers=(BOTTLENECK,),
        target=target.key,
        values=values,
        output=decoded.logits.detach(),
        frame=frame,
        signed=network.activated,
    )
    return dense.cut(maps, size) if dense else maps


def gradcam(network: nn.Module, images: Tensor, layer: str, score: Score) -> Maps:
    """Explain any network by one of its layers.

    Where the map lies on the image is measured by running the network once more for each new size of images, see
    `frames`; where it cannot be measured, the map is taken to span the image exactly.

    Parameters
    ----------
    network
        Any module that treats the images of a batch apart when it is in eval mode.
    images
        What it takes, `[n, c, h, w]`.
    layer
        The layer's name as in `named_modules()`; its output must be `[n, c, h', w']`.
    score
        What to explain.

    Returns
    -------
    Maps
        One map an image.

    Raises
    ------
    ModelError
        There is no such layer, it runs twice or not at all, it gives no feature maps, or the score does not depend on
        it or is not one number an image.
    """
    with frozen(network), leaf_at(network, layer) as leaves:
        output = network(images.detach())
        total, leaf = score.of_images(output, len(images)).sum(), seen(leaves, layer)
        gradient = torch.autograd.grad(total, leaf, allow_unused=True)[0] if total.requires_grad else None
    if gradient is None:
        raise ModelError(f"layer {layer!r}", f"score {score.name!r} does not depend on it", "Name an earlier layer")
    values = _weighted(leaf.detach(), gradient.mean((2, 3)))
    output = output.detach() if isinstance(output, torch.Tensor) else output
    (frame,) = frames(network, (images.shape[1], images.shape[2], images.shape[3]), (layer,))
    return Maps(method=METHOD.name, layers=(layer,), target=score.name, values=values, output=output, frame=frame)


def _weighted(features: Tensor, weights: Tensor) -> Tensor:
    """Add up feature maps `[n, c, h, w]` with weights `[n, c]`; returns `[n, h, w]`."""
    rows = features.movedim(1, 3).flatten(1, 2)
    return (rows @ weights[:, :, None]).view(-1, *features.shape[2:])
