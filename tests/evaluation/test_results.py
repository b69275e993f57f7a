from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics as sk

from helpers.numbers import evaluation_data
from vitrail.evaluation.names import ROWS
from vitrail.evaluation.results import as_json, both_networks
from vitrail.evaluation.tables import confusion_tables, differences_table, groups_table, networks_table
from vitrail.evaluation.tiles import is_tumor, patients_table, slides_table, worst_slides
from vitrail.metrics.ensembles import stacked, voting
from vitrail.metrics.thresholds import youden
from vitrail.report.figures.cohort import confusion_figure
from vitrail.settings.schema import EvaluationSettings

SCORES = ("accuracy", "auc", "sensitivity", "specificity", "precision", "f1", "brier", "ece")


@pytest.fixture(scope="module")
def evaluation():
    """30 patients, 6 of them for testing."""
    made = evaluation_data(n=30)
    return replace(made, settings=EvaluationSettings(resamples=300, stacking_iterations=4, threshold=0.4))


@pytest.fixture(scope="module", name="test")
def measured_test(evaluation):
    return evaluation.metrics["test"]


def of(evaluation, *, parts=("train", "validation", "test"), **changes):
    rows = evaluation.predictions[evaluation.predictions["split"].isin(parts)]
    return replace(evaluation, predictions=rows, **changes).metrics["test"]


def test_every_row_is_scikit_learns(evaluation, test):
    truth = is_tumor(evaluation.test)
    assert (test["tiles"], test["patients"]) == (len(truth), 6)
    for name in set(ROWS) - {"stacking"}:
        (score,) = evaluation.probabilities[name]
        called = score >= 0.4
        expected = {
            "accuracy": sk.accuracy_score(truth, called),
            "auc": sk.roc_auc_score(truth, score),
            "sensitivity": sk.recall_score(truth, called),
            "specificity": sk.recall_score(~truth, ~called),
            "precision": sk.precision_score(truth, called),
            "f1": sk.f1_score(truth, called),
            "brier": sk.brier_score_loss(truth, score),
        }
        assert {key: test[name][key] for key in expected} == pytest.approx(expected, rel=0, abs=1e-12)
        assert test[name]["confusion"] == sk.confusion_matrix(truth, called, labels=[True, False]).tolist()


def test_pixels_are_scikit_learns(evaluation, test):
    pixels = np.stack(evaluation.test["pixels"]).sum(0).reshape(4, 4)
    assert test["pixels"]["confusion"] == pixels.tolist()
    true, called = (np.repeat(side.ravel(), pixels.ravel()) for side in np.indices((4, 4)))
    expected = sk.jaccard_score(true, called, average=None)
    assert list(test["pixels"]["jaccard"]) == ["tumor", "non_tumor", "other", "background"]
    np.testing.assert_allclose(list(test["pixels"]["jaccard"].values()), expected, rtol=0, atol=1e-12)
    assert test["pixels"]["mean_jaccard"] == pytest.approx(expected.mean(), abs=1e-12)
    low, high = test["pixels"]["interval"]["jaccard"]["tumor"]
    assert low < expected[0] < high


