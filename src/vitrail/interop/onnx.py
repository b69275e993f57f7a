"""Either network as ONNX, with everything from bytes to probabilities inside the graph."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from vitrail import __version__
from vitrail.core.files import write_together
from vitrail.errors import ModelError
from vitrail.interop.torchscript import from_bytes, record
from vitrail.models.store import load_model, model_digest

OPSET = 17
"""Of ONNX 1.12 (2022); what runs ONNX today knows it."""

INPUT, OUTPUT = "images", "probabilities"


def export_onnx(model_folder: Path, out: Path) -> Path:
    """Write a classifier or a segmenter as an ONNX file.

    The input `images` is RGB bytes `[n, h, w, 3]` at the model's mpp. The classifier takes tiles of its own side and
    gives the probability of tumor, `probabilities` `[n]`; the segmenter takes any height and width and gives the
    probability of each class, `[n, 4, h, w]`. The file's metadata hold `task`, `mpp`, `side_px`, `classes` (JSON, in
    the order of the outputs), `vitrail` (the version that exported it), `digest` (see `model_digest`), and, where the
    model says so, `encoder` and `encoder_licence`, and `stain`, by which images must have been normalised.

    Parameters
    ----------
    model_folder
        A trained model.
    out
        The file to write; without the suffix `.onnx`, the folder to write `classifier.onnx` or `segmenter.onnx` to.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ModelError
        The model folder cannot be read, the network cannot be recorded, or the package onnx is not installed.
    """
    try:
        import onnx  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        cure = "Run: pip install 'vitrail[onnx]'"
        raise ModelError("ONNX export", "the package onnx is not installed", cure) from None
    model = load_model(model_folder)
    spec, tiled = model.spec, model.spec.task == "classifier"
    path = out if out.suffix == ".onnx" else out / f"{spec.task}.onnx"
    # Neither side of the segmenter's example is a multiple of 32, so that the padding is recorded.
    example = _images(1, spec.side_px, spec.side_px)
    probe = _images(2, spec.side_px, spec.side_px) if tiled else _images(2, 33, 70)
    axes = {INPUT: {0: "n"}, OUTPUT: {0: "n"}}
    if not tiled:
        axes = {INPUT: {0: "n", 1: "h", 2: "w"}, OUTPUT: {0: "n", 2: "h", 3: "w"}}
    recorded = record(from_bytes(model), example, probe, str(model_folder))
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        # Torch's older exporter takes the recorded graph as it is. Its successor needs ten times as long, and puts
        # paths of this machine into the file.
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of that exporter
        warnings.filterwarnings("ignore", "no signature found")  # of a recorded graph's forward, and none is needed
        exported = Path(folder) / "graph.onnx"
        torch.onnx.export(
            recorded, (example,), exported, input_names=[INPUT], output_names=[OUTPUT],
            dynamic_axes=axes, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
        graph = onnx.load_model_from_string(exported.read_bytes())
    metadata = {
        "task": spec.task,
        "mpp": repr(spec.mpp),
        "side_px": str(spec.side_px),
        "classes": json.dumps(spec.classes),
        "vitrail": __version__,
        "digest": model_digest(model_folder),
    }
    if spec.encoder_source:
        metadata |= {"encoder": spec.encoder_source.name, "encoder_licence": spec.encoder_source.terms}
    if spec.reading.stain != "none":
        metadata["stain"] = spec.reading.stain
    onnx.helper.set_model_props(graph, metadata)
    graph.producer_name, graph.producer_version = "vitrail", __version__
    write_together(path.parent, {path.name: bytes(graph.SerializeToString())})
    return path


def _images(count: int, height: int, width: int) -> torch.Tensor:
    return torch.arange(count * height * width * 3).mul(7).remainder(251).byte().view(count, height, width, 3)
