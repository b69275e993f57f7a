from __future__ import annotations

import base64
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.viewing import unpack_run
from vitrail.errors import RunError, SlideError
from vitrail.explain.study.store import open_stored
from vitrail.geometry import Region
from vitrail.inference.predictor import Predictor
from vitrail.models.join import join_models
from vitrail.models.spec import ReadingInfo
from vitrail.models.store import Model, build, load_model, save_model
from vitrail.slides.slide import read_region
from vitrail.slides.stain import read_for_networks
from vitrail.viewer.asking import NEAREST, Networks, brush_mask
from vitrail.viewer.session import id_of, session_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return unpack_run(tmp_path_factory.mktemp("asked"))


@pytest.fixture(scope="module")
def session(run):
    return session_of([run])


@pytest.fixture(scope="module")
def networks(session):
    return Networks(session.run, session.settings)


def test_a_stored_test_tile_is_answered_as_it_was_stored(run, session, networks):
    stored = open_stored(run / "explanations")
    row, predictions = stored.rows.iloc[0], pd.read_parquet(run / "predictions" / "tiles.parquet")
    slide = session.slide(id_of(row["slide_id"])).open()
    tile = networks.place(slide, row["x"] + 1, row["y"] + row["side"] - 1)
    assert (tile.x, tile.y) == pytest.approx((row["x"], row["y"]))
    answer = networks.explain(slide, tile)
    known = predictions.iloc[row["tile"]]
    for task in ("classifier", "segmenter"):
        assert answer["networks"][task]["score"] == pytest.approx(known[task], abs=1e-4)
    shown = {each["method"]: each for each in answer["networks"]["classifier"]["maps"]}
    values = np.frombuffer(base64.b64decode(shown["hrcam"]["values"]), "<f4")
    assert values.shape == (shown["hrcam"]["height"] * shown["hrcam"]["width"],)
    assert np.abs(values).max() == pytest.approx(shown["hrcam"]["high"])
    assert set(answer["agreement"]) == set(networks.methods["classifier"])
    assert all(-1 <= value <= 1 for value in answer["agreement"].values() if value is not None)


def test_of_an_ensemble_the_one_is_asked_that_stands_for_all(run, session, networks, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    own = tmp_path / "run" / "classifier"
    first = load_model(own)
    other = Model(spec=first.spec, module=build(first.spec).eval())
    save_model(tmp_path / "other", other.module, other.spec)
    ensemble = join_models([tmp_path / "other", own], tmp_path / "all")
    save_model(own, ensemble.module, ensemble.spec.model_copy(update={"representative": 1}))
    slide = session.slide(id_of("S3")).open()
    asked = Networks(tmp_path / "run", session.settings)
    tile = networks.place(slide, 100, 100)
    alone, answer = (each.explain(slide, tile, ["gradcam"])["networks"] for each in (networks, asked))
    assert alone["classifier"]["stands_for"] is answer["segmenter"]["stands_for"] is None
    assert answer["classifier"]["stands_for"] == (2, 2)
    assert answer["classifier"]["score"] == pytest.approx(alone["classifier"]["score"])
    assert answer["classifier"]["maps"] == alone["classifier"]["maps"]


def test_a_tile_is_read_as_the_network_learned(run, session, networks, tmp_path):
    model = load_model(run / "classifier")
    spec = model.spec.model_copy(update={"reading": ReadingInfo(stain="macenko")})
    save_model(tmp_path / "run" / "classifier", model.module, spec)
    slide = session.slide(id_of("S3")).open()
    tile = networks.place(slide, 100, 100)
    side_px = (spec.side_px, spec.side_px)
    seen = read_for_networks(replace(slide, stain="macenko"), tile, side_px)
    assert not np.array_equal(seen, read_region(slide, tile, side_px))
    score = Predictor(model, torch.device("cpu"), engine="torch").tumor_probability(seen[None])[0]
    answer = Networks(tmp_path / "run", session.settings).explain(slide, tile, ["gradcam"])["networks"]
    assert answer["classifier"]["score"] == pytest.approx(score, abs=1e-4)


def test_methods_are_asked_for_by_name(session, networks):
    slide = session.slide(id_of("S3")).open()
    tile = networks.place(slide, 100, 100)
    answer = networks.explain(slide, tile, ["gradcam", "no_method"])
    assert [each["method"] for each in answer["networks"]["segmenter"]["maps"]] == ["gradcam"]


def test_what_is_not_brushed_away_changes_nothing(session, networks):
    slide = session.slide(id_of("S3")).open()
    tile = networks.place(slide, 40, 70)
    untouched = networks.what_if(slide, tile, [(-500.0, -500.0, 3.0)])
    assert untouched["share"] == 0
    for scores in untouched["networks"].values():
        assert scores["before"] == scores["after"]
    gone = networks.what_if(slide, tile, [(tile.x + 16, tile.y + 16, 100.0)], "blur")
    assert gone["share"] == 1
    assert any(scores["before"] != scores["after"] for scores in gone["networks"].values())


def test_a_brush_covers_the_pixels_whose_centres_it_reaches():
    tile = Region(x=100.0, y=200.0, width=64.0, height=64.0)
    mask = brush_mask(tile, 32, [(111.0, 205.0, 2.1), (1e9, 0.0, 1.0)])
    y, x = np.nonzero(mask)
    assert set(zip(x.tolist(), y.tolist(), strict=True)) == {(5, 2), (4, 2), (6, 2), (5, 1), (5, 3)}


def test_a_training_tile_is_its_own_nearest(run, session, networks):
    predictions = pd.read_parquet(run / "predictions" / "tiles.parquet")
    own = predictions[predictions["split"] == "train"].iloc[4]
    slide = session.slide(id_of(own["slide_id"])).open()
    nearest = networks.nearest(slide, networks.place(slide, own["x"] + 5, own["y"] + 5))
    assert len(nearest) == NEAREST
    assert nearest[0]["row"] == own.name
    assert nearest[0]["similarity"] == pytest.approx(1, abs=1e-3)
    assert nearest[0]["label"] == own["label"]
    similarity = [each["similarity"] for each in nearest]
    assert similarity == sorted(similarity, reverse=True)
    assert networks.picture(nearest[0]["row"]).shape == (32, 32, 3)
    with pytest.raises(LookupError):
        networks.picture(10**6)


def test_a_click_beside_the_slide_is_refused(session, networks):
    slide = session.slide(id_of("S3")).open()
    for x, y in ((-1, 5), (5, 256), (1e12, 0)):
        with pytest.raises(SlideError, match="no pixel"):
            networks.place(slide, x, y)
    edge = networks.place(slide, 255.9, 255.9)
    assert edge.right <= 256
    assert edge.bottom <= 256


def test_a_run_without_networks_says_so(session, tmp_path):
    untrained = Networks(tmp_path, session.settings)
    assert untrained.tasks == []
    with pytest.raises(RunError, match="no trained network"):
        untrained.place(session.slide(id_of("S3")).open(), 5, 5)
