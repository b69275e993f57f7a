from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from helpers.numbers import evaluation_data
from helpers.report import Page, changed, report_data
from helpers.uncertain import with_ensemble
from helpers.viewing import unpack_run
from vitrail import evaluate
from vitrail.classes import TissueClass
from vitrail.report.collect import collect
from vitrail.report.collect_labels import collect_doubted
from vitrail.report.figures import certainty as figures
from vitrail.report.figures import figures_of
from vitrail.report.page import write_report
from vitrail.report.sections.certainty import certainty_section, labels_section
from vitrail.report.style import save, style
from vitrail.slides.cohort import read_cohort
from vitrail.stage import open_run

NAMES = {"certainty", "slide-calibration", "pixel-calibration", "doubted-labels"}


@pytest.fixture(scope="module")
def ensemble():
    made = evaluation_data(n=30)
    return replace(made, predictions=with_ensemble(made.predictions, flips=0.1))


def doubt(run):
    """Let both networks of a run doubt five labels, and say so as an ensemble does."""
    file = run / "predictions" / "tiles.parquet"
    rows = pd.read_parquet(file)
    p = np.where(rows["label"] == "tumor", 0.9, 0.1) + np.random.default_rng(0).normal(0, 0.02, len(rows))
    p[[3, 60, 150, 200, 230]] = 1 - p[[3, 60, 150, 200, 230]]
    rows = rows.assign(classifier=p, classifier_logit=np.log(p / (1 - p)), segmenter=p)
    with_ensemble(rows).to_parquet(file)


@pytest.mark.usefixtures("undrawn")
def test_a_run_reports_how_sure_it_is_and_what_it_doubts(tmp_path):
    run = unpack_run(tmp_path)
    doubt(run)
    data = collect(open_run(run))
    assert len(data.doubted) == 5
    rows = pd.read_parquet(run / "predictions" / "tiles.parquet")
    for tile in data.doubted:
        assert tile.picture.shape[0] == tile.picture.shape[1]
        assert tile.width_um == pytest.approx(2 * open_run(run).settings.tiles.side_um)
        assert tile.frame == (0.25, 0.25, 0.5)
        inside = 0.3 if tile.label is TissueClass.TUMOR else 0.7
        assert (tile.classifier < 0.5) == (inside < 0.5)
        assert any(tile.outlines.values())
    (tile,) = [each for each in data.doubted if each.slide_id == rows["slide_id"][3]][:1]
    middle = tile.picture[tile.picture.shape[0] // 4 : -(tile.picture.shape[0] // 4)]
    assert middle.std() > 0  # something was read
    page = Page(write_report(data, tmp_path / "report").read_text())
    assert {"certainty", "labels"} < set(page.ids)
    assert {f"figure-{name}" for name in NAMES} < set(page.ids)
    issues = pd.read_csv(tmp_path / "report" / "tables" / "label_issues.csv")
    assert set(issues["row"]) == {3, 60, 150, 200, 230}
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert sum(metrics["labels"]["contradicted"].values()) == 5


def test_a_slide_that_is_gone_leaves_its_tile(tmp_path):
    run = unpack_run(tmp_path)
    doubt(run)
    opened, evaluation = open_run(run), evaluate(run)
    entries = {entry.slide_id: entry for entry in read_cohort(opened.cohort)}
    for slide in (run.parent / "cohort").glob("*.tif"):
        slide.unlink()
    shown = collect_doubted(opened, entries, evaluation)
    assert {tile.frame for tile in shown} == {(0.0, 0.0, 1.0)}
    assert len(collect_doubted(opened, {}, evaluation)) == len(shown) == 5


def test_sentences_say_what_was_measured(ensemble):
    found = certainty_section(ensemble)
    accuracy = ensemble.metrics["test"]["classifier"]["accuracy"]
    assert f"calls {accuracy:.1%} of all test tiles rightly" in found["sentences"][0]
    assert any("out-of-fold tiles choose" in words for words in found["sentences"])
    assert any("chance would give" in words for words in found["sentences"])
    assert [row["title"] for row in found["areas"]] == [
        "Classification network", "Segmentation network", "Voting", "Pixels",
    ]  # fmt: skip
    labels = labels_section(ensemble)
    assert labels["whose"] == "training, validation and test"
    total = sum(ensemble.metrics["labels"]["contradicted"].values())
    assert labels["sentences"][0].startswith(f"Both networks contradict the label of {total:,} of")


def test_without_an_ensemble_it_is_said_of_validation():
    plain = evaluation_data(n=30)
    assert any("validation tiles choose" in words for words in certainty_section(plain)["sentences"])
    assert labels_section(plain)["whose"] == "validation and test"
    single = replace(plain, predictions=plain.predictions[plain.predictions["patient_id"] != "P09"])
    rows = single.predictions
    only = rows[(rows["split"] != "test") | (rows["patient_id"] == "P08")]
    one = certainty_section(replace(single, predictions=only))  # a single test patient has no interval
    assert not any("chance would give" in words for words in one["sentences"])
    assert not any("(nan" in words for words in one["sentences"])
    with pytest.raises(ValueError, match="no test tiles"):
        certainty_section(replace(plain, predictions=rows[rows["split"] == "train"]))


def test_a_study_that_cannot_reach_the_wish_says_so():
    plain = evaluation_data(n=30)
    rows = plain.predictions
    wrong = rows.assign(classifier=np.where(rows["label"] == "tumor", 0.2, 0.8))
    sentences = certainty_section(replace(plain, predictions=wrong))["sentences"]
    assert any("every tile has to be seen" in words for words in sentences)
    right = rows.assign(classifier=np.where(rows["label"] == "tumor", 0.8, 0.2))
    sentences = certainty_section(replace(plain, predictions=right))["sentences"]
    assert any("no tile has to be seen" in words for words in sentences)


def test_figures_show_what_there_is(ensemble, tmp_path):
    data = changed(report_data(), predictions=ensemble.predictions, slides=ensemble.slides)
    assert {spec.name for spec in figures_of(data)} & NAMES == NAMES - {"doubted-labels"}
    plain = changed(report_data())
    assert {spec.name for spec in figures_of(plain)} & NAMES == {"certainty", "slide-calibration"}
    with style():
        figure = figures.certainty_figure(ensemble.certainty)
        assert [axes.get_title(loc="left")[:1] for axes in figure.axes] == list("abcd")
        lines = [line for line in figure.axes[2].lines if str(line.get_label()).startswith("by")]
        assert len(lines) == 3
        slides = figures.slides_figure(ensemble.certainty)
        beyond = int(slides.axes[0].get_title(loc="left").split(": ")[1].split()[0])
        found = ensemble.certainty.slides["classifier"]
        assert beyond == ((found.gap < found.low) | (found.gap > found.high)).sum()
        for number, each in enumerate((figure, slides, figures.pixels_figure(ensemble.certainty.pixel_reliability))):
            assert "<svg" in save(each, tmp_path, str(number))
