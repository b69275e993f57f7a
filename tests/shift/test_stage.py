"""The stage `shift`: distances, probes and simulated shifts of a small run."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from helpers.shift_run import TEST, TILES, TRAIN, settings, shift_of, write_shift_run
from vitrail.errors import RunError
from vitrail.inference.predictor import Predictor
from vitrail.models.store import load_model
from vitrail.shift import stage
from vitrail.shift.results import COLUMNS, open_shift
from vitrail.shift.simulate import SHIFTS, UNCHANGED, shifted


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shift")
    run, entries = write_shift_run(folder)
    return run, entries, shift_of(run, entries, folder / "one")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_slides_of_the_other_site_lie_farther_and_by_their_stain(made):
    study = open_shift(made[2])
    slides = study.slides
    assert {name: len(table) for name, table in (("slides", slides),)} == {"slides": TRAIN + TEST}
    far, near = (slides[(slides["split"] == "test") & (slides["site"] == site)] for site in ("far", "near"))
    assert far["distance"].min() > near["distance"].max()
    assert set(far["farthest_in"]) == {"stain"}
    assert far["beyond"].all()
    assert slides[slides["split"] == "train"]["distance"].max() == pytest.approx(1.0, rel=1e-6)
    assert study.summary["training"] == {"slides": TRAIN, "patients": TRAIN, "fewest": 10}


def test_every_tile_is_shown_with_every_shift_as_the_networks_see_it(made):
    run, _, out = made
    study = open_shift(out)
    tiles = study.simulated
    assert len(tiles) == 6 * (1 + len(SHIFTS))
    assert (tiles["tile"] >= TRAIN * TILES).all()
    assert (tiles["pixels"].map(sum) == 32 * 32).all()
    images = np.load(run / "tiles" / "images.npy")
    predictor = Predictor.of_settings(load_model(run / "classifier"), settings())
    for shift in (UNCHANGED, SHIFTS[0], SHIFTS[-1]):
        own = tiles[(tiles["family"] == shift.family) & (tiles["strength"] == shift.strength)]
        expected = predictor.tumor_probability(shifted(images[own["tile"].to_numpy()], shift, 1.0))
        np.testing.assert_allclose(own["classifier"], expected, rtol=1e-5)


def test_the_sites_are_probed_on_slides_that_were_not_trained_on(made):
    probes = {(own["of"], own["tells"]): own for own in open_shift(made[2]).summary["probes"]}
    assert set(probes) == {("features", "site"), ("appearance", "site"), ("features", "tumor")}
    sites = probes["appearance", "site"]
    assert (sites["classes"], sites["slides"], sites["which"]) == (["far", "near"], TEST, "not trained on")
    assert sites["balanced_accuracy"] == 1.0
    assert sites["p"] < 0.06  # four against four can be dealt in seventy ways
    assert probes["features", "tumor"]["slides"] == TEST


def test_without_sites_a_line_says_so(tmp_path):
    run, entries = write_shift_run(tmp_path, sites=False)
    study = open_shift(shift_of(run, entries, tmp_path / "out", tiles=0))
    assert [own["tells"] for own in study.summary["probes"]] == ["tumor"]
    assert study.summary["refused"] == [
        "whether features tell hospitals apart is not known: slides.csv has no column 'site'"
    ]
    assert len(study.simulated) == 0
    assert list(study.simulated.columns) == list(COLUMNS["simulated"])


def test_killed_at_any_shift_it_ends_with_the_same_bytes(made, tmp_path, monkeypatch):
    run, entries, first = made
    calls = 0

    def killing(*arguments):
        nonlocal calls
        calls += 1
        if calls % 5 == 0:
            raise KeyboardInterrupt
        return shifted(*arguments)

    monkeypatch.setattr(stage, "shifted", killing)
    for _ in range(40):
        try:
            shift_of(run, entries, tmp_path / "again")
            break
        except KeyboardInterrupt:
            continue
    assert calls < 3 * (1 + len(SHIFTS))  # nothing was done twice
    assert contents(tmp_path / "again") == contents(first)


def test_a_folder_that_is_not_whole_is_one_line(made, tmp_path):
    for path in made[2].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    summary = json.loads((tmp_path / "summary.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps({"probes": summary["probes"]}))
    with pytest.raises(RunError, match=re.escape("without 'training'")):
        open_shift(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    table = pd.read_parquet(tmp_path / "slides.parquet")
    table.drop(columns="beyond").to_parquet(tmp_path / "slides.parquet")
    with pytest.raises(RunError, match=re.escape("without 'beyond'")):
        open_shift(tmp_path)
