"""A run folder made by the code of November 2026, before the house was rebuilt: it opens, resumes, explains, reports.

Five made-up slides, preset quick with `helpers.cohort.FAST`'s sizes, `predict.mirror` and `predict.explained` on, and a
search; without its pictures and its page.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from helpers.cohort import tissue
from helpers.command import vitrail

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "run-2026-11.tar.xz"
STAGES = ("tiles", "split", "classifier", "segmenter", "predict", "explain", "check")


@pytest.fixture
def run(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "study" / "run"


@pytest.mark.usefixtures("undrawn")
def test_it_is_up_to_date_and_reports_the_same_numbers(run, capsys):
    before = json.loads((run / "report" / "metrics.json").read_text())
    assert vitrail("run", run) == 0
    said = capsys.readouterr().out
    assert [stage for stage in STAGES if f"{stage}: up to date" not in said] == []
    after = json.loads((run / "report" / "metrics.json").read_text())
    assert after["test"] == before["test"]
    assert after["explanations"] == before["explanations"]
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
    assert vitrail("explain", run) == 0
    assert vitrail("predict", run) == 0
    after = pd.read_parquet(run / "predictions" / "tiles.parquet")
    pd.testing.assert_frame_equal(after.drop(columns="pixels"), before.drop(columns="pixels"), rtol=1e-4)
    fresh = pd.read_parquet(run / "explanations" / "agreement.parquet").select_dtypes("number")
    np.testing.assert_allclose(fresh, agreement, atol=1e-3)


def test_its_models_explain_a_picture(run, tmp_path):
    Image.fromarray(tissue(0, 32)).save(tmp_path / "tile.png")
    for network in ("classifier", "segmenter"):
        assert vitrail("explain", tmp_path / "tile.png", "--model", run / network, "--out", tmp_path / "why") == 0
        assert (tmp_path / "why" / f"tile-{network}-hrcam.npy").is_file()
