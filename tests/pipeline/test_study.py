from __future__ import annotations

import shutil

import numpy as np
import pytest

import vitrail
from helpers.viewing import unpack_run
from vitrail.errors import RunError, SettingsError
from vitrail.explain.study.store import open_stored
from vitrail.settings.load import change_settings


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return vitrail.open_study(unpack_run(tmp_path_factory.mktemp("study")))


def test_a_study_gives_what_lies_in_its_folder(study):
    assert isinstance(vitrail.evaluate(study), vitrail.Evaluation)
    assert study.evaluation is study.evaluation
    assert study.tables["patients"].equals(vitrail.evaluate(study.folder).tables["patients"])
    assert [slide.slide_id for slide in study.slides] == [f"S{i}" for i in range(5)]
    assert len(study.tiles) == len(study.tiles.rows)
    assert study.report is None  # the archive has none of its pages
    (study.folder / "report" / "index.html").write_text("")
    assert study.report == study.folder / "report" / "index.html"


@pytest.mark.parametrize(("method", "network"), [("gradcam", "classifier"), ("hrcam", "segmenter")])
def test_it_explains_with_what_was_fitted_for_it(study, method, network):
    images = np.asarray(study.tiles.images[:2])
    maps = study.explain(images, method, network)
    assert [each.method for each in maps] == [method] * 2
    assert np.array_equal(maps[1].image, images[1])


@pytest.mark.parametrize("network", ["classifier", "segmenter"])
def test_its_maps_are_those_that_a_study_of_its_settings_stores(study, tmp_path, network):
    """The archive's maps are the paper's: one cell for each of the network's strides, without a margin."""
    shutil.copytree(study.folder, tmp_path / "run")
    change_settings(tmp_path / "run" / "study.toml", ["explain.stride=32", "explain.margin_px=0"])
    stored, own = open_stored(study.folder / "explanations"), vitrail.open_study(tmp_path / "run")
    tiles = stored.rows["tile"].to_numpy()[:2]
    maps = own.explain(np.asarray(study.tiles.images[tiles]), "gradcam", network)
    for each, values in zip(maps, stored.maps(f"{network}_gradcam")[:2], strict=True):
        np.testing.assert_allclose(each.values, values, atol=2e-3 * np.abs(values).max())


def test_it_maps_new_slides(study, tmp_path):
    table = study.predict([study.slides[0].slide], tmp_path / "maps")
    assert table["slide_id"].tolist() == ["S0"]
    assert np.isfinite(table["tumor_share"]).all()


def test_what_is_not_there_yet_is_said(study, tmp_path):
    with pytest.raises(SettingsError, match="there is no method 'magic'"):
        study.explain(study.tiles.images[:1], "magic")
    new = tmp_path / "new"
    new.mkdir()
    (new / "study.toml").write_bytes((study.folder / "study.toml").read_bytes())
    with pytest.raises(RunError, match=r"its classifier is not trained yet\. Train it with: vitrail run"):
        vitrail.open_study(new).model()
    with pytest.raises(RunError, match="not a run folder"):
        vitrail.open_study(tmp_path)