def test_all_confusion_matrices_have_the_order_of_the_classes(evaluation, test):
    assert test["classes"]["pixels"][:2] == test["classes"]["tiles"] == ["tumor", "non_tumor"]
    truth, called = is_tumor(evaluation.test), evaluation.probabilities["segmenter"][0] >= 0.4
    (hits, missed), (alarms, rest) = test["segmenter"]["confusion"]
    assert (hits, missed) == ((truth & called).sum(), (truth & ~called).sum())
    assert (alarms, rest) == ((~truth & called).sum(), (~truth & ~called).sum())
    figure = confusion_figure(evaluation)
    shown = [[label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes]
    assert shown == [["Tumor", "Non-tumor"]] * 2 + [["Tumor", "Non-tumor", "Other", "Background"]]
    tables = confusion_tables(test)
    assert [table["truth"].tolist()[:2] for table in tables.values()] == [["tumor", "non_tumor"]] * len(tables)
    assert tables["segmenter"].to_numpy()[:, 1:].tolist() == test["segmenter"]["confusion"]


def test_every_figure_stands_within_its_interval(test):
    for name in ROWS:
        for score in SCORES:
            low, high = test[name]["interval"][score]
            assert 0 <= low < test[name][score] < high <= 1, (name, score)


def test_ensembles_are_what_their_names_say(evaluation):
    given, truth = both_networks(evaluation.held_out), is_tumor(evaluation.held_out)
    assert (evaluation.probabilities["voting"][0] == voting(both_networks(evaluation.test))).all()
    assert (
        evaluation.probabilities["stacking_validation"][0] == stacked((given, truth), both_networks(evaluation.test))
    ).all()
    assert len(evaluation.probabilities["stacking"]) == 4


def test_calibration_is_told_before_and_after(evaluation, test):
    truth, found = is_tumor(evaluation.test), test["calibration"]["classifier"]
    raw = 1 / (1 + np.exp(-evaluation.test["classifier_logit"]))
    assert (found["temperature"], test["calibration"]["segmenter"]["temperature"]) == (1.5, 3.0)
    assert found["before"]["brier"] == pytest.approx(sk.brier_score_loss(truth, raw), abs=1e-12)
    for score in ("brier", "ece"):
        assert found["after"][score] == pytest.approx(test["classifier"][score], abs=1e-12)
        low, high = found["after"]["interval"][score]
        assert low < found["after"][score] < high
    as_given = evaluation.predictions.assign(classifier=1 / (1 + np.exp(-evaluation.predictions["classifier_logit"])))
    plain = replace(evaluation, predictions=as_given, calibrated=False).metrics["test"]
    assert (plain["calibration"]["classifier"]["applied"], found["applied"]) == (False, True)
    assert plain["calibration"]["classifier"]["after"] == found["after"]
    assert plain["voting"] == test["voting"]
    assert plain["classifier"]["auc"] == test["classifier"]["auc"]
    assert plain["classifier"]["brier"] == pytest.approx(found["before"]["brier"], abs=1e-12)


def test_stacking_is_the_mean_over_iterations(evaluation, test):
    truth = is_tumor(evaluation.test)
    iterations = evaluation.probabilities["stacking"]
    areas = [sk.roc_auc_score(truth, score) for score in iterations]
    assert test["stacking"]["auc"] == pytest.approx(np.mean(areas), abs=1e-12)
    matrices = [
        sk.confusion_matrix(truth, score >= 0.4, labels=[True, False]) for score in evaluation.probabilities["stacking"]
    ]
    np.testing.assert_allclose(test["stacking"]["confusion"], np.mean(matrices, axis=0))


def test_differences_are_paired(test):
    for pair, found in test["differences"].items():
        first, second = (test[name] for name in pair.split("_minus_"))
        if pair.startswith("classifier"):
            first = first | {score: test["calibration"]["classifier"]["before"][score] for score in ("brier", "ece")}
        else:
            second = second | {score: test["calibration"]["classifier"]["before"][score] for score in ("brier", "ece")}
        for score in SCORES:
            low, high = found[score]["interval"]
            assert found[score]["difference"] == pytest.approx(first[score] - second[score], abs=1e-12)
            assert (found[score]["p"] < 0.05) == (not low <= 0 <= high)
    assert 0 < test["differences"]["classifier_minus_segmenter"]["auc"]["p_delong"] < 1


def test_brier_scores_are_compared_before_any_temperature(evaluation, test):
    truth, raw = is_tumor(evaluation.test), 1 / (1 + np.exp(-evaluation.test["classifier_logit"]))
    own = sk.brier_score_loss(truth, raw)
    assert own != pytest.approx(test["classifier"]["brier"], abs=1e-4)
    for name in ("voting", "segmenter"):
        other = sk.brier_score_loss(truth, evaluation.probabilities[name][0])
        pair, sign = ("voting_minus_classifier", 1) if name == "voting" else ("classifier_minus_segmenter", -1)
        assert test["differences"][pair]["brier"]["difference"] == pytest.approx(sign * (other - own), abs=1e-12)
    as_given = evaluation.predictions.assign(classifier=1 / (1 + np.exp(-evaluation.predictions["classifier_logit"])))
    plain = replace(evaluation, predictions=as_given, calibrated=False).metrics["test"]
    for pair, found in plain["differences"].items():  # whether it is calibrated moves no difference
        for score in ("brier", "ece"):
            assert test["differences"][pair][score]["difference"] == pytest.approx(
                found[score]["difference"], abs=1e-12
            )


def test_thresholds_come_from_validation(evaluation, test):
    found, truth = test["operating"]["voting"], is_tumor(evaluation.held_out)
    assert found["youden"]["threshold"] == youden(truth, voting(both_networks(evaluation.held_out)))
    chosen = test["operating"]["classifier"]["sensitivity"]["threshold"]
    assert sk.recall_score(truth, evaluation.held_out["classifier"] >= chosen) >= 0.95
    called = evaluation.test["classifier"] >= chosen
    expected = sk.recall_score(is_tumor(evaluation.test), called)
    assert test["operating"]["classifier"]["sensitivity"]["sensitivity"] == pytest.approx(expected, abs=1e-12)


def test_slides_are_compared_with_their_annotation(evaluation, test):
    table = slides_table(evaluation.test, 0.4)
    gap = table["classifier_share"] - table["classifier_annotated"]
    assert test["slides"]["classifier"]["bias"] == pytest.approx(gap.mean())
    assert test["slides"]["classifier"]["upper"] == pytest.approx(gap.mean() + 1.96 * gap.std(ddof=1))
    pixels = np.stack(evaluation.test.query("slide_id == 'S008'")["pixels"]).sum(0).reshape(4, 4)
    row = table.set_index("slide_id").loc["S008"]
    assert row["segmenter_share"] == pixels[:2, 0].sum() / pixels[:2].sum()
    assert row["segmenter_annotated"] == pixels[0].sum() / pixels[:2].sum()


def test_patients_and_worst_slides(evaluation):
    patients = patients_table(evaluation.test, 0.4)
    assert patients["classifier_accuracy"].is_monotonic_increasing
    assert patients["tiles"].sum() == len(evaluation.test)
    table = slides_table(evaluation.test, 0.4)
    worst = worst_slides(table, 2)
    assert worst["classifier_accuracy"].tolist() == sorted(table["classifier_accuracy"])[:2]
    assert worst_slides(table.assign(classifier_accuracy=1.0, segmenter_accuracy=1.0)).empty


def test_groups_add_up_and_small_ones_are_marked(evaluation, test):
    for attribute, groups in test["groups"].items():
        assert sum(group["tiles"] for group in groups) == test["tiles"], attribute
        for group in groups:
            assert ("fewer than 5 patients" in (group["warning"] or "")) == (group["patients"] < 5)
    (alone,) = of(evaluation, slides=evaluation.slides.assign(site="Larynx"))["groups"]["site"]
    assert alone["classifier"]["interval"] == test["classifier"]["interval"]
    assert alone["warning"] is None


def test_the_same_seed_gives_the_same_figures(evaluation, test):
    assert as_json(replace(evaluation).metrics) == as_json(evaluation.metrics)
    other = replace(evaluation, seed=1).metrics["test"]
    assert other["classifier"]["interval"] != test["classifier"]["interval"]
    assert other["classifier"]["auc"] == test["classifier"]["auc"]


def test_without_validation_what_needs_it_is_missing_and_says_so(evaluation, test):
    found = of(evaluation, parts=("train", "test"))
    row = found["stacking_validation"]
    assert row["missing"] == "there are no validation tiles"
    assert all(math.isnan(row[score]) for score in SCORES)
    assert found["operating"]["classifier"]["missing"] == "there are no validation tiles"
    assert math.isnan(found["operating"]["classifier"]["youden"]["threshold"])
    assert math.isnan(found["differences"]["stacking_validation_minus_classifier"]["auc"]["p"])
    assert found["classifier"] == test["classifier"]
    read = json.loads(as_json(found))
    assert read["stacking_validation"]["auc"] is None
    assert read["stacking_validation"]["interval"]["auc"] == [None, None]


def test_validation_of_one_class_is_missing_too(evaluation):
    rows = evaluation.predictions
    kept = rows[(rows["split"] != "validation") | (rows["label"] == "tumor")]
    found = replace(evaluation, predictions=kept).metrics["test"]
    assert found["stacking_validation"]["missing"] == "the validation tiles are of one class"
    assert math.isnan(found["operating"]["voting"]["youden"]["threshold"])
    assert found["operating"]["voting"]["sensitivity"]["threshold"] > 0


@pytest.mark.parametrize("kept", ["slide_id == 'S008'", "label == 'tumor'", "slide_id == 'none'"])
def test_one_patient_one_class_and_nothing_are_measured_without_a_warning(evaluation, kept):
    rows = evaluation.predictions
    cut = rows[(rows["split"] != "test") | rows.eval(kept)]
    found = replace(evaluation, predictions=cut).metrics["test"]
    assert "missing" in found["stacking"]
    assert "NaN" not in as_json(found)
    if found["patients"] < 2:
        assert np.isnan(found["classifier"]["interval"]["accuracy"]).all()
    assert len(networks_table(found)) == 5
    assert len(differences_table(found)) == 4 * 8
    assert "network" in groups_table(found)
