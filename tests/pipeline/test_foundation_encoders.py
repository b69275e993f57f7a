"""Small studies with a vision transformer from a folder, and with a frozen encoder, from end to end."""

from __future__ import annotations

import json

import onnx
import pytest

from helpers.cohort import FAST, write_cohort
from helpers.command import vitrail
from helpers.vit import MEAN, write_folder

FEW = ("check.tiles=2", "shift.tiles=2", "nuclei.tiles=0", "classifier.epochs=1", "segmenter.epochs=1")


def study(folder, *changes):
    options = [part for change in (*FAST, *FEW, *changes) for part in ("--set", change)]
    cohort = write_cohort(folder / "cohort", 4)
    assert vitrail("init", folder / "run", "--slides", cohort, "--preset", "quick", *options) == 0
    return folder / "run"


def spec(run, task):
    return json.loads((run / task / "model.json").read_text())


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    write_folder(folder / "own", license="cc-by-nc-4.0")
    changes = (
        "encoder.name=local-dir:../own", "encoder.weights=imagenet", "encoder.frozen=true",
        "segmenter.architecture=linear", 'explain.methods=["gradcam", "hrcam", "layercam"]', "predict.explained=true",
    )  # fmt: skip
    return study(folder, *changes)


@pytest.mark.usefixtures("undrawn")
def test_a_study_with_a_vision_transformer(transformer, capsys):
    assert vitrail("run", transformer) == 2  # its licence was not accepted
    line = capsys.readouterr().err
    assert "cc-by-nc-4.0, forbids commercial use" in line
    assert "encoder.licence_accepted = true" in line
    assert not (transformer / "tiles" / "stage.json").exists()
    assert vitrail("run", transformer, "--set", "encoder.licence_accepted=true") == 0
    page = (transformer / "report" / "index.html").read_text()
    assert "The licence of its weights: cc-by-nc-4.0, which forbids commercial use" in page
    for task in ("classifier", "segmenter"):
        model = spec(transformer, task)
        assert (model["encoder_source"]["name"], tuple(model["mean"])) == ("local-dir:own", MEAN)
        assert not (transformer / task / "features").exists()
    path = transformer.parent / "exported"
    assert vitrail("export", "onnx", transformer / "classifier", "--out", path) == 0
    metadata = {entry.key: entry.value for entry in onnx.load(path / "classifier.onnx").metadata_props}
    assert metadata["encoder_licence"] == "cc-by-nc-4.0, which forbids commercial use"


def test_a_study_with_a_frozen_convolutional_encoder(tmp_path):
    run = study(tmp_path, "encoder.frozen=true")
    assert vitrail("run", run, "--until", "predict") == 0
    assert spec(run, "segmenter")["encoder_source"]["frozen"]
