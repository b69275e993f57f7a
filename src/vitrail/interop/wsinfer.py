"""A classifier for WSInfer: the `wsinfer` command, and the extension of QuPath that needs no Python.

The folder is what the WSInfer model zoo calls a model (doi:10.1038/s41698-024-00499-9): the network as TorchScript,
and a `config.json` that says what tiles it takes. Whoever runs it

- cuts tiles of `patch_size_pixels * spacing_um_px` um, rounded to whole pixels of level 0: a tile of 398.2 pixels
  becomes one of 398, and the grid is another than Vitrail's;
- scales them to `patch_size_pixels`, which is what `Resize` is there for: the command from level 0 with Pillow's
  bilinear filter, a triangle two result pixels wide; QuPath from a level of the pyramid with a filter of its own.
  Vitrail averages areas on the coarsest level that is fine enough, which is itself a mean of level 0. The triangle
  comes nearest to both steps together: Pillow's box, Hamming and bicubic filters, which the config could name, moved
  the probabilities of phantom and real slides two to fourteen times as far;
- applies a softmax to the outputs, in QuPath always: with a single output every tile would get probability 1. So the
  network gives two logits, (0, z).
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import torch

from vitrail.classes import TissueClass
from vitrail.core.files import write_together
from vitrail.errors import ModelError
from vitrail.interop.torchscript import TumorLogits, record
from vitrail.models.store import load_model

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from vitrail.models.spec import ModelSpec

TORCHSCRIPT, CONFIG, LICENCE = "torchscript_model.pt", "config.json", "LICENCE.txt"
OUTPUTS = (TissueClass.NON_TUMOR, TissueClass.TUMOR)
"""The classes in the order of the exported network's logits; QuPath shows and colours tiles by their titles."""


def export_wsinfer(model_folder: Path, out: Path) -> Path:
    """Write a classifier as a folder that WSInfer and QuPath's WSInfer extension run.

    Parameters
    ----------
    model_folder
        A trained classifier.
    out
        The folder to write `torchscript_model.pt` and, last, `config.json` to. `model.json` is kept inside the first,
        as an extra file. Where the licence of the encoder's weights restricts their use, `LICENCE.txt` says so.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    ModelError
        The model folder cannot be read, holds a segmenter, a network that TorchScript cannot record, or one for slides
        whose stain is normalised.
    """
    model = load_model(model_folder)
    if model.spec.task != "classifier":
        raise ModelError(
            model_folder, "is a segmenter, and WSInfer classifies whole tiles", "Give the folder of a classifier"
        )
    if model.spec.reading.stain != "none":
        problem = "learned from slides whose stain was normalised, which WSInfer does not do"
        raise ModelError(model_folder, problem, 'Train one with slides.stain = "none"')
    network = torchscript(model.module, model.spec, str(model_folder))
    config = json.dumps(wsinfer_config(model.spec), indent=2) + "\n"
    source = model.spec.encoder_source
    licence = f"Trained from weights of {source.name}. Their licence: {source.terms}.\n" if source else ""
    terms = {LICENCE: licence.encode()} if source and source.restricts else {}
    write_together(out, {TORCHSCRIPT: network, **terms, CONFIG: config.encode()})
    return out


def wsinfer_config(spec: ModelSpec) -> dict[str, Any]:
    """Describe a classifier in version 1.0 of the WSInfer zoo's schema.

    Parameters
    ----------
    spec
        The classifier's.

    Returns
    -------
    dict[str, Any]
        What `config.json` holds. The three steps of `transform` are all that the schema knows.
    """
    return {
        "spec_version": "1.0",
        "architecture": spec.encoder,
        "num_classes": len(OUTPUTS),
        "class_names": [tissue.title for tissue in OUTPUTS],
        "patch_size_pixels": spec.side_px,
        "spacing_um_px": spec.mpp,
        "transform": [
            {"name": "Resize", "arguments": {"size": spec.side_px}},
            {"name": "ToTensor"},
            {"name": "Normalize", "arguments": {"mean": list(spec.mean), "std": list(spec.std)}},
        ],
    }


def torchscript(classifier: nn.Module, spec: ModelSpec, where: str = "classifier") -> bytes:
    """Return a classifier as a TorchScript file from standardised tiles `[n, 3, h, w]` to calibrated logits `[n, 2]`.

    Parameters
    ----------
    classifier, spec
        The network, and what it is.
    where
        Its name in an error.

    Returns
    -------
    bytes
        The file, without paths of this machine.

    Raises
    ------
    ModelError
        TorchScript cannot record the network.
    """
    side = spec.side_px
    example, probe = torch.zeros(1, 3, side, side), torch.linspace(-2, 2, 6 * side * side).view(2, 3, side, side)
    recorded = record(TumorLogits(classifier, spec.temperature).eval(), example, probe, where)
    with io.BytesIO() as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.")  # as in `record`
        torch.jit.save(recorded, file, _extra_files={"model.json": spec.model_dump_json(indent=2).encode()})
        # What leads from the code in the file back to its source are paths on this machine.
        result = io.BytesIO()
        with zipfile.ZipFile(file) as saved, zipfile.ZipFile(result, "w") as stripped:
            for entry in saved.infolist():
                if not entry.filename.endswith(".debug_pkl"):
                    stripped.writestr(zipfile.ZipInfo(entry.filename), saved.read(entry))
    return result.getvalue()
