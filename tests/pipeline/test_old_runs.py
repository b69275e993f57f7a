"""A run folder made by the code of November 2026, before the house was rebuilt: it opens, resumes, explains, reports.

Five made-up slides, preset quick with `helpers.cohort.FAST`'s sizes, `predict.mirror` and `predict.explained` on, and a
search; without its pictures and its page.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from helpers.cohort import tissue
from helpers.command import vitrail
from helpers.old_run import unpack
from vitrail.explain.methods.base import METHODS

ROOT = Path(__file__).parents[2]
STAGES = ("tiles", "split", "classifier", "segmenter", "predict", "explain", "check")


def numbers_in(value, path=""):
    """Return all numbers of a JSON value by the way to them."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: number for name, each in items for key, number in numbers_in(each, f"{path}/{name}").items()}
    return {path: value} if isinstance(value, int | float) else {}


@pytest.fixture
def run(tmp_path):
    return unpack(tmp_path)


@pytest.mark.usefixtures("undrawn")
def test_it_is_up_to_date_and_reports_the_same_numbers(run, capsys):
    before = json.loads((run / "report" / "metrics.json").read_text())
    assert vitrail("run", run, "--set", "shift.tiles=4") == 0
    said = capsys.readouterr().err
    assert [stage for stage in STAGES if f"{stage}: up to date" not in said] == []
    after = json.loads((run / "report" / "metrics.json").read_text())
    # other processors, and other numbers of threads, add up in another order
    for part in ("test", "explanations"):
        old, new = (numbers_in(metrics[part]) for metrics in (before, after))
        assert old.keys() == new.keys()
        assert new == pytest.approx(old, rel=1e-9, nan_ok=True)
    assert vitrail("search", run) == 0


def test_the_old_name_of_a_setting_is_read(run, capsys):
    assert vitrail("tiles", run) == 0
    said = capsys.readouterr()
    assert "predict.mirror" in said.out + said.err
    assert "predict.test_time_augmentation" in said.out + said.err


def test_what_is_missing_is_made_again_as_it_was(run):
    before = pd.read_parquet(run / "predictions" / "tiles.parquet")
    agreement = pd.read_parquet(run / "explanations" / "agreement.parquet").select_dtypes("number")
    for folder in ("predictions", "explanations", "checks", "report"):
        shutil.rmtree(run / folder)
    # maps had the cells of the network then
    assert vitrail("explain", run, "--set", "explain.stride=32", "--set", "explain.margin_px=0") == 0
    assert vitrail("predict", run) == 0
    after = pd.read_parquet(run / "predictions" / "tiles.parquet")
    new = ["classifier_spread", "segmenter_spread", "confidence", "out_of_fold"]
    pd.testing.assert_frame_equal(after.drop(columns=["pixels", *new]), before.drop(columns="pixels"), rtol=1e-4)
    fresh = pd.read_parquet(run / "explanations" / "agreement.parquet").select_dtypes("number")
    np.testing.assert_allclose(fresh[agreement.columns], agreement, atol=1e-3)


def test_its_models_explain_a_picture(run, tmp_path):
    Image.fromarray(tissue(0, 32)).save(tmp_path / "tile.png")
    for network in ("classifier", "segmenter"):
        assert vitrail("explain", tmp_path / "tile.png", "--model", run / network, "--out", tmp_path / "why") == 0
        assert (tmp_path / "why" / f"tile-{network}-hrcam.npy").is_file()


DOCUMENTED = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extend.md").read_text(encoding="utf-8"), re.DOTALL)[0]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("methods", [("gradcam",), ("gradcam", "hrcam", "input_gradient")], ids=len)
def test_it_can_be_explained_by_one_method_or_by_one_more(run, monkeypatch, methods):
    monkeypatch.setattr(METHODS, "_methods", dict(METHODS))  # what the page registers is gone again
    exec(compile(DOCUMENTED, "extend.md", "exec"), {})  # noqa: S102 - our own page
    wished = f"explain.methods={list(methods)}".replace("'", '"')
    assert vitrail("run", run, "--set", wished, "--set", "predict.explained=false", "--set", "shift.tiles=0") == 0
    tables = {name: pd.read_csv(run / "report" / "tables" / f"{name}.csv") for name in ("agreement", "checks")}
    keys = {f"{network}_{method}" for network in ("classifier", "segmenter") for method in methods}
    assert set(tables["checks"]["maps"]) == keys
    assert {f"{method}_classifier_segmenter" for method in methods} <= set(tables["agreement"]["pair"])
    page = (run / "report" / "index.html").read_text()
    assert ("Input gradient" in page) == ("input_gradient" in methods)
    assert ("HR-CAM puts a classifier of its own" in page) == ("hrcam" in methods)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("folder", "key"), [("checks", "verdicts"), ("explanations", "agreement")])
def test_a_summary_without_a_key_is_one_line(run, capsys, folder, key):
    path = run / folder / "summary.json"
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != key}))
    shutil.rmtree(run / "report")
    assert vitrail("report", run) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{folder}/summary.json: is damaged (without '{key}'). Remove the folder" in error
