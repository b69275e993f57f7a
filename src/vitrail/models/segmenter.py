"""The segmenter: a decoder on the same encoder, by default a U-Net, from segmentation_models_pytorch.

Of a U-Net, two layouts take the encoder's feature maps at different places. `paper` is that of the library which the
paper names (Iakubovskii, Segmentation Models, for Keras) for EfficientNets: skip connections from the activations
behind the expanding convolution of the first block of each stage that halves the map (of EfficientNet-B0 96, 144, 240
and 672 channels), and as bottleneck the encoder's final activation (1280). `timm` takes what the stages give (16, 24,
40, 112 and 320 channels), which are linear projections.

Two further architectures suit encoders whose maps all have one size, such as vision transformers. `linear` is a 1x1
convolution on the last map, enlarged bilinearly: what papers of foundation models test their features by. `upernet`
(Xiao et al. 2018, doi:10.1007/978-3-030-01228-1_26) looks at a pyramid of maps, and at means over large parts of the
image; a vision transformer's is made of its last map alone (Li et al. 2022, doi:10.1007/978-3-031-20077-9_17).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import nn

from vitrail.errors import ModelError
from vitrail.models.depthwise import replace_depthwise
from vitrail.models.encoder import TokenEncoder, check_side, create_encoder, expansions, feature_channels, token_stride
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
    architecture
        What follows the encoder, and the name of the submodule that holds both.
    stages
        The submodule whose stages can be looked at.
    stride
        Pixels that sides of images are padded to a multiple of, and between two cells of the bottleneck.

    Raises
    ------
    ModelError
        The encoder is unknown, does not give the feature maps that the architecture needs, or has no expanding
        convolutions for the layout `paper`; or tiles do not divide into its patches.
    """

    def __init__(self, spec: SegmenterSpec) -> None:
        super().__init__()
        feature_channels(spec.encoder, spec.encoder_arguments)  # for its errors, which are then the classifier's
        check_side(spec.encoder, spec.encoder_arguments, spec.side_px)
        self.patch_px = token_stride(spec.encoder, spec.encoder_arguments)
        self.architecture, self.stages = spec.architecture, f"{spec.architecture}.encoder.model"
        self.stride = self.patch_px or 32
        self.activated = spec.architecture == "unet" and spec.layout == "paper"
        self.add_module(spec.architecture, _body(spec, self.patch_px))

    @property
    def body(self) -> Any:
        """Encoder, decoder and head."""
        return getattr(self, self.architecture)

    @property
    def backbone(self) -> nn.Module:
        """The part that start weights are loaded into."""
        model: nn.Module = self.body.encoder.model
        return model.model if isinstance(model, TokenEncoder) else model

    def encode(self, x: Tensor) -> list[Tensor]:
        """Map standardised images `[n, 3, h, w]` to feature maps, finest first; the last is the bottleneck.

        Sides that do not divide by `stride` are padded at the right and the bottom by repeating the border.
        """
        bottom, right = -x.shape[2] % self.stride, -x.shape[3] % self.stride
        if bottom or right:
            x = nn.functional.pad(x, (0, right, 0, bottom), mode="replicate")
        return cast("list[Tensor]", self.body.encoder(x))

    def decode(self, features: list[Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Map the maps of `encode` to logits `[n, classes, h, w]`, cropped to `size` (height, width) if given."""
        decoded: Tensor = self.body.decoder(features)
        with torch.autocast(decoded.device.type, enabled=False):  # bfloat16 has eight bits, and classes would tie
            logits: Tensor = self.body.segmentation_head(decoded.float())
        return logits if size is None else logits[..., : size[0], : size[1]]

    def forward(self, x: Tensor) -> Tensor:
        """Map standardised images `[n, 3, h, w]` to logits `[n, classes, h, w]`; the softmax are the probabilities."""
        return self.decode(self.encode(x), (x.shape[2], x.shape[3]))


class FinalEncoder(nn.Module):
    """An encoder that gives its final feature map alone.

    Parameters
    ----------
    spec
        Names the encoder.
    """

    def __init__(self, spec: SegmenterSpec) -> None:
        super().__init__()
        self.model = create_encoder(spec.encoder, spec.encoder_arguments)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images `[n, 3, h, w]` to a list of one feature map."""
        return [cast("Any", self.model).forward_features(x)]


class LinearDecoder(nn.Module):
    """Gives the last feature map as it is."""

    def forward(self, features: list[Tensor]) -> Tensor:
        """Take the last of the maps."""
        return features[-1]


class PyramidDecoder(nn.Module):
    """UPerNet's decoder on a pyramid that is made of one feature map (Li et al. 2022): 4, 2, 1 and 1/2 times its size.

    Parameters
    ----------
    channels
        Of the feature map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.levels = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(channels, half, 2, 2), nn.BatchNorm2d(half), nn.GELU(),
                    nn.ConvTranspose2d(half, half // 2, 2, 2),
                ),
                nn.ConvTranspose2d(channels, half, 2, 2),
                nn.Identity(),
                nn.MaxPool2d(1, 2),
            ]
        )  # fmt: skip
        # it passes over the first two of these: the image, and a map of half its size
        self.decoder = UPerNetDecoder([3, half, half // 2, half, channels, channels], 5)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Map the last of the maps, `[n, c, h, w]`, to one of four times its size."""
        last = features[-1]
        decoded: Tensor = self.decoder([last, last, *(level(last) for level in self.levels)])
        return decoded


class _Body(nn.Module):
    """An encoder, a decoder and a head, under the names that segmentation_models_pytorch gives them."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder, self.segmentation_head = encoder, decoder, head


def _body(spec: SegmenterSpec, patch_px: int | None) -> nn.Module:
    """Build encoder, decoder and head of an architecture; `patch_px` is there for vision transformers."""
    classes, channels = len(spec.classes), feature_channels(spec.encoder, spec.encoder_arguments)
    if spec.architecture == "linear":
        return _Body(FinalEncoder(spec), LinearDecoder(), _enlarging_head(channels, classes, patch_px or 32))
    if spec.architecture == "upernet" and patch_px:
        decoder = PyramidDecoder(channels)
        return _Body(FinalEncoder(spec), decoder, _enlarging_head(_width(decoder, channels), classes, patch_px / 4))
    if patch_px:
        problem = "is a vision transformer, whose maps all have one size, and a U-Net needs five that halve"
        cure = 'Set segmenter.architecture = "upernet" or "linear"'
        raise ModelError(f"encoder {spec.encoder!r}", problem, cure)
    if spec.architecture == "upernet":
        body = _staged(smp.UPerNet, spec, {})
        body.segmentation_head = _enlarging_head(body.segmentation_head[0].in_channels, classes, 4)
        replace_depthwise(body.encoder)
        return cast("nn.Module", body)
    unet: Any = _Unet(ExpandedEncoder(spec), spec) if spec.layout == "paper" else _staged_unet(spec)
    replace_depthwise(unet.encoder)
    unet.decoder.blocks = nn.ModuleList(DoublingBlock(block) for block in unet.decoder.blocks)
    return cast("nn.Module", unet)


def _width(decoder: PyramidDecoder, channels: int) -> int:
    """Return the channels that a decoder gives; releases of segmentation_models_pytorch differ in them."""
    with torch.no_grad():
        return int(copy.deepcopy(decoder).eval()([torch.zeros(1, channels, 2, 2)]).shape[1])


def _enlarging_head(channels: int, classes: int, scale: float) -> nn.Sequential:
    """Return a 1x1 convolution and bilinear enlargement, which leaves the corners of the image where they are."""
    head = nn.Sequential(
        nn.Conv2d(channels, classes, 1), nn.Upsample(scale_factor=scale, mode="bilinear", align_corners=False)
    )
    initialize_head(head)
    return head


class ExpandedEncoder(nn.Module):
    """An EfficientNet that gives its widest activations at each stride, as the paper's library takes them.

    Parameters
    ----------
    spec
        Names the encoder.

    Raises
    ------
    ModelError
        It has no expanding convolution in front of each halving.
    """

    one_at_a_time = True
    """Its hooks would give two calls at the same time each other's maps."""

    def __init__(self, spec: SegmenterSpec) -> None:
        super().__init__()
        layers = expansions(spec.encoder, spec.encoder_arguments)
        if layers is None:
            problem, cure = "has no activation to take before each halving", 'Set segmenter.layout = "timm"'
            raise ModelError(f"encoder {spec.encoder!r}, layout 'paper'", problem, cure)
        self._names = tuple(layer.name for layer in layers)
        self.model = create_encoder(spec.encoder, spec.encoder_arguments)
        top = feature_channels(spec.encoder, spec.encoder_arguments)
        self.out_channels = [3, *(layer.channels for layer in layers), top]

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
    unet = _staged(smp.Unet, spec, {"decoder_channels": spec.decoder})
    if spec.head_px == 1:  # the library's own is 3x3
        unet.segmentation_head = _head(spec)
    return unet


def _staged(architecture: Any, spec: SegmenterSpec, options: dict[str, Any]) -> Any:
    """Build a network of segmentation_models_pytorch on what the encoder's stages give."""
    try:
        return architecture(
            f"tu-{spec.encoder}", encoder_weights=None, classes=len(spec.classes), **options,
            **dict(spec.encoder_arguments),
        )  # fmt: skip
    except (ValueError, RuntimeError, AttributeError, IndexError, AssertionError, TypeError) as error:
        problem = f"does not fit a U-Net ({error})" if architecture is smp.Unet else f"does not fit UPerNet ({error})"
        cure = "Take an encoder whose feature maps halve five times"
        raise ModelError(f"encoder {spec.encoder!r}", problem, cure) from None


def _head(spec: SegmenterSpec) -> SegmentationHead:
    head = SegmentationHead(spec.decoder[-1], len(spec.classes), kernel_size=spec.head_px)
    initialize_head(head)
    return head
