from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from helpers.numbers import evaluation_data
from helpers.uncertain import with_ensemble
from vitrail.evaluation.certainty import GOALS, certainties_of, pixel_confidence
from vitrail.evaluation.labels import label_issues, label_metrics
from vitrail.evaluation.results import as_json, both_networks
from vitrail.evaluation.tiles import is_tumor
from vitrail.metrics.ensembles import stacked, voting
from vitrail.metrics.selective import kept_for
from vitrail.metrics.thresholds import youden


@pytest.fixture(scope="module")
def plain():
    """30 patients, 6 of them for testing; one network each, as in older runs."""
    return evaluation_data(n=30)


@pytest.fixture(scope="module")
def ensemble(plain):
    return replace(plain, predictions=with_ensemble(plain.predictions))


def test_without_an_ensemble_nothing_else_changes(plain, ensemble):
    assert plain.held_out_title == "validation"
    assert set(plain.held_out["split"]) == {"validation"}
    alone = plain.predictions.assign(out_of_fold=plain.predictions["split"] != "train")
    same = replace(plain, predictions=alone)
    assert same.metrics == plain.metrics or as_json(same.metrics) == as_json(plain.metrics)
    assert same.held_out_title == "validation"
    assert ensemble.metrics["test"]["classifier"] == plain.metrics["test"]["classifier"]


def test_tiles_out_of_fold_choose_and_fit(ensemble):
    held = ensemble.predictions[ensemble.predictions["split"] != "test"]
    assert ensemble.held_out_title == "out-of-fold"
    pd.testing.assert_frame_equal(ensemble.held_out, held)
    found = ensemble.metrics["test"]["operating"]
    assert found["classifier"]["youden"]["threshold"] == youden(is_tumor(held), held["classifier"])
    assert found["voting"]["youden"]["threshold"] == youden(is_tumor(held), voting(both_networks(held)))
    (honest,) = ensemble.probabilities["stacking_validation"]
    expected = stacked((both_networks(held), is_tumor(held)), both_networks(ensemble.test))
    np.testing.assert_array_equal(honest, expected)


def test_a_training_tile_that_was_seen_chooses_nothing(ensemble):
    seen = (ensemble.predictions["split"] == "train") & (ensemble.predictions["patient_id"] < "P10")
    partly = replace(ensemble, predictions=ensemble.predictions.assign(out_of_fold=~seen))
    assert not set(partly.held_out["patient_id"]) & set(ensemble.predictions.loc[seen, "patient_id"])


def test_there_are_the_certainties_that_there_are(plain, ensemble):
    kinds = {name: list(by["by"]) for name, by in plain.metrics["certainty"]["tiles"].items()}
    assert kinds == {
        "classifier": ["probability"], "segmenter": ["probability"], "voting": ["probability", "disagreement"],
    }  # fmt: skip
    kinds = {name: list(by["by"]) for name, by in ensemble.metrics["certainty"]["tiles"].items()}
    assert kinds["classifier"] == ["probability", "spread"]
    assert kinds["voting"] == ["probability", "spread", "disagreement"]
    once = ensemble.test.assign(classifier_spread=np.nan)
    assert list(certainties_of(once, "classifier", 0.5)) == ["probability"]
    assert plain.metrics["certainty"]["pixels"] is None


def test_a_probability_is_certain_by_its_way_from_the_threshold():
    tiles = pd.DataFrame({"classifier": [0.0, 0.1, 0.2, 0.6, 1.0], "classifier_logit": 0.0, "segmenter": 0.5})
    np.testing.assert_allclose(certainties_of(tiles, "classifier", 0.2)["probability"], [1, 0.5, 0, 0.5, 1])
    np.testing.assert_allclose(certainties_of(tiles, "classifier", 1.0)["probability"], [1, 0.9, 0.8, 0.4, 0])


def test_all_tiles_kept_have_the_accuracy_of_the_study(ensemble):
    curves = ensemble.certainty.curves
    for name in ("classifier", "segmenter", "voting"):
        for _, curve in curves[curves["network"] == name].groupby("certainty"):
            first = curve.iloc[0]
            test = ensemble.metrics["test"][name]
            assert first["coverage"] == 1
            assert first["accuracy"] == pytest.approx(test["accuracy"])
            assert first[["accuracy_low", "accuracy_high"]].tolist() == pytest.approx(test["interval"]["accuracy"])
            assert first["tumor_error"] == pytest.approx(1 - test["sensitivity"])
            assert curve["coverage"].is_monotonic_decreasing
    error = ensemble.metrics["certainty"]["tiles"]["classifier"]["error"]
    assert error == pytest.approx(1 - ensemble.metrics["test"]["classifier"]["accuracy"])


def test_a_point_of_the_curve_is_scikit_learns(ensemble):
    score, truth = ensemble.test["classifier"].to_numpy(), is_tumor(ensemble.test)
    curves = ensemble.certainty.curves
    own = curves[(curves["network"] == "classifier") & (curves["certainty"] == "probability")]
    point = own.iloc[10]  # a half
    kept = np.argsort(-np.abs(score - 0.5))[: int(point["kept"])]
    assert point["coverage"] == pytest.approx(0.5, abs=0.01)
    assert point["accuracy"] == pytest.approx(sk.accuracy_score(truth[kept], score[kept] >= 0.5))
    balanced = sk.balanced_accuracy_score(truth[kept], score[kept] >= 0.5)
    assert point["balanced_accuracy"] == pytest.approx(balanced)
    assert point["balanced_accuracy_low"] < balanced < point["balanced_accuracy_high"]


