"""The segmenter: a U-Net on the same encoder, through segmentation_models_pytorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import segmentation_models_pytorch as smp
import torch
from torch import nn

from vitrail.errors import ModelError
from vitrail.models.depthwise import quicken
from vitrail.models.doubling import DoublingBlock
from vitrail.models.encoder import feature_channels

if TYPE_CHECKING:
    from torch import Tensor

    from vitrail.models.spec import SegmenterSpec

_STRIDE = 32


class Segmenter(nn.Module):
    """Gives every pixel a logit per class.

    `encode` and `decode` are apart because Grad-CAM of the bottleneck takes its gradient through the decoder alone.

    Parameters
    ----------
    spec
        Encoder, decoder channels and classes; the weights start random.

    Raises
    ------
    ModelError
        The encoder is unknown, or does not give five feature maps that halve step by step.
    """

    def __init__(self, spec: SegmenterSpec) -> None:
        super().__init__()
        feature_channels(spec.encoder)  # for its errors, which are then the classifier's
        try:
            self.unet = smp.Unet(
                f"tu-{spec.encoder}", encoder_weights=None, decoder_channels=spec.decoder, classes=len(spec.classes)
            )
        except (ValueError, RuntimeError, AttributeError, IndexError, AssertionError) as error:
            where, problem = f"encoder {spec.encoder!r}", f"does not fit a U-Net ({error})"
            raise ModelError(where, problem, "Take an encoder whose feature maps halve five times") from None
        quicken(self.unet.encoder)
        self.unet.decoder.blocks = nn.ModuleList(DoublingBlock(block) for block in self.unet.decoder.blocks)

    @property
    def backbone(self) -> nn.Module:
        """The part that start weights are loaded into."""
        return cast("nn.Module", self.unet.encoder.model)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Map standardised images `[n, 3, h, w]` to feature maps, finest first; the last is the bottleneck.

        Sides that do not divide by 32 are padded at the right and the bottom by repeating the border.
        """
        return cast("list[Tensor]", self.unet.encoder(_pad(x)))

    def decode(self, features: list[Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Map the maps of `encode` to logits `[n, classes, h, w]`, cropped to `size` (height, width) if given."""
        decoded: Tensor = self.unet.decoder(features)
        with torch.autocast(decoded.device.type, enabled=False):  # bfloat16 has eight bits, and classes would tie
            logits: Tensor = self.unet.segmentation_head(decoded.float())
        return logits if size is None else logits[..., : size[0], : size[1]]

    def forward(self, x: Tensor) -> Tensor:
        """Map standardised images `[n, 3, h, w]` to logits `[n, classes, h, w]`; the softmax are the probabilities."""
        return self.decode(self.encode(x), (x.shape[2], x.shape[3]))


def _pad(x: Tensor) -> Tensor:
    bottom, right = -x.shape[2] % _STRIDE, -x.shape[3] % _STRIDE
    return nn.functional.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x
