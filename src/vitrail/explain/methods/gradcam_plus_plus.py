"""Grad-CAM++: gradients weighted place by place, so that several nuclei count as much as a single large one.

Source: Chattopadhyay et al. 2018, doi:10.1109/WACV.2018.00097, equations 10 and 19. The score goes through an
exponential there, whose derivatives are powers of the first: of a feature map `A` with gradient `g`, the weight is the
sum over its cells of `max(g, 0) / (2 + g S)`, where `S` is the sum of `A`.

So it only knows what speaks for a score. Maps are signed here: that of the score minus that of its negative, which
gives `g / (2 + |g| S)`. And they are the mean over cells, twice, where the source has the sum: where `g S` is small the
map then is Grad-CAM's, and maps of tiles of another size are in the same unit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from vitrail.classes import TissueClass
from vitrail.explain.fused import Reader
from vitrail.explain.layers import final_stride
from vitrail.explain.methods.base import ExplanationMethod
from vitrail.explain.methods.gradcam import bottleneck_maps
from vitrail.explain.receptive_field import FEATURES
from vitrail.models.classifier import Classifier

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vitrail.explain.dense import DenseNetwork
    from vitrail.explain.methods.base import Head
    from vitrail.explain.saliency import Maps
    from vitrail.explain.target import Pixels
    from vitrail.models.segmenter import Segmenter


class GradCamPlusPlus(ExplanationMethod):
    """Grad-CAM++ of a classifier's final feature maps, and of a segmenter's bottleneck."""

    name, title, colour = "gradcam_plus_plus", "Grad-CAM++", (178, 24, 43)
    describes = "is Grad-CAM that counts a feature less where the tile has much of it"
    on_slides = True

    def reader(self, network: nn.Module, head: Head = None) -> Reader | None:  # noqa: ARG002 - it has none
        """Return what weighs a classifier's final feature maps.

        Behind them come their means and two linear layers, so the gradient is the same in all cells, and in closed
        form; see `classifier_gradcam`.

        Parameters
        ----------
        network
            The network.
        head
            Grad-CAM++ has none.

        Returns
        -------
        Reader | None
            None of a segmenter, whose gradient goes through its decoder.
        """
        if not isinstance(network, Classifier):
            return None

        def read(_layer: str, features: Tensor, own: Tensor) -> Tensor:
            with torch.autocast(features.device.type, enabled=False):  # as the network's own head
                own = own.float()
                slopes = network.slope(network.dense(own.mean((2, 3)))) * network.logit.weight
                gradient = slopes @ network.dense.weight / own[0, 0].numel()
                weights = channel_weights(own, gradient[:, :, None, None])
                return torch.einsum("nchw,nc->nhw", features.float(), weights)

        unit = "logit of tumor in a cell of the feature map, the less the more of a feature the tile has"
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
        """Explain images; see `ExplanationMethod.explain`. A segmenter's score is that of `segmenter_gradcam`."""
        if isinstance(network, Classifier):
            return super().explain(network, images, target, head=head, mpp=mpp, dense=dense)
        segmenter = cast("Segmenter", network)  # `explains` has said so
        return bottleneck_maps(self.name, segmenter, images, target, pixels, dense=dense, weigh=channel_weights)


METHOD = GradCamPlusPlus()


def channel_weights(features: Tensor, gradient: Tensor) -> Tensor:
    """Return the weight that Grad-CAM++ gives each feature map.

    Parameters
    ----------
    features
        `[n, c, h, w]`.
    gradient
        Of each image's score, `[n, c, h, w]`; or `[n, c, 1, 1]`, where it is the same in all cells.

    Returns
    -------
    Tensor
        `[n, c]`.
    """
    total = features.sum((2, 3), keepdim=True)
    # never below 0 where features are rectified; where they are not, the source's weight would have a pole
    return 2 * (gradient / (2 + gradient.abs() * total).clamp(min=1)).mean((2, 3))
