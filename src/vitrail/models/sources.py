"""Where encoders come from: timm's own list, a repository of a hub, or a folder that timm can read.

A hub's repository and such a folder hold a `config.json` that names timm's network, the arguments that it is built
with, and what its images were standardised by. Names and arguments go into `model.json`, so that a trained model is
built again without hub or folder.
"""

from __future__ import annotations

import json
import socket
import urllib.request
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

from vitrail.core.files import read_regular
from vitrail.errors import ModelError
from vitrail.models.spec import ARGUMENTS, Arguments
from vitrail.settings.load import FOLDER, HUB

CONFIG = "config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin", "model.pth", "pytorch_model.pth")
_MOST_BYTES = 1 << 20

_CARDS: dict[str, dict[str, Any]] = {
    "bioptimus/h-optimus-0": {"init_values": 1e-5},
    "bioptimus/h-optimus-1": {"init_values": 1e-5},
    "mahmoodlab/uni": {"init_values": 1e-5},
    "mahmoodlab/uni2-h": {
        "img_size": 224, "patch_size": 14, "depth": 24, "num_heads": 24, "init_values": 1e-5, "embed_dim": 1536,
        "mlp_ratio": 5.33334, "no_embed_class": True, "mlp_layer": "SwiGLUPacked", "act_layer": "SiLU", "reg_tokens": 8,
    },
    "paige-ai/virchow": {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"},
    "paige-ai/virchow2": {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"},
}  # fmt: skip
"""Arguments that model cards tell users to give, because the repository's `config.json` leaves them out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An encoder, as it can be built and its weights be had.

    Attributes
    ----------
    name
        `encoder.name`.
    network
        timm's name of the network, with a tag where timm's weights have one.
    arguments
        What it is built with, beside timm's defaults.
    config
        Its `pretrained_cfg`: what its images were standardised by, its licence, its weights.
    repository
        On a hub; empty elsewhere.
    folder
        Where it lies; None elsewhere.
    """

    name: str
    network: str
    arguments: Arguments = ()
    config: dict[str, Any] = field(default_factory=dict)
    repository: str = ""
    folder: Path | None = None

    @property
    def own(self) -> bool:
        """Whether it is from a hub or a folder, and not of timm's list."""
        return bool(self.repository) or self.folder is not None

    @property
    def colours(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation that its images were standardised by, of red, green and blue from 0 to 1.

        Raises
        ------
        ModelError
            Its configuration does not say.
        """
        mean, std = self.config.get("mean"), self.config.get("std")
        if not mean or not std or len(mean) != 3 or len(std) != 3:
            problem = "its configuration does not say by which mean and std images are standardised"
            raise ModelError(f"encoder {self.name!r}", problem, f"Write mean and std into its {CONFIG}")
        return [float(each) for each in mean], [float(each) for each in std]


def find_source(name: str) -> Source:
    """Find out what `encoder.name` names; of a hub only a small file is read, and none that is in its cache already.

    Parameters
    ----------
    name
        A name of timm's, such as `efficientnet_b0` or `efficientnet_b0.ra_in1k`; `hf-hub:owner/name`; or `local-dir:`
        and the path of a folder.

    Returns
    -------
    Source
        What it is built from.

    Raises
    ------
    ModelError
        There is no such network, folder or repository, the latter is out of reach, or wants its terms to be accepted,
        or its configuration is none that can be used.
    """
    if name.replace("hf_hub:", HUB).startswith(HUB):
        repository = name.partition(":")[2]
        config = _read_config(name, _hub_file(name, repository, CONFIG))
        return _configured(name, config, repository=repository)
    if name.startswith(FOLDER):
        folder = Path(name.removeprefix(FOLDER)).expanduser()
        config = _read_config(name, folder / CONFIG)
        return _configured(name, config, folder=folder)
    check_name(name)
    known: Any = timm.get_pretrained_cfg(name)
    return Source(name=name, network=name, config=known.to_dict() if known else {})


def weights_file(source: Source) -> Path | None:
    """Return the file of an encoder's pretrained weights, where it is on this machine already.

    Parameters
    ----------
    source
        The encoder.

    Returns
    -------
    Path | None
        In its folder, or in the hub's cache; None where it would have to be downloaded.

    Raises
    ------
    ModelError
        Its folder has none.
    """
    if source.folder:
        found = [source.folder / name for name in _WEIGHTS if (source.folder / name).is_file()]
        if not found:
            problem = "holds no weights of the encoder"
            cure = f'Put {_WEIGHTS[0]} there, or set encoder.weights to a file or to "random"'
            raise ModelError(source.folder, problem, cure)
        return found[0]
    repository, _, revision = (source.repository or str(source.config.get("hf_hub_id") or "")).partition("@")
    if not repository:
        return None
    for name in _WEIGHTS[:3:2] if source.own else _WEIGHTS[:1]:
        cached = try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
    return None


def check_name(name: str) -> None:
    """Make sure that timm knows a network, and the set of its weights that a tag behind a dot names.

    Parameters
    ----------
    name
        Such as `efficientnet_b0` or `efficientnet_b0.ra_in1k`.

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


def online() -> bool:
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


_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


def unreachable(name: str, repository: str, error: BaseException | None = None) -> ModelError:
    """Return the error of a hub's repository that cannot be read.

    Parameters
    ----------
    name
        `encoder.name`.
    repository
        On the hub.
    error
        What its client said; None where the machine is offline.

    Returns
    -------
    ModelError
        What is wrong, and what to do.
    """
    where, page = f"encoder {name!r}", f"{constants.ENDPOINT}/{repository.partition('@')[0]}"
    if isinstance(error, GatedRepoError):
        cure = f"Accept its terms at {page}, make a token there, and give it by: hf auth login, or HF_TOKEN=..."
        return ModelError(where, "its owner wants terms to be accepted before it is downloaded", cure)
    if isinstance(error, RepositoryNotFoundError):
        cure = f"Look it up at {page}; a private one needs a token: hf auth login, or HF_TOKEN=..."
        return ModelError(where, "the hub has no such repository, or keeps it private", cure)
    reason = "this machine is offline" if error is None else f"{type(error).__name__}: {error}"
    cure = f"Run once with a network connection, or copy its {CONFIG} and weights into a folder: {FOLDER}PATH"
    return ModelError(where, f"it cannot be downloaded ({reason})", cure)


def _hub_file(name: str, repository: str, file: str) -> Path:
    """Return a small file of a hub's repository, from the cache or downloaded."""
    where, _, revision = repository.partition("@")
    owner, _, own = where.partition("/")
    if not owner or not own or "/" in own:
        raise ModelError(f"encoder {name!r}", "names no repository of a hub", f"Write {HUB}owner/name")
    cached = try_to_load_from_cache(where, file, revision=revision or None)
    if isinstance(cached, str):
        return Path(cached)
    if not online():
        raise unreachable(name, repository)
    try:
        return Path(hf_hub_download(where, file, revision=revision or None))
    except EntryNotFoundError:
        raise ModelError(f"encoder {name!r}", f"its repository has no {file}", "Name one that timm can read") from None
    except Exception as error:  # the hub's errors come from whichever HTTP library it was built with
        raise unreachable(name, repository, error) from error


def _read_config(name: str, path: Path) -> dict[str, Any]:
    content = read_regular(path, ModelError, f"Give a folder with timm's {CONFIG} and weights", _MOST_BYTES)
    try:
        config = json.loads(content)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ModelError(f"encoder {name!r}", f"its {CONFIG} is not a JSON object", "Give timm's own file")
    return config


def _configured(name: str, config: dict[str, Any], repository: str = "", folder: Path | None = None) -> Source:
    """Make a source of what timm's `config.json` says."""
    network = config.get("architecture")
    if not isinstance(network, str) or not timm.is_model(network):
        problem = f"its {CONFIG} names no network of timm ({str(network)[:80]!r})"
        cure = f"Save the weights under timm's names, with a {CONFIG} of timm's, and give that folder: {FOLDER}PATH"
        raise ModelError(f"encoder {name!r}", problem, cure)
    given = config.get("model_args") or {}
    given = given if isinstance(given, dict) else {}
    arguments = dict(given) | _CARDS.get(repository.partition("@")[0].lower(), {})
    for key in ("num_classes", "global_pool", "in_chans", "dynamic_img_size", "dynamic_img_pad"):
        arguments.pop(key, None)  # of what follows the encoder, or set by whoever builds it
    strange = sorted(set(arguments) - ARGUMENTS)
    if strange:
        problem = f"its {CONFIG} asks for {strange[0]!r}, which is not among what encoders are built with"
        raise ModelError(f"encoder {name!r}", problem, "Take another encoder")
    own = config.get("pretrained_cfg") or config
    pairs = tuple(sorted((key, tuple(each) if isinstance(each, list) else each) for key, each in arguments.items()))
    return Source(name=name, network=network, arguments=pairs, config=dict(own), repository=repository, folder=folder)
