"""Encoders: timm's networks without their classification layer, convolutional ones and vision transformers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.models._efficientnet_blocks import InvertedResidual
from timm.models.efficientnet import EfficientNet
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitrail.errors import ModelError
from vitrail.models.depthwise import replace_depthwise
from vitrail.models.sources import check_name
from vitrail.settings.load import EMBEDDED_ENCODER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from vitrail.models.spec import Arguments

_TRANSFORMERS = (VisionTransformer, Eva)
"""The plain ones: all their blocks see a token for each patch; foundation models of pathology are of these."""


class TokenEncoder(nn.Module):
    """A vision transformer that gives feature maps: the tokens of its patches, laid out as the patches lie.

    So means over places, Grad-CAM and HR-CAM are what they are for convolutional networks. Class and register tokens
    are dropped from the maps: they belong to no place, and what a network read from them no map could show. What they
    have gathered is in the patches' tokens, too, by attention.

    Images may have any sides that divide by the patch: embeddings of positions are interpolated.

    Parameters
    ----------
    model
        timm's network, without its classification layer.

    Attributes
    ----------
    model
        It.
    maps
        Modules that the maps of four depths pass through unchanged, so that they can be looked at: behind each quarter
        of the blocks, the last one behind the final normalisation.
    feature_info
        What timm says of the stages of a convolutional network, of these.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.stride, self.num_features = patch_px(model), int(model.num_features)
        self._prefix = int(model.num_prefix_tokens)
        depth = len(model.blocks)
        places = sorted({max(round(depth * quarter / 4), 1) - 1 for quarter in (1, 2, 3)} - {depth - 1})
        self.maps = nn.ModuleList(nn.Identity() for _ in range(len(places) + 1))
        self.feature_info = [
            {"module": f"maps.{number}", "num_chs": self.num_features, "reduction": self.stride}
            for number in range(len(self.maps))
        ]
        for look, place in zip(self.maps, places, strict=False):
            model.blocks[place].register_forward_hook(partial(self._pass_through, look))
        self._cells: tuple[int, int] = (1, 1)

    @property
    def pretrained_cfg(self) -> Any:
        """What timm knows of the network's weights."""
        return self.model.pretrained_cfg

    def forward_features(self, x: Tensor) -> Tensor:
        """Map standardised images `[n, 3, h, w]` to the last token map, `[n, c, h / patch, w / patch]`."""
        self._cells = x.shape[2] // self.stride, x.shape[3] // self.stride
        last: Tensor = self.maps[-1](self._laid_out(self.model.forward_features(x)))
        return last

    def forward(self, x: Tensor) -> Tensor:
        """Do what `forward_features` does."""
        return self.forward_features(x)

    def _laid_out(self, tokens: Tensor) -> Tensor:
        patches = tokens[:, self._prefix :].transpose(1, 2)
        return patches.reshape(patches.shape[0], patches.shape[1], *self._cells)

    def _pass_through(self, look: nn.Module, _block: nn.Module, _inputs: Any, tokens: Tensor) -> Tensor:
        """Let a block's tokens pass through a module as a map, and go on as they were."""
        patches = look(self._laid_out(tokens)).flatten(2).transpose(1, 2)
        return torch.cat([tokens[:, : self._prefix], patches], 1)


def patch_px(model: Any) -> int:
    """Return the side of a vision transformer's patches, in pixels."""
    return int(model.feature_info[-1]["reduction"])


def create_encoder(name: str, arguments: Arguments = ()) -> nn.Module:
    """Build an untrained timm network without its classification layer.

    Parameters
    ----------
    name
        timm's name of the network.
    arguments
        What it is built with, see `ModelSpec.encoder_arguments`.

    Returns
    -------
    nn.Module
        Its `forward_features` maps standardised images `[n, 3, h, w]` to the final feature map `[n, c, h / s, w / s]`;
        for EfficientNet that is the one behind the last 1x1 convolution, for a vision transformer a `TokenEncoder`'s.

    Raises
    ------
    ModelError
        timm knows no network of this name, or cannot build it with these arguments.
    """
    encoder = build_timm(name, arguments)
    if isinstance(encoder, _TRANSFORMERS):
        return TokenEncoder(encoder)
    replace_depthwise(encoder)
    return encoder


