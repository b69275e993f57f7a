"""Model folders: `weights.safetensors` and, written last, `model.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from vitrail.core.digest import combined_digest, file_digest
from vitrail.core.files import regular_file, replacing, write_text
from vitrail.errors import ModelError
from vitrail.models.classifier import Classifier
from vitrail.models.encoder import first_line
from vitrail.models.segmenter import Segmenter
from vitrail.models.spec import ClassifierSpec, SegmenterSpec, read_spec

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from vitrail.models.spec import ModelSpec

WEIGHTS, JSON = "weights.safetensors", "model.json"
_FINGERPRINT = "fingerprint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A network and what it needs to be used: in eval mode and on the CPU when it is read."""

    spec: ModelSpec
    module: Classifier | Segmenter


def build(spec: ModelSpec) -> Classifier | Segmenter:
    """Build the untrained network of a specification; its weights come from torch's global generator.

    Raises
    ------
    ModelError
        The encoder is unknown or does not fit.
    """
    match spec:
        case ClassifierSpec():
            return Classifier(spec)
        case SegmenterSpec():
            return Segmenter(spec)
    raise TypeError(f"neither ClassifierSpec nor SegmenterSpec: {type(spec).__name__}")


def check_fit(spec: ModelSpec, batch: int) -> None:
    """Make sure that a network can be trained on `batch` tiles at once, by a try on the CPU with an untrained one.

    Two tiles stand for all larger batches, and 1024 pixels for all larger tiles: maps that fit them fit those, and
    memory is bounded. Torch's generators are put back.

    Raises
    ------
    ModelError
        The encoder is unknown, or its feature maps get too small for it on tiles of this size.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            side_px = min(spec.side_px, _TRIED_PX)
            build(spec).train()(torch.zeros(min(batch, 2), 3, side_px, side_px))
    except (RuntimeError, ValueError, IndexError) as error:
        problem = f"cannot be trained on tiles of {spec.side_px} pixels, {batch} a batch ({first_line(error)})"
        cure = f"Raise tiles.side_px or {spec.task}.batch, or take another encoder"
        raise ModelError(f"encoder {spec.encoder!r}, {spec.task}", problem, cure) from None


_TRIED_PX = 1024


def save_model(folder: Path, module: Classifier | Segmenter, spec: ModelSpec, fingerprint: str = "") -> None:
    """Write a model folder; a folder with `model.json` is whole.

    A fingerprint of what the weights follow from goes into their file, where `saved_fingerprint` finds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON).unlink(missing_ok=True)
    # one entry alone: safetensors writes several in an order that varies
    save_tensors(folder / WEIGHTS, module.state_dict(), {_FINGERPRINT: fingerprint} if fingerprint else None)
    write_text(folder / JSON, spec.model_dump_json(indent=2) + "\n", flush=True)


def saved_fingerprint(folder: Path) -> str | None:
    """Return the fingerprint that a whole model folder was saved with; None without one, or without a model."""
    if not (folder / JSON).is_file():
        return None
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            return (file.metadata() or {}).get(_FINGERPRINT)
    except (FileNotFoundError, SafetensorError):
        return None


def model_digest(folder: Path) -> str:
    """Return the SHA-256 of the SHA-256 digests of `model.json` and `weights.safetensors`."""
    return combined_digest(file_digest(folder / name) for name in (JSON, WEIGHTS))


def load_model(folder: Path) -> Model:
    """Read a model folder.

    Raises
    ------
    ModelError
        `model.json` is missing or not valid, or the weights are missing, unreadable or of another network.
    """
    spec = read_spec(folder / JSON)
    module = build(spec)
    cure = "Copy the whole model folder, or train it again"
    try:
        module.load_state_dict(load_file(regular_file(folder / WEIGHTS, ModelError, cure)))
    except (SafetensorError, RuntimeError, OSError) as error:
        problem = f"does not fit {JSON} ({' '.join(str(error).split())[:200]})"
        raise ModelError(folder / WEIGHTS, problem, cure) from None
    return Model(spec=spec, module=module.eval())


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors to a `.safetensors` file that is either the old one or the whole new one, even after a kill."""
    content = save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, metadata)
    with replacing(path, flush=True) as temporary:
        temporary.write_bytes(content)  # save_file would make a file that only its owner can read
