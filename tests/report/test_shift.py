"""The section "Another hospital" and its figures."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from helpers.numbers import predictions
from helpers.report import HOSTILE, report_data
from helpers.shift_run import settings, shift_of, write_shift_run
from vitrail.report.collect_shift import FARTHEST, collect_shift, slides_to_show
from vitrail.report.figures.shift import figures_of
from vitrail.report.page import write_report
from vitrail.report.sections.shift import described, shift_section
from vitrail.shift.results import open_shift
from vitrail.shift.simulate import SHIFTS, UNCHANGED


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shift")
    run, entries = write_shift_run(folder)
    study = open_shift(shift_of(run, entries, folder / "out"))
    study = replace(study, slides=study.slides.replace({"site": {"far": HOSTILE}}))
    slides = study.slides[["slide_id", "patient_id", "split"]].assign(mpp=1.0, tumor_tiles=6, non_tumor_tiles=6)
    made = report_data(4, 20, (60, 80))
    numbers = replace(
        made.evaluation, slides=slides, predictions=predictions(slides, np.random.default_rng(0)), shift=study
    )
    shown = collect_shift(SimpleNamespace(folder=run, settings=settings()), numbers)
    return replace(made, evaluation=numbers, shift=shown)


def test_pictures_are_of_the_typical_training_slide_and_the_farthest_test_slides(data):
    shown = data.shift
    slides = shown.study.slides.set_index("slide_id")
    first, *others = shown.pictures
    assert slides.loc[first, "split"] == "train"
    assert slides.loc[first, "distance"] == slides[slides["split"] == "train"]["distance"].min()
    assert len(others) == FARTHEST
    assert slides.loc[others, "distance"].is_monotonic_decreasing
    assert slides.loc[others[-1], "distance"] >= slides[slides["split"] == "test"]["distance"].nlargest(FARTHEST).min()
    assert set(shown.changed) == {shift.name for shift in (UNCHANGED, *SHIFTS)}
    assert slides_to_show(shown.study.slides.assign(distance=np.nan)) == []


def test_the_page_has_sentences_tables_and_figures(data, tmp_path):
    assert [spec.name for spec in figures_of(data) if spec.applies(data)] == [
        "shift-slides", "shift-distance", "shift-simulated"
    ]  # fmt: skip
    text = write_report(data, tmp_path).read_text()
    assert 'href="#shift"' in text
    assert "<script>alert" not in text
    assert "4 of 8 test slides lie beyond the training" in text
    assert "tell hospitals apart" in text
    tables = {path.stem: pd.read_csv(path) for path in (tmp_path / "tables").glob("shift_*.csv")}
    assert {name: len(table) for name, table in tables.items()} == {
        "shift_slides": 20, "shift_by_distance": 4, "shift_probes": 3, "shift_simulated": 4 * len(SHIFTS)
    }  # fmt: skip


def test_without_shifts_and_sites_it_says_so_and_draws_what_there_is(data, tmp_path):
    slides = data.shift.study.slides.assign(site="", distance=np.nan, beyond=False)
    study = replace(
        data.shift.study, slides=slides, simulated=data.shift.study.simulated.iloc[:0],
        summary={"training": {"slides": 2, "patients": 2, "fewest": 10}, "probes": [], "refused": ["no sites"]},
    )  # fmt: skip
    numbers = replace(data.evaluation, shift=study)
    bare = replace(data.shift, study=study, metrics=numbers.metrics["shift"], pictures={}, changed={})
    own = replace(data, evaluation=numbers, shift=bare)
    assert [spec.name for spec in figures_of(own) if spec.applies(own)] == []
    text = write_report(own, tmp_path).read_text()
    assert "The training has 2 patients: too few" in text
    assert "No sites." in text
    assert shift_section(bare.metrics)["probes"] == []


@pytest.mark.parametrize(
    ("family", "strength", "words"),
    [
        ("hue", 0.2, "bluer colours"), ("hue", -0.2, "redder colours"), ("focus", 2.0, "a blur of 2 \N{MICRO SIGN}m"),
        ("jpeg", 30.0, "JPEG of quality 30"), ("eosin", 0.5, "eosin times 0.5"),
        ("brightness", 1.1, "brightness times 1.1"),
    ],
)  # fmt: skip
def test_shifts_have_names(family, strength, words):
    assert described(family, strength) == words
