"""How far slides lie, and what shifts do, in numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, jaccard_score, roc_auc_score

from vitrail.evaluation.shift import SCORES, plane_of, rank_correlation, shift_metrics, shift_tables, slide_scores
from vitrail.quality.appearance import GROUPS, MEASURES
from vitrail.settings.schema import EvaluationSettings
from vitrail.shift.results import ShiftStudy

SETTINGS = EvaluationSettings(resamples=300)


def tiles(slides=12, each=12, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for slide in range(slides):
        for tile in range(each):
            tumor = tile % 2 == 0
            pixels = rng.multinomial(64, [0.5, 0.2, 0.05, 0.05, 0.1, 0.05, 0, 0.05, *[0.0] * 8])
            score = float(np.clip(0.5 + (0.2 if tumor else -0.2) + rng.normal(0, 0.2), 0, 1))
            rows.append((f"S{slide:02d}", f"P{slide // 2}", "tumor" if tumor else "non_tumor", score, pixels))
    return pd.DataFrame(rows, columns=["slide_id", "patient_id", "label", "classifier", "pixels"])


def study(test):
    rng = np.random.default_rng(1)
    names = [*(f"T{number}" for number in range(10)), *sorted(test["slide_id"].unique())]
    count = len(names)
    slides = pd.DataFrame(rng.normal(100, 10, (count, len(MEASURES))), columns=list(MEASURES)).assign(
        slide_id=names, patient_id=[f"Q{number}" for number in range(count)], tiles=9, site="", farthest_in="stain",
        split=["train"] * 10 + ["test"] * (count - 10), distance=rng.uniform(0.1, 2, count), beyond=False,
        **{f"distance_{group}": 1.0 for group in GROUPS},
    )  # fmt: skip
    plain = test.assign(family="none", strength=0.0, tile=np.arange(len(test)), segmenter=0.5)
    worse = plain.assign(
        family="jpeg", strength=30.0, classifier=np.where(plain["classifier"] > 0.8, 0.2, plain["classifier"])
    )
    summary = {"training": {"slides": 10, "patients": 10, "fewest": 10}, "probes": [], "refused": ["why"]}
    return ShiftStudy(slides=slides, simulated=pd.concat([plain, worse], ignore_index=True), summary=summary)


def test_scores_of_slides_are_those_of_scikit_learn():
    test = tiles()
    table = slide_scores(test, 0.5)
    for row in table.itertuples():
        own = test[test["slide_id"] == row.slide_id]
        truth = own["label"] == "tumor"
        assert row.accuracy == pytest.approx(accuracy_score(truth, own["classifier"] >= 0.5))
        assert row.auc == pytest.approx(roc_auc_score(truth, own["classifier"]))
        matrix = np.sum(own["pixels"].to_list(), axis=0).reshape(4, 4)
        true, called = np.indices((4, 4)).reshape(2, -1).repeat(matrix.ravel(), axis=1)
        assert row.tumor_jaccard == pytest.approx(jaccard_score(true == 0, called == 0))
    assert np.isnan(slide_scores(test[test["label"] == "tumor"], 0.5)["auc"]).all()


def test_changes_are_differences_of_the_same_patients():
    test = tiles()
    metrics = shift_metrics(study(test), test, SETTINGS, 0)
    (shift,) = metrics["simulated"]["shifts"]
    changed = np.where(test["classifier"] > 0.8, 0.2, test["classifier"])
    truth = test["label"] == "tumor"
    expected = accuracy_score(truth, changed >= 0.5) - accuracy_score(truth, test["classifier"] >= 0.5)
    accuracy = shift["scores"]["accuracy"]
    assert accuracy["change"] == pytest.approx(expected)
    low, high = accuracy["interval"]
    assert low < expected < high < 0
    assert shift["scores"]["mean_jaccard"]["change"] == 0
    assert np.isnan(shift["scores"]["mean_jaccard"]["interval"]).all()  # nobody differs
    tables = shift_tables(study(test), metrics)
    assert set(tables) == {"shift_slides", "shift_by_distance", "shift_probes", "shift_simulated"}
    assert len(tables["shift_simulated"]) == len(SCORES)


def test_scores_are_correlated_with_distance():
    test = tiles()
    made = study(test)
    scores = slide_scores(test, 0.5).merge(made.slides[["slide_id", "distance"]], on="slide_id")
    by_distance = shift_metrics(made, test, SETTINGS, 0)["by_distance"]
    for name in SCORES:
        assert by_distance[name]["value"] == pytest.approx(spearmanr(scores[name], scores["distance"])[0])
        assert by_distance[name]["slides"] == 12


def test_few_slides_have_no_correlation():
    test = tiles(slides=4)
    own = shift_metrics(study(test), test, SETTINGS, 0)["by_distance"]["accuracy"]
    assert np.isnan([own["value"], *own["interval"]]).all()


@pytest.mark.parametrize("strength", [0.0, 0.6])
def test_intervals_of_rank_correlations_cover_what_they_say(strength):
    """12 patients of one to three slides; the truth from many patients."""
    rng = np.random.default_rng(2)

    def draw(patients):
        owners = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
        a = rng.normal(size=patients)[owners] + 0.7 * rng.normal(size=len(owners))
        rest = 0.8 * rng.normal(size=patients)[owners] + 0.6 * rng.normal(size=len(owners))
        return a, strength * a / np.sqrt(1.49) + np.sqrt(1 - strength**2) * rest, owners

    truth, settings = spearmanr(*draw(100_000)[:2])[0], EvaluationSettings(resamples=200)
    drawn = [rank_correlation(*draw(12), settings, seed)["interval"] for seed in range(150)]
    assert 0.90 <= np.mean([low <= truth <= high for low, high in drawn]) <= 0.99


def test_the_plane_shows_what_differs_most():
    made = study(tiles())
    slides = made.slides.assign(
        sharpness=made.slides["sharpness"] + np.where(made.slides["split"] == "test", 90.0, 0.0)
    )
    plane = plane_of(slides)
    assert plane.ends[0][1].split(", ")[0] == "sharper"
    assert plane.ends[0][0].split(", ")[0] == "blurred"
    test = (slides["split"] == "test").to_numpy()
    assert plane.points[test, 0].min() > plane.points[~test, 0].max()
    assert plane.share[0] > plane.share[1] > 0
