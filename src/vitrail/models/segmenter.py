"""The segmenter: a U-Net on the same encoder, its decoder from segmentation_models_pytorch.

Two layouts take the encoder's feature maps at different places. `paper` is that of the library which the paper names
(Iakubovskii, Segmentation Models, for Keras) for EfficientNets: skip connections from the activations behind the
expanding convolution of the first block of each stage that halves the map (of EfficientNet-B0 96, 144, 240 and 672
channels), and as bottleneck the encoder's final activation (1280). `timm` takes what the stages give (16, 24, 40, 112
and 320 channels), which are linear projections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import nn

from vitrail.errors import ModelError
from vitrail.models.depthwise import replace_depthwise
from vitrail.models.encoder import create_encoder, expansions, feature_channels
from vitrail.models.fused_decoder import DoublingBlock

if TYPE_CHECKING:
    from torch import Tensor

    from vitrail.models.spec import SegmenterSpec


class Segmenter(nn.Module):
    """Gives every pixel a logit per class.

    `encode` and `decode` are apart because Grad-CAM of the bottleneck takes its gradient through the decoder alone.

    Parameters
    ----------
    spec
        Encoder, layout, decoder channels and classes; the weights start random.

    Attributes
    ----------
    activated
        Whether the bottleneck is known to lie behind an activation, so that a channel's 0 means that what it looks for
        is absent: in the layout `paper`. Of what the stages of any other encoder give nothing is assumed.

    Raises
    ------
    ModelError
        The encoder is unknown, does not give five feature maps that halve step by step, or has no expanding
        convolutions for the layout `paper`.
    """

    def __init__(self, spec: SegmenterSpec) -> None:
        super().__init__()
        feature_channels(spec.encoder)  # for its errors, which are then the classifier's
        self.activated = spec.layout == "paper"
        unet: Any = _Unet(ExpandedEncoder(spec.encoder), spec) if self.activated else _staged_unet(spec)
        replace_depthwise(unet.encoder)
        unet.decoder.blocks = nn.ModuleList(DoublingBlock(block) for block in unet.decoder.blocks)
        self.unet = unet

    @property
    def backbone(self) -> nn.Module:
        """The part that start weights are loaded into."""
        return cast("nn.Module", self.unet.encoder.model)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Map standardised images `[n, 3, h, w]` to feature maps, finest first; the last is the bottleneck.

        Sides that do not divide by 32 are padded at the right and the bottom by repeating the border.
        """
        bottom, right = -x.shape[2] % 32, -x.shape[3] % 32
        if bottom or right:
            x = nn.functional.pad(x, (0, right, 0, bottom), mode="replicate")
        return cast("list[Tensor]", self.unet.encoder(x))

    def decode(self, features: list[Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Map the maps of `encode` to logits `[n, classes, h, w]`, cropped to `size` (height, width) if given."""
        decoded: Tensor = self.unet.decoder(features)
        with torch.autocast(decoded.device.type, enabled=False):  # bfloat16 has eight bits, and classes would tie
            logits: Tensor = self.unet.segmentation_head(decoded.float())
        return logits if size is None else logits[..., : size[0], : size[1]]

    def forward(self, x: Tensor) -> Tensor:
        """Map standardised images `[n, 3, h, w]` to logits `[n, classes, h, w]`; the softmax are the probabilities."""
        return self.decode(self.encode(x), (x.shape[2], x.shape[3]))


class ExpandedEncoder(nn.Module):
    """An EfficientNet that gives its widest activations at each stride, as the paper's library takes them.

    Parameters
    ----------
    name
        timm's name of the network.

    Raises
    ------
    ModelError
        It has no expanding convolution in front of each halving.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        layers = expansions(name)
        if layers is None:
            problem, cure = "has no activation to take before each halving", 'Set segmenter.layout = "timm"'
            raise ModelError(f"encoder {name!r}, layout 'paper'", problem, cure)
        self._names = tuple(layer.name for layer in layers)
        self.model = create_encoder(name)
        self.out_channels = [3, *(layer.channels for layer in layers), feature_channels(name)]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images `[n, 3, h, w]` to themselves and five feature maps, finest first."""
        skips: list[Tensor] = []

        def collect(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            skips.append(output)

        handles = [self.model.get_submodule(name).register_forward_hook(collect) for name in self._names]
        try:
            top: Tensor = cast("Any", self.model).forward_features(x)
        finally:
            for handle in handles:
                handle.remove()
        return [x, *skips, top]


class _Unet(nn.Module):
    """Encoder, decoder and head under the names that segmentation_models_pytorch gives them."""

    def __init__(self, encoder: ExpandedEncoder, spec: SegmenterSpec) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = UnetDecoder(
            encoder_channels=encoder.out_channels, decoder_channels=spec.decoder, n_blocks=len(spec.decoder)
        )
        self.segmentation_head = _head(spec)
        initialize_decoder(self.decoder)


def _staged_unet(spec: SegmenterSpec) -> Any:
    """Build a U-Net on what the encoder's stages give."""
    try:
        unet = smp.Unet(
            f"tu-{spec.encoder}", encoder_weights=None, decoder_channels=spec.decoder, classes=len(spec.classes)
        )
    except (ValueError, RuntimeError, AttributeError, IndexError, AssertionError) as error:
        problem = f"does not fit a U-Net ({error})"
        cure = "Take an encoder whose feature maps halve five times"
        raise ModelError(f"encoder {spec.encoder!r}", problem, cure) from None
    if spec.head_px == 1:  # the library's own is 3x3
        unet.segmentation_head = _head(spec)
    return unet


def _head(spec: SegmenterSpec) -> SegmentationHead:
    head = SegmentationHead(spec.decoder[-1], len(spec.classes), kernel_size=spec.head_px)
    initialize_head(head)
    return head
