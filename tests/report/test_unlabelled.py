"""The report of a study in which nobody outlined non-tumor."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection

from helpers.report import Page, report_data
from helpers.viewing import unpack_one_class_run
from vitrail import evaluate
from vitrail.report.collect import collect
from vitrail.report.collect_unlabelled import apart, collect_outside
from vitrail.report.figures import figures_of
from vitrail.report.figures.unlabelled import outside_figure
from vitrail.report.page import write_report
from vitrail.report.style import style
from vitrail.slides.cohort import read_cohort
from vitrail.stage import open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Networks that are right, but for a carcinoma in S3 that nobody outlined, and one tile of S4."""
    run = unpack_one_class_run(tmp_path_factory.mktemp("one-class"))
    file = run / "predictions" / "tiles.parquet"
    rows = pd.read_parquet(file)
    p = np.where(rows["label"] == "tumor", 0.95, 0.05)
    missed = (rows["slide_id"] == "S3") & rows["unlabelled"] & (rows["x"] >= 160) & (rows["y"] < 96)
    assert missed.sum() >= 6
    single = np.flatnonzero((rows["slide_id"] == "S4") & rows["unlabelled"])[0]
    p[missed] = 0.9
    p[single] = 0.99
    rows = rows.assign(classifier=p, classifier_logit=np.log(p / (1 - p)), segmenter=p, out_of_fold=True)
    rows.to_parquet(file)
    return run


@pytest.fixture(scope="module")
def data(run):
    return collect(open_run(run))


def test_a_missed_carcinoma_is_seen_first(data):
    assert [slide.slide_id for slide in data.outside][:2] == ["S3", "S4"]
    first, second = data.outside[:2]
    assert (first.called, second.called) == (int((data.evaluation.tables["unlabelled_tissue"]["called"])[0]), 1)
    assert first.called >= 6
    assert len(first.places) == 4
    assert all(place.classifier == 0.9 for place in first.places[:2])
    assert first.taken_mm2 == pytest.approx(1.1, abs=0.3)
    assert first.outlines
    assert first.margin
    height, width = first.thumbnail.shape[:2]
    rings = np.concatenate([*first.taken, *first.margin])
    assert (rings >= -1e-6).all()
    assert (rings <= (width + 1e-6, height + 1e-6)).all()


def test_its_figure_fills_what_both_networks_call_tumor(data):
    with style():
        figure = outside_figure(data.outside)
        squares = [each for each in figure.axes[1].collections if isinstance(each, PolyCollection)]
        assert [len(each.get_paths()) for each in squares] == [
            data.outside[0].asked - data.outside[0].called, data.outside[0].called,
        ]  # fmt: skip
    assert len(figure.axes) == sum(2 + len(slide.places) for slide in data.outside)


def test_the_page_says_what_is_taken_for_granted(data, run, tmp_path, monkeypatch):
    own = [spec for spec in figures_of(data) if spec.section == "unlabelled"]
    monkeypatch.setattr("vitrail.report.page.figures_of", lambda _: own)  # the others take seconds
    monkeypatch.setattr("vitrail.report.page.save_explained_figures", lambda *_: {})
    text = write_report(data, tmp_path).read_text()
    page = Page(text)
    assert "unlabelled" in page.ids
    assert "figure-outside-outlines" in page.ids
    assert text.count("this holds only if the outlines are exhaustive") == 2  # above all, and in its section
    table = pd.read_csv(tmp_path / "tables" / "unlabelled_tissue.csv")
    assert table["slide_id"][0] == "S3"
    numbers = json.loads((tmp_path / "metrics.json").read_text())["unlabelled"]
    assert numbers["called"] == table["called"].sum()
    words = re.sub(r"\s+", " ", " ".join(page.words))
    assert f"Both networks call {numbers['called']:,} of {numbers['asked']:,} such tiles tumor" in words
    assert f"{table['called'][0] / numbers['called']:.0%} of them lie in one slide, S3" in words
    assert evaluate(run).warnings[0].startswith("non-tumor is all tissue outside the outlines, at least 100 um away")


def test_slides_that_are_gone_are_left_out(run):
    opened = open_run(run)
    entries = {entry.slide_id: entry for entry in read_cohort(opened.cohort)}
    del entries["S3"]
    assert [slide.slide_id for slide in collect_outside(opened, entries, evaluate(run))][:1] == ["S4"]


def test_a_study_with_both_classes_has_no_such_figure():
    data = report_data()
    assert "outside-outlines" not in {spec.name for spec in figures_of(data)}
    assert "unlabelled" not in data.evaluation.metrics


def test_shown_tiles_lie_apart_where_there_are_enough():
    squares = np.array([[0, 0, 10], [10, 0, 10], [0, 25, 10], [100, 0, 10], [11, 0, 10]], float)
    assert apart(squares, 3) == [0, 2, 3]
    assert apart(squares, 4) == [0, 1, 2, 3]
    assert apart(squares[:0], 4) == []
