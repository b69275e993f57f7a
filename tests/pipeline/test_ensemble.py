"""A study with ensembles: who predicts which tiles, who is explained, and what is said of it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from helpers.cohort import FAST, tissue, write_cohort
from helpers.command import vitrail
from vitrail.inference.predictor import Predictor
from vitrail.models.store import load_explained, load_model
from vitrail.pipeline.run import new_run
from vitrail.tiles.store import read_tiles

OWN = (
    "ensemble.folds=2", "predict.symmetries=4", "predict.uncertainty=true", "predict.explained=true",
    'explain.methods=["gradcam"]', "nuclei.tiles=0", "compute.workers=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    new_run(folder / "run", write_cohort(folder / "cohort"), "quick", [*FAST, *OWN])
    assert vitrail("predict", folder / "run") == 0
    return folder / "run"


def test_all_tiles_are_predicted_out_of_fold_and_with_their_spread(run):
    rows = pd.read_parquet(run / "predictions" / "tiles.parquet")
    assert rows["out_of_fold"].all()
    assert (rows[["classifier_spread", "segmenter_spread"]] > 0).all(axis=None)
    counts = np.stack(rows["confidence"])
    assert (counts[:, :20].sum(1) == 32 * 32).all()
    right = np.stack(rows["pixels"]).reshape(-1, 4, 4).trace(axis1=1, axis2=2)
    np.testing.assert_array_equal(counts[:, 20:].sum(1), right)
    images = read_tiles(run / "tiles").images
    for task in ("classifier", "segmenter"):
        folds = pd.read_csv(run / task / "folds.csv").set_index("patient_id")["fold"]
        member = rows["patient_id"].map(folds).fillna(-1)
        assert set(member[rows["split"] == "test"]) == {-1}
        whole = Predictor(load_model(run / task), engine="torch", symmetries=4)
        for number in (-1, 0, 1):
            own = np.flatnonzero(member == number)[:4]
            predictor = whole if number < 0 else whole.member(number)
            np.testing.assert_allclose(rows[task].iloc[own], predictor.tumor_probability(images[own]), atol=2e-3)


def test_explained_is_the_member_that_stands_for_all(run):
    summary = json.loads((run / "explanations" / "summary.json").read_text())["represented"]
    stored = pd.read_parquet(run / "explanations" / "tiles.parquet")
    images = read_tiles(run / "tiles").images[stored["tile"][:5]]
    for task in ("classifier", "segmenter"):
        spec = load_model(run / task).spec
        members = pd.read_csv(run / task / "members.csv")["correlation"]
        assert summary[task]["correlation"] == pytest.approx(members.max())
        assert (summary[task]["member"], summary[task]["members"]) == (spec.representative + 1, 2)
        alone = Predictor(load_explained(run / task), engine="torch", calibrated=False)
        np.testing.assert_allclose(stored[task][:5], alone.tumor_probability(images), atol=2e-3)


def test_a_slides_maps_say_how_unsure_they_are_and_who_is_explained(run):
    maps = run / "predictions" / "maps"
    (facts,) = [json.loads(path.read_text()) for path in maps.glob("S*.json")]
    assert facts["explained"]["network"] == load_model(run / "classifier").spec.represented
    assert len(list(maps.glob("*.uncertainty.ome.tiff"))) == 1
    (tiles,) = [pd.read_parquet(path) for path in maps.glob("*.tiles.parquet")]
    assert (tiles["classifier_spread"] > 0).all()
    assert tiles["segmenter_spread"].between(0, 0.5).all()


def test_its_folders_are_applied_to_slides_and_explain_a_picture(run, tmp_path, capsys):
    slide, out = run.parent / "cohort" / "S0.tif", tmp_path / "maps"
    assert vitrail(
        "predict", slide, "--classifier", run / "classifier", "--segmenter", run / "segmenter", "--out", out,
        "--set", "predict.uncertainty=true", "--set", "predict.artefacts=false",
    ) == 0  # fmt: skip
    assert (out / "S0.uncertainty.ome.tiff").is_file()
    Image.fromarray(tissue(0, 32)).save(tmp_path / "tile.png")
    capsys.readouterr()
    assert vitrail("explain", tmp_path / "tile.png", "--model", run / "classifier", "--out", tmp_path / "why") == 0
    said = capsys.readouterr()
    assert "which stands for all; it alone says: tumor probability" in said.out + said.err
