from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from helpers.explained import METHODS, THREE, write_checks
from vitrail.explain.checks.perturbation import FLOORS
from vitrail.explain.checks.ranking import LOST, concordance, rank_methods, recommend, sentence
from vitrail.explain.checks.results import open_checked

COHORTS = 100
MOST = 0.06
"""Share of cohorts in which any of several random maps may be recommended; 0.05, and the simulation's own error."""


def test_ranks_have_their_direction_ties_and_gaps():
    values = {
        "a": {"deletion_blur": 0.2, "insertion_blur": 0.5, "randomisation": -0.3, "stability": None, "sparseness": 1},
        "b": {"deletion_blur": 0.3, "insertion_blur": 0.7, "randomisation": LOST, "stability": 0.2, "sparseness": 2},
        "c": {"deletion_blur": 0.3, "insertion_blur": 0.6, "randomisation": 0.8, "stability": 0.4, "sparseness": 3},
    }
    found = rank_methods(values)
    ranks = pd.DataFrame(found["ranks"]).T
    assert ranks["deletion_blur"].tolist() == [1, 2.5, 2.5]
    assert ranks["insertion_blur"].tolist() == [3, 1, 2]
    assert ranks["randomisation"].tolist() == [1.5, 1.5, 3]  # what is lost ties
    assert found["ranks"]["a"]["stability"] is None
    assert found["ranks"]["b"]["stability"] == 2
    assert "sparseness" not in found["ranks"]["a"]
    assert found["mean_rank"]["a"] == pytest.approx((1 + 3 + 1.5) / 3)


def test_concordance_is_kendalls_w():
    def of(*columns):
        names = [f"m{i}" for i in range(len(columns[0]))]
        rows = {name: {f"x{j}": column[i] for j, column in enumerate(columns)} for i, name in enumerate(names)}
        return concordance(rows, names)

    assert of([1, 2, 3], [10, 20, 30], [5, 6, 7]) == pytest.approx(1)
    assert of([1, 2, 3], [3, 2, 1]) == pytest.approx(0)
    # Kendall and Smith's S over its maximum, by hand: rank sums 4, 5, 9 of 3 judges and 3 objects
    assert of([3, 2, 1], [2, 3, 1], [3, 2, 1]) == pytest.approx(12 * 14 / (9 * 24))
    assert of([1, 1, 2], [1, 1, 2]) == pytest.approx(1)  # ties are no disagreement
    assert of([1, 1], [2, 2]) is None
    assert of([1, 2, 3]) is None
    assert of([1, 2, 3], [1, None, 2]) is None


def tiles_of(rng, patients, **means):
    owners = np.repeat([f"P{i}" for i in range(patients)], rng.integers(2, 7, patients))
    return pd.DataFrame({name: mean + rng.normal(0, 0.1, len(owners)) for name, mean in means.items()}), owners


def test_the_best_and_those_that_are_not_worse_are_recommended_unless_they_fail_randomisation():
    tiles, owners = tiles_of(np.random.default_rng(0), 12, a=0.5, b=0.5, c=0.3, d=0.0, random=0, blob=0.05)
    found = recommend(tiles, owners, ["d", "c", "b", "a"], {}, 0)
    assert sorted(found) == ["a", "b"]
    assert found[0] == tiles[["a", "b"]].mean().idxmax()
    assert recommend(tiles, owners, ["a", "b", "c", "d"], {"a": "fails", "b": "undecided"}, 0) == ["b"]
    assert recommend(tiles, owners, ["d"], {}, 0) == []
    blob = tiles.assign(blob=0.6 + tiles["random"])
    assert recommend(blob, owners, ["a", "b"], {}, 0) == []


@pytest.mark.parametrize("count", [1, 5])
def test_random_maps_are_seldom_recommended(count):
    rng, recommended = np.random.default_rng(count), 0
    names = [f"m{i}" for i in range(count)]
    for cohort in range(COHORTS):
        tiles, owners = tiles_of(rng, 2 + cohort % 14, **dict.fromkeys([*names, "random"], 0.0), blob=-0.9)
        recommended += bool(recommend(tiles, owners, names, {}, 0))
    assert recommended <= MOST * COHORTS


def ranked(**changes):
    faithful = {"gradcam": [0.07, 0.02, 0.1], "occlusion": [0.18, 0.15, 0.21], "edges": [0.02, 0.0, 0.05]}
    faithful |= {"blob": [0.01, 0.0, 0.02]}
    result = {
        "faithfulness": faithful,
        "concordance": 0.45,
        "recommended": ["occlusion"],
        "forgotten": {},
    }
    return result | changes


def test_the_sentence_carries_its_numbers():
    titles = {"gradcam": "Grad-CAM", "occlusion": "Occlusion"}
    found = sentence("classifier", ranked(), titles, {}, 9)
    assert found == (
        "For the classification network we recommend Occlusion: insertion minus deletion 0.18 (0.15 to 0.21), 2.6 "
        "times Grad-CAM's; an edge detector has 0.02, a centred blob 0.01; the metrics rank the methods with a "
        "concordance W of 0.45 (1 is agreement)."
    )
    unsure = ranked()
    unsure["faithfulness"]["gradcam"] = [0.01, -0.02, 0.04]  # a ratio to what may be 0 says nothing
    assert "(0.15 to 0.21), where Grad-CAM has 0.01 (-0.02 to 0.04); an" in sentence(
        "classifier", unsure, titles, {}, 9
    )
    both = sentence("classifier", ranked(recommended=["occlusion", "gradcam"]), titles, {}, 9)
    assert "times" not in both
    assert "not told apart from Grad-CAM (0.07)" in both
    none = sentence("segmenter", ranked(recommended=[]), titles, {}, 9)
    assert none.startswith("For the segmentation network no method can be recommended: none beats")
    assert "the best is Occlusion with insertion minus deletion 0.18 (0.15 to 0.21)" in none
    untested = sentence("segmenter", ranked(faithfulness={}, recommended=[]), titles, {"blur": {}}, 9)
    assert "no replacement takes the evidence away (blur)" in untested


@pytest.mark.parametrize("methods", [METHODS, THREE])
def test_the_summary_holds_the_contract(tmp_path, methods):
    summary = open_checked(write_checks(tmp_path, methods=methods)).summary
    for network in ("classifier", "segmenter"):
        found = summary["ranking"][network]
        assert set(found["values"]) == set(found["ranks"]) == {*methods, *FLOORS}
        assert found["floors"] == list(FLOORS)
        assert all(set(row) == set(found["metrics"]) for row in found["ranks"].values())
        assert found["sentence"].endswith(".")
        assert found["recommended"][0] in {"gradcam", "toy"}
        assert "hrcam" not in found["recommended"]
    # the segmenter's blurred tiles keep their score: they take no part
    assert "deletion_blur" in summary["ranking"]["classifier"]["metrics"]
    assert "deletion_blur" not in summary["ranking"]["segmenter"]["metrics"]
    assert summary["perturbation"]["segmenter_gradcam"]["deletion"]["replacements"] == ["donor"]
    assert set(summary["completeness"]) == ({"classifier_toy", "segmenter_toy"} if methods is THREE else set())
