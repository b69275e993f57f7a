from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import contextmanager
from functools import partial

import numpy as np
import pandas as pd
import pytest

from helpers.nuclei import DarkPixels
from helpers.nuclei_run import SLIDES, nuclei_work, write_nuclei_run
from vitrail.core.progress import Silent
from vitrail.errors import NucleiError
from vitrail.explain.nuclei import analysis, stage
from vitrail.explain.nuclei.analysis import mean_relevance
from vitrail.explain.nuclei.association import associate, compare
from vitrail.explain.nuclei.concepts import concept_vectors
from vitrail.explain.nuclei.results import COLUMNS, LABELS, SUMMARY, open_nuclei
from vitrail.explain.nuclei.stage import explain_nuclei
from vitrail.metrics import bootstrap
from vitrail.nuclei.features import FEATURES


class Watch(Silent):
    """Ends the work after so many steps."""

    def __init__(self, until):
        self.steps, self.until = 0, until

    @contextmanager
    def task(self, title, total, done=0):  # noqa: ARG002 - the protocol's arguments
        def step(n=1, note=""):  # noqa: ARG001 - the same
            self.steps += 1
            if self.steps == self.until:
                raise KeyboardInterrupt

        yield step


@pytest.fixture(scope="module")
def quick():
    """Two networks with random weights instead of four, few samples, and an engine that takes no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "UNTRAINED", 2)
        patch.setattr(analysis, "UNTRAINED", 2)
        patch.setattr(bootstrap, "RESAMPLES", 100)
        patch.setattr(analysis, "associate", partial(associate, resamples=100))
        patch.setattr(analysis, "compare", partial(compare, resamples=100))
        patch.setattr(analysis, "concept_vectors", partial(concept_vectors, permutations=19))
        patch.setattr(stage, "engine_of", lambda _: DarkPixels())
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory, quick):  # noqa: ARG001 - its patches
    folder = tmp_path_factory.mktemp("nuclei")
    run, entries = write_nuclei_run(folder)
    explain_nuclei(nuclei_work(run, folder / "out"), entries)
    return run, entries, folder / "out"


def test_every_table_is_there_and_belongs_to_the_others(study):
    found = open_nuclei(study[2])
    assert not (study[2] / "parts").exists()
    assert len(found.tiles) == 5
    assert found.tiles["patient_id"].nunique() == SLIDES
    nuclei = found.nuclei
    assert len(nuclei) == found.tiles["nuclei"].sum() == found.summary["nuclei"] > 50
    for tile, own in nuclei.groupby("tile"):
        assert own["nucleus"].tolist() == list(range(1, len(own) + 1))
        assert found.labels[tile].max() == len(own)
    assert len(found.relevance) == 2 * len(nuclei)
    assert set(found.associations["outcome"]) == {"effect", "gradcam"}
    assert set(found.associations["tiles"]) >= {"all", "tumor", "non_tumor"}
    assert set(found.comparison["outcome"]) == {"effect", "gradcam"}
    assert set(found.concepts["network"]) == {"classifier", "segmenter"}
    assert found.reliability.set_index("feature")["icc"]["area_um2"] > 0.9
    assert set(found.dependence["feature"]) <= set(FEATURES)


def test_nuclei_lie_where_they_lie_on_the_slide(study):
    found = open_nuclei(study[2])
    merged = found.nuclei.merge(found.tiles, on="tile", suffixes=("", "_tile"))
    for axis in ("x", "y"):
        inside = merged[axis] - merged[f"{axis}_tile"]
        assert inside.between(0, merged["side"]).all()
        np.testing.assert_allclose(inside * 0.5, merged[f"{axis}_um"], atol=1e-6)
    row = found.nuclei.iloc[0]
    labels = found.labels[row["tile"]]
    ys, xs = np.nonzero(labels == row["nucleus"])
    np.testing.assert_allclose([row["x_um"], row["y_um"]], [(xs.mean() + 0.5) / 2, (ys.mean() + 0.5) / 2])
    assert row["area_um2"] == pytest.approx(len(xs) / 4)


def test_the_cost_is_bounded_and_networks_with_random_weights_are_asked_too(study):
    found = open_nuclei(study[2])
    trained = found.effects[found.effects["draw"] < 0]
    shown = [each.groupby(["network", "tile"]).size() for each in (trained, found.controls, found.groups)]
    assert (sum(size.reindex(shown[0].index, fill_value=0) for size in shown) < 48).all()
    random = found.effects[found.effects["draw"] >= 0]
    assert set(random["draw"]) == {0, 1}
    assert (random.groupby(["network", "tile", "draw"]).size() <= 24).all()
    assert not np.allclose(
        random[random["draw"] == 0]["effect_logit"].head(5), random[random["draw"] == 1]["effect_logit"].head(5)
    )
    assert "untrained" in set(found.associations["marginal_null"]) | {"untrained"}
    assert np.isfinite(found.associations["marginal_null_low"]).any()


def test_words_and_numbers_are_in_the_summary(study):
    summary = open_nuclei(study[2]).summary
    assert summary["tiles"] == 5
    assert summary["refused"] == []
    assert set(summary["maps"]) == {"classifier_gradcam", "segmenter_gradcam"}
    assert all(entry["too_coarse"] for entry in summary["maps"].values())  # a cell is a whole tile of 80 um
    for network in ("classifier", "segmenter"):
        assert summary["sentences"][network]
        assert {entry["group"] for entry in summary["removed"][network]} >= {"all"}


def test_a_killed_stage_goes_on_and_ends_with_the_same_bytes(study, tmp_path):
    run, entries, whole = study
    with pytest.raises(KeyboardInterrupt):
        explain_nuclei(nuclei_work(run, tmp_path / "out", Watch(8)), entries)
    assert not (tmp_path / "out" / SUMMARY).exists()
    explain_nuclei(nuclei_work(run, tmp_path / "out"), entries)
    names = [f"{name}.parquet" for name in COLUMNS] + [SUMMARY, LABELS]
    digests = [
        {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names if name != LABELS}
        for folder in (whole, tmp_path / "out")
    ]
    assert digests[0] == digests[1]


def test_coarse_slides_are_refused_in_one_line(tmp_path):
    run, entries = write_nuclei_run(tmp_path, mpp=2.2)
    explain_nuclei(nuclei_work(run, tmp_path / "out"), entries)
    found = open_nuclei(tmp_path / "out")
    (line,) = found.summary["refused"]
    assert line.startswith(f"{SLIDES} slides are too coarse to tell nuclei apart: 2.2 \N{MICRO SIGN}m a pixel")
    assert "\n" not in line
    assert found.summary["tiles"] == len(found.tiles) == 0


@pytest.mark.usefixtures("quick")
def test_no_tiles_are_no_work(study, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "engine_of", lambda _: 1 / 0)
    explain_nuclei(nuclei_work(study[0], tmp_path / "out", tiles=0), study[1])
    assert json.loads((tmp_path / "out" / SUMMARY).read_text())["refused"] == []
    assert open_nuclei(tmp_path / "out").summary["nuclei"] == 0


class OneUnknown:
    """An engine that knows nothing of a slide."""

    name = "stored"

    def for_slide(self, slide_id):
        if slide_id == "S1":
            raise NucleiError("S1.geojson", "there is no such file", "Export it")
        return self

    def read(self, slide, region, mpp):  # noqa: ARG002 - the protocol's
        labels = np.zeros((160, 160), np.int32)
        labels[20:40, 30:50], labels[80:95, 90:110] = 1, 2
        return labels


@pytest.mark.usefixtures("quick")
def test_a_slide_of_which_an_engine_knows_nothing_is_left_out(study, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "engine_of", lambda _: OneUnknown())
    explain_nuclei(nuclei_work(study[0], tmp_path / "out", tiles=8), study[1])
    found = open_nuclei(tmp_path / "out")
    assert set(found.tiles["slide_id"]) == {"S0", "S2", "S3"}
    assert found.summary["refused"] == ["S1.geojson: there is no such file. Export it."]
    assert not len(found.reliability)
    assert (found.tiles["nuclei"] == 2).all()


def test_a_table_without_a_column_is_one_line(study, tmp_path):
    shutil.copytree(study[2], tmp_path / "nuclei")
    path = tmp_path / "nuclei" / "effects.parquet"
    pd.read_parquet(path).drop(columns="weight").to_parquet(path)
    with pytest.raises(Exception, match="without 'weight'"):
        open_nuclei(tmp_path / "nuclei")


def test_the_mean_of_a_map_over_nuclei():
    labels = np.zeros((8, 8), np.int32)
    labels[:2, :2], labels[4:6, 1:3] = 1, 2
    values = np.arange(16.0).reshape(4, 4)  # each cell is two by two finer pixels
    np.testing.assert_allclose(mean_relevance(values, labels), [0, (8 + 9) / 2])
