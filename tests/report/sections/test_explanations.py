from __future__ import annotations

import pandas as pd
import pytest

from helpers.explained import TITLES, explained, write_checks
from helpers.kinds import KEYS
from vitrail.evaluation.explanations import truth_table
from vitrail.explain.checks.results import COLUMNS as CHECK_COLUMNS
from vitrail.explain.checks.results import open_checked, summarise
from vitrail.report.figures.checks import truth_figure
from vitrail.report.sections.explanations import sentences
from vitrail.report.style import style


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return explained(tmp_path_factory.mktemp("run"))


def test_the_words_follow_from_the_verdicts(whole):
    summary = whole.checked.summary
    three, all_four = (
        ("deletion", "insertion", "randomisation"),
        ("deletion", "insertion", "randomisation", "localisation"),
    )
    assert summary["verdicts"]["classifier_gradcam"] == dict.fromkeys((*all_four, "stability"), "passes")
    assert summary["verdicts"]["segmenter_hrcam"] == dict.fromkeys(three, "fails") | {
        "localisation": "undecided", "stability": "passes",
    }  # fmt: skip
    lines = sentences(summary, TITLES)
    assert lines[0].startswith(
        "Grad-CAM, classification network: passes deletion, insertion, randomisation, stability and localisation; "
        "puts 1.50 times"
    )
    assert lines[3].startswith(
        "HR-CAM, segmentation network: passes stability; fails deletion, insertion and randomisation; undecided on "
        "localisation; replacing whole tiles by blur"
    )
    truth = summary["truth"]["segmenter_hrcam"]["atypical_nuclei"]
    null = f"maps of other tiles put {truth['others']:.2f} and the map turned and mirrored {truth['turned']:.2f}."
    assert lines[3].endswith(null)


def test_doubts_are_told_beside_the_verdicts(whole):
    ends = {"classifier": {"tile": 0.9, "blurred": 0.5}, "segmenter": {"tile": 0.85, "blurred": 0.94}}
    summary = {name: each for name, each in whole.checked.summary.items() if name != "replacements"} | {"ends": ends}
    assert "from 0.85 to only 0.94" in sentences(summary, TITLES)[3]
    assert "blurring" not in sentences(summary, TITLES)[0]


def test_losing_what_all_maps_share_proves_little(whole):
    summary = whole.checked.summary
    alike = summary["randomisation"]["classifier_gradcam"] | {"shared": 0.85}
    summary = {name: value for name, value in summary.items() if name != "shared"}  # as checks of before
    summary |= {"randomisation": summary["randomisation"] | {"classifier_gradcam": alike}}
    assert "correlate at 0.85" in sentences(summary, TITLES)[0]


def test_what_cannot_be_decided_does_not_fail(tmp_path):
    summary = open_checked(write_checks(tmp_path, patients=1, phantom=False)).summary
    assert set(summary["verdicts"]["classifier_hrcam"].values()) == {"undecided"}
    lines = sentences(summary, TITLES)[1]
    shared = summary["shared"]["classifier_hrcam"][0]
    words = "HR-CAM, classification network: undecided on deletion, insertion, randomisation and stability; maps of"
    assert lines == f"{words} different tiles correlate at {shared:.2f}, so that randomisation says little."
    assert truth_table(summary).empty


def test_tiles_without_the_cause_decide_nothing_about_it(tmp_path):
    write_checks(tmp_path)
    tables = {name: pd.read_parquet(tmp_path / f"{name}.parquet") for name in CHECK_COLUMNS}
    nuclei = tables["truth"]["region"] == "atypical_nuclei"
    tables["truth"].loc[nuclei, ["weight", "others", "turned", "area"]] = 0.0
    summary = summarise(tables, 0, KEYS)
    assert summary["verdicts"]["classifier_gradcam"]["localisation"] == "undecided"
    lines = sentences(summary, TITLES)[0]
    assert lines.endswith("undecided on localisation; no checked tile holds atypical nuclei.")
    with style():
        truth_figure(summary, TITLES).draw_without_rendering()
