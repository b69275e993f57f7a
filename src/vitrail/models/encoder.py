"""Encoders: timm's convolutional networks without their classification layer."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.models._efficientnet_blocks import InvertedResidual
from timm.models.efficientnet import EfficientNet
from torch import nn

from vitrail.errors import ModelError
from vitrail.models.depthwise import replace_depthwise
from vitrail.settings.load import EMBEDDED_ENCODER

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_name(name: str) -> None:
    """Make sure that timm knows a network, and the set of its weights that a tag behind a dot names.

    Parameters
    ----------
    name
        `encoder.name`, such as `efficientnet_b0` or `efficientnet_b0.ra_in1k`.

    Raises
    ------
    ModelError
        It does not; similar names are given.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        every = "python -c 'import timm; print(timm.list_models())' lists them"
        cure = f"Did you mean {', '.join(near)}?" if near else every
        raise ModelError(f"encoder {name!r}", "timm has no network of this name", cure)
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:
        names = timm.list_pretrained(f"{architecture}.*")
        cure = f"Name one of {', '.join(names)}" if names else f"Name {architecture}"
        raise ModelError(f"encoder {name!r}", f"timm has no weights {tag!r} of this network", cure) from None


def create_encoder(name: str) -> nn.Module:
    """Build an untrained timm network without its classification layer.

    Parameters
    ----------
    name
        `encoder.name`.

    Returns
    -------
    nn.Module
        Its `forward_features` maps standardised images `[n, 3, h, w]` to the final convolutional feature map
        `[n, c, h / s, w / s]`; for EfficientNet that is the one behind the last 1x1 convolution.

    Raises
    ------
    ModelError
        timm knows no network of this name.
    """
    check_name(name)
    encoder: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    replace_depthwise(encoder)
    return encoder


@cache
def feature_channels(name: str) -> int:
    """Return the number of channels of an encoder's final feature map, without computing one.

    Parameters
    ----------
    name
        `encoder.name`.

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
        encoder: Any = create_encoder(name).eval()
        config = encoder.pretrained_cfg
        shape = encoder.forward_features(torch.empty(1, *config["input_size"])).shape
    if config.get("fixed_input_size") or len(shape) != 4 or shape[1] != encoder.num_features:
        raise ModelError(
            f"encoder {name!r}", "gives no convolutional feature maps", f"Take a CNN such as {EMBEDDED_ENCODER}"
        )
    return int(shape[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """An activation behind an expanding convolution: its layer's name and its number of channels."""

    name: str
    channels: int


@cache
def expansions(name: str) -> tuple[Expansion, ...] | None:
    """Find the activations in front of each halving of an EfficientNet, finest first.

    An inverted bottleneck widens its input by a 1x1 convolution before the depthwise one that halves it; between them
    lies the widest activation of that stride.

    Parameters
    ----------
    name
        `encoder.name`.

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
        encoder: Any = create_encoder(name)
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