def test_areas_lie_between_the_ideal_order_and_chance(ensemble):
    """Errors are rarer where probabilities are sure, as they were drawn."""
    for own in ensemble.metrics["certainty"]["tiles"].values():
        found = own["by"]["probability"]
        assert own["ideal"] < found["aurc"] < own["error"]
        assert found["excess"] == pytest.approx(found["aurc"] - own["ideal"])
        assert found["interval"]["aurc"][0] < found["aurc"] < found["interval"]["aurc"][1]
        gap = own["differences"]["spread_minus_probability"]
        assert gap["difference"] == pytest.approx(own["by"]["spread"]["aurc"] - found["aurc"])
        assert gap["interval"][0] < gap["difference"] < gap["interval"][1]


def test_limits_are_chosen_before_the_test(ensemble):
    table = ensemble.certainty.review_table
    row = table[(table["network"] == "segmenter") & (table["certainty"] == "probability")].iloc[0]
    held, test = ensemble.held_out, ensemble.test
    wrong = (held["segmenter"] >= 0.5) != is_tumor(held)
    limit = kept_for(wrong, 2 * (held["segmenter"] - 0.5).abs(), GOALS[0])
    kept = 2 * (test["segmenter"] - 0.5).abs() >= limit
    assert (row["goal"], row["limit"]) == (0.95, pytest.approx(limit))
    assert row["seen"] == (~kept).sum()
    assert row["accuracy"] == pytest.approx(((test["segmenter"] >= 0.5) == is_tumor(test))[kept].mean())
    assert row["kept_low"] < row["kept"] < row["kept_high"]
    assert (table["tiles"] == len(test)).all()


def test_where_no_limit_is_good_enough_everything_is_seen(plain):
    never = plain.predictions.assign(classifier=np.where(is_tumor(plain.predictions), 0.1, 0.9))
    table = replace(plain, predictions=never).certainty.review_table
    own = table[table["network"] == "classifier"]
    assert own["limit"].isna().all()
    assert (own["seen"] == own["tiles"]).all()
    assert own["accuracy"].isna().all()


def test_pixels_are_counted_by_confidence(ensemble):
    counted = pixel_confidence(ensemble.test)
    pixels, right = counted.sum((0, 2))
    found = ensemble.metrics["certainty"]["pixels"]
    assert found["error"] == pytest.approx(1 - right / pixels)
    assert found["ideal"] < found["aurc"] < found["error"]
    bins = ensemble.certainty.pixel_reliability
    assert bins.count.sum() == pixels
    middle = (np.arange(20) + 0.5) / 20
    filled = bins.count > 0
    gaps = np.abs(counted[:, 1].sum(0)[filled] / bins.count[filled] - middle[filled])
    assert found["ece"] == pytest.approx((gaps * bins.count[filled]).sum() / pixels)
    curve = ensemble.certainty.curves.query("network == 'pixels'")
    assert curve["coverage"].iloc[0] == 1
    assert curve["accuracy"].iloc[0] == pytest.approx(right / pixels)
    assert curve["tumor_error"].isna().all()


def test_slides_are_compared_with_chance(ensemble):
    found = ensemble.metrics["certainty"]["slides"]["classifier"]
    table = ensemble.certainty.tables["slide_calibration"].query("network == 'classifier'")
    assert found["slides"] == len(table) == 6
    gaps = ensemble.test.assign(gap=ensemble.test["classifier"] - is_tumor(ensemble.test))
    np.testing.assert_allclose(table["gap"], gaps.groupby("slide_id")["gap"].mean())
    assert found["spread"] == pytest.approx(table["gap"].std())
    assert 0 < found["chance"] < found["chance_95"]


def test_planted_flips_are_listed(plain):
    """The networks are drawn from the true labels; one label in ten is turned around."""
    noisy = with_ensemble(plain.predictions, flips=0.1)
    flipped = (noisy["label"] != plain.predictions["label"]).to_numpy()
    before, after = (label_metrics(each, 200, 0)["voting"] for each in (plain.predictions, noisy))
    assert after["noise"] > before["noise"] + 0.04
    assert after["interval"]["noise"][0] < flipped.mean() < after["interval"]["noise"][1]
    issues = label_issues(noisy)
    assert flipped[issues["row"]].mean() > 0.7
    assert issues["strength"].is_monotonic_decreasing
    against = np.where(issues["label"] == "tumor", 1 - issues["classifier"], issues["classifier"])
    assert (issues["strength"] <= against + 1e-12).all()
    assert issues["annotated"].isna().all()  # nobody counted masks here
    assert {"classifier_spread", "segmenter_spread"} < set(issues)


def test_what_a_network_has_learnt_is_no_witness(plain):
    found = label_metrics(plain.predictions, 50, 0)
    assert set(found["split"]) == {"test", "validation"}
    assert not set(label_issues(plain.predictions)["split"]) & {"train"}
    assert set(label_metrics(with_ensemble(plain.predictions), 50, 0)["split"]) == {"test", "train", "validation"}


def test_masks_say_how_much_was_outlined(plain):
    rows = with_ensemble(plain.predictions, flips=0.1).assign(tumor=0.5, non_tumor=0.25, other=0.25, background=0)
    issues = label_issues(rows)
    assert (issues["annotated"] == 0.75).all()
    assert (issues["contrary"] == np.where(issues["label"] == "tumor", 0.25, 0.5)).all()


def test_without_test_tiles_there_is_nothing_to_be_sure_of(ensemble):
    rows = ensemble.predictions[ensemble.predictions["split"] != "test"]
    bare = replace(ensemble, predictions=rows)
    assert bare.certainty is None
    assert not {"certainty", "labels"} & set(bare.metrics)
    assert "label_issues" not in bare.tables


def test_the_json_is_strict(ensemble):
    read = json.loads(as_json(ensemble.metrics))
    assert set(read) == {"test", "certainty", "labels"}
    assert read["certainty"]["tiles"]["classifier"]["review"][0]["goal"] == 0.95
