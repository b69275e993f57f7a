from __future__ import annotations

import numpy as np
import pytest

from helpers.nuclei_study import nuclei_study
from vitrail.explain.nuclei.summary import listed, painting_harm, removal_sentences, removed, with_minus


@pytest.fixture(scope="module")
def study():
    return nuclei_study(tiles=18, patients=6)


def test_groups_that_carry_the_score_are_told_apart(study):
    entries = {entry["group"]: entry for entry in removed(study.groups, "classifier", 0)}
    assert list(entries) == ["all", "largest", "darkest"]
    assert {name: entry["verdict"] for name, entry in entries.items()} == {
        "all": "for tumor", "largest": "for tumor", "darkest": "undecided",
    }  # fmt: skip
    assert entries["all"]["tiles"] == int((study.tiles["classifier_group"] == "tumor").sum())
    lines = removal_sentences([*entries.values()], None, "classifier")
    assert lines[0].startswith("Without all nuclei (4 a tile) the classification network's logit of tumor falls by 3")
    assert "4 patients)" in lines[0]
    assert lines[-1] == (
        "Of the darkest tenth it cannot be told whether the classification network's score rests on them."
    )


def test_painting_is_judged_on_tumor_free_tiles(study):
    harmed = painting_harm(study.groups, "segmenter", 0)
    assert harmed["tiles"] == int((study.tiles["label"] == "non_tumor").sum())
    little = np.linspace(0, 0.01, len(study.groups))
    still = study.groups.assign(effect=little, before=(study.groups["label"] == "tumor") * 0.9)
    assert painting_harm(study.groups[study.groups["label"] == "tumor"], "segmenter", 0) is None
    few = painting_harm(still, "segmenter", 0)
    (line,) = removal_sentences([], few, "segmenter")
    assert line.startswith("Painting hardly moves the segmentation network's score: 6 tumor-free tiles move by")
    alone = still[(still["label"] == "tumor") | (still["patient_id"] == "P0")]
    (line,) = removal_sentences([], painting_harm(alone, "segmenter", 0), "segmenter")
    assert line.startswith("Whether painting itself moves the segmentation network's score cannot be told from")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("falls by -0.3 (-1 to 2)", "falls by \N{MINUS SIGN}0.3 (\N{MINUS SIGN}1 to 2)"),
        ("tumor-free tiles, HR-CAM, 2-3", "tumor-free tiles, HR-CAM, 2-3"),
    ],
)
def test_minus_signs_stand_before_numbers_alone(words, expected):
    assert with_minus(words) == expected


def test_lists_of_names():
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == ["a", "a and b", "a, b and c"]


def test_what_is_said_of_both_networks_and_of_the_features(study):
    different, reliable = study.summary["shared_sentences"]
    assert different.startswith("The effect goes less with area in the classification network than in the segmentation")
    assert "coefficients \N{MINUS SIGN}0.40, 95 % interval \N{MINUS SIGN}0.60 to \N{MINUS SIGN}0.20)" in different
    assert reliable.endswith("is 0.60 to 0.90; least reliable is chromatin clumps.")