def build_timm(name: str, arguments: Arguments = (), **weights: Any) -> nn.Module:
    """Build timm's own network without its classification layer; a vision transformer for images of any size.

    Parameters
    ----------
    name, arguments
        As of `create_encoder`.
    **weights
        For `timm.create_model`, as `pretrained=True`.

    Returns
    -------
    nn.Module
        With weights of timm's names.

    Raises
    ------
    ModelError
        timm knows no network of this name, or cannot build it with these arguments.
    """
    check_name(name)
    given: dict[str, Any] = {key: _layer(value) if key.endswith("_layer") else value for key, value in arguments}
    if is_transformer(name):
        given["dynamic_img_size"] = True
    weights = weights or {"pretrained": False}
    if weights.get("pretrained"):  # its errors are those of files and networks
        loaded: nn.Module = timm.create_model(name, num_classes=0, **given, **weights)
        return loaded
    try:
        network: nn.Module = timm.create_model(name, num_classes=0, **given, **weights)
    except (TypeError, ValueError, AssertionError, RuntimeError, AttributeError) as error:
        if not arguments:
            raise
        problem = f"cannot be built as its configuration says ({' '.join(str(error).split())[:200]})"
        raise ModelError(f"encoder {name!r}", problem, "Take another encoder, or another release of timm") from None
    return network


@cache
def is_transformer(name: str) -> bool:
    """Tell whether a name of timm's is that of a vision transformer whose tokens can be laid out as a map."""
    with torch.device("meta"):
        return isinstance(timm.create_model(name, pretrained=False, num_classes=0), _TRANSFORMERS)


def _layer(name: Any) -> Any:
    """Return the class of a layer that a configuration names; names that timm itself knows stay as they are."""
    for module in (timm.layers, nn):
        kind = getattr(module, str(name), None)
        if isinstance(kind, type) and issubclass(kind, nn.Module):
            return kind
    return name


@cache
def feature_channels(name: str, arguments: Arguments = ()) -> int:
    """Return the number of channels of an encoder's final feature map, without computing one.

    Parameters
    ----------
    name, arguments
        As of `create_encoder`.

    Returns
    -------
    int
        Of EfficientNet-B0, 1280.

    Raises
    ------
    ModelError
        timm knows no network of this name, or it gives no feature maps `[n, c, h, w]` for images of any size.
    """
    with torch.device("meta"):
        encoder: Any = create_encoder(name, arguments).eval()
        if isinstance(encoder, TokenEncoder):
            return encoder.num_features
        config = encoder.pretrained_cfg
        shape = encoder.forward_features(torch.empty(1, *config["input_size"])).shape
    if config.get("fixed_input_size") or len(shape) != 4 or shape[1] != encoder.num_features:
        cure = f"Take a CNN such as {EMBEDDED_ENCODER}, or a plain vision transformer"
        raise ModelError(f"encoder {name!r}", "gives no feature maps of images of any size", cure)
    return int(shape[1])


@cache
def token_stride(name: str, arguments: Arguments = ()) -> int | None:
    """Return the side of a vision transformer's patches in pixels; None of other encoders."""
    if not is_transformer(name):
        return None
    with torch.device("meta"):
        return patch_px(build_timm(name, arguments))


def check_side(name: str, arguments: Arguments, side_px: int) -> None:
    """Make sure that tiles divide into an encoder's patches.

    Parameters
    ----------
    name, arguments
        As of `create_encoder`.
    side_px
        Side of a tile.

    Raises
    ------
    ModelError
        They do not; sides that do are named.
    """
    patch = token_stride(name, arguments)
    if patch and side_px % patch:
        below = side_px // patch * patch
        sides = [side for side in (below, below + patch) if side >= 32]
        cure = f"Set tiles.side_px to {' or '.join(map(str, sides))}"
        raise ModelError(f"encoder {name!r}", f"tiles of {side_px} pixels do not divide into patches of {patch}", cure)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """An activation behind an expanding convolution: its layer's name and its number of channels."""

    name: str
    channels: int


@cache
def expansions(name: str, arguments: Arguments = ()) -> tuple[Expansion, ...] | None:
    """Find the activations in front of each halving of an EfficientNet, finest first.

    An inverted bottleneck widens its input by a 1x1 convolution before the depthwise one that halves it; between them
    lies the widest activation of that stride.

    Parameters
    ----------
    name, arguments
        As of `create_encoder`.

    Returns
    -------
    tuple[Expansion, ...] | None
        Four of them; None for other networks, and for those that widen and halve in one convolution.

    Raises
    ------
    ModelError
        timm knows no network of this name.
    """
    with torch.device("meta"):
        encoder: Any = create_encoder(name, arguments)
    if not isinstance(encoder, EfficientNet):
        return None
    layers: list[Expansion] = []
    for layer, block in _halving_blocks(encoder):
        if type(block) is not InvertedResidual:
            return None
        layers.append(Expansion(name=layer, channels=block.conv_pw.out_channels))
    return tuple(layers) if len(layers) == 4 else None  # behind the stem, which halves the image itself


def _halving_blocks(encoder: Any) -> Iterator[tuple[str, Any]]:
    """Yield the blocks of an EfficientNet that halve the map, each with the name of its first normalisation layer."""
    for i, stage in enumerate(encoder.blocks):
        for j, block in enumerate(stage):
            if any(max(module.stride) > 1 for module in block.modules() if isinstance(module, nn.Conv2d)):
                yield f"blocks.{i}.{j}.bn1", block
