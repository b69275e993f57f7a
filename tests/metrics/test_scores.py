from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from vitrail.metrics import scores

quick = settings(max_examples=50, deadline=None)
BINARY = (scores.accuracy, scores.sensitivity, scores.specificity, scores.precision, scores.f1)


@st.composite
def labelled(draw, n_classes=4):
    n = draw(st.integers(1, 60))
    pair = [draw(hnp.arrays(np.int64, n, elements=st.integers(0, n_classes - 1))) for _ in range(2)]
    weights = draw(hnp.arrays(np.int64, n, elements=st.integers(0, 5)))
    weights[0] += 1  # scikit-learn refuses weights that are all zero
    return *pair, weights


@st.composite
def scored(draw):
    """Both classes are there, and few distinct scores, so that ties are common."""
    n = draw(st.integers(2, 80))
    truth = draw(hnp.arrays(bool, n))
    truth[:2] = True, False
    ties = draw(hnp.arrays(np.int64, n, elements=st.integers(0, 6))) / 6
    free = draw(hnp.arrays(np.float64, n, elements=st.floats(0, 1)))
    return truth, draw(st.sampled_from([ties, free]))


@quick
@given(labelled())
def test_confusion_counts_as_scikit_learn_does(case):
    truth, predicted, weights = case
    ours = scores.confusion(truth, predicted, 4, weights)
    assert ours.dtype == np.int64
    np.testing.assert_array_equal(ours, sk.confusion_matrix(truth, predicted, labels=range(4), sample_weight=weights))
    np.testing.assert_array_equal(
        scores.confusion(truth, predicted, 4), sk.confusion_matrix(truth, predicted, labels=range(4))
    )


@quick
@given(labelled(n_classes=2))
def test_binary_scores_are_scikit_learns(case):
    truth, predicted, _ = case
    matrix = scores.confusion(truth, predicted, 2)
    np.testing.assert_allclose(scores.accuracy(matrix), sk.accuracy_score(truth, predicted), rtol=0, atol=1e-12)
    options = {"labels": [0, 1], "average": None, "zero_division": np.nan}
    negative, positive = sk.recall_score(truth, predicted, **options)
    expected = (positive, negative, sk.precision_score(truth, predicted, **options)[1])
    expected += (sk.f1_score(truth, predicted, **options)[1],)
    for score, value in zip(BINARY[1:], expected, strict=True):
        np.testing.assert_allclose(score(matrix), value, rtol=0, atol=1e-12)


@quick
@given(labelled())
def test_jaccard_is_scikit_learns_and_nan_for_absent_classes(case):
    truth, predicted, _ = case
    ours = scores.jaccard(scores.confusion(truth, predicted, 4))
    present = np.isin(np.arange(4), np.concatenate([truth, predicted]))
    expected = sk.jaccard_score(truth, predicted, labels=range(4), average=None, zero_division=0)
    np.testing.assert_allclose(ours[present], expected[present], rtol=0, atol=1e-12)
    assert np.isnan(ours[~present]).all()
    mean = scores.mean_jaccard(scores.confusion(truth, predicted, 4))
    np.testing.assert_allclose(mean, expected[present].mean(), rtol=0, atol=1e-12)


@quick
@given(scored())
def test_roc_and_auc_are_scikit_learns_with_ties(case):
    truth, score = case
    for ours, theirs in zip(
        scores.roc_curve(truth, score), sk.roc_curve(truth, score, drop_intermediate=False), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    np.testing.assert_allclose(scores.auc(truth, score), sk.roc_auc_score(truth, score), rtol=0, atol=1e-12)
    assert scores.auc(truth, score) + scores.auc(truth, -score) == pytest.approx(1, abs=1e-12)


@quick
@given(scored(), st.integers(0, 2**32 - 1))
def test_weighted_auc_is_that_of_repeated_elements(case, seed):
    truth, score = case
    weights = np.random.default_rng(seed).integers(0, 4, (3, len(truth)))
    weights[:, :2] += 1
    expected = [sk.roc_auc_score(np.repeat(truth, row), np.repeat(score, row)) for row in weights]
    np.testing.assert_allclose(scores.auc(truth, score, weights), expected, rtol=0, atol=1e-12)


def test_scores_of_a_batch_are_those_of_its_matrices():
    matrices = np.random.default_rng(0).integers(0, 9, (3, 5, 2, 2))
    for score in (*BINARY, scores.mean_jaccard):
        assert score(matrices).shape == (3, 5)
        np.testing.assert_array_equal(score(matrices)[2, 3], score(matrices[2, 3]))
    assert scores.jaccard(matrices).shape == (3, 5, 2)


def test_a_worked_example():
    matrix = [[50, 10], [5, 35]]
    assert [float(score(matrix)) for score in BINARY] == [0.85, 0.875, 50 / 60, 35 / 45, 70 / 85]
    assert scores.jaccard(matrix).tolist() == [50 / 65, 35 / 50]
    assert scores.mean_jaccard(matrix) == pytest.approx((50 / 65 + 0.7) / 2, abs=1e-15)
    assert scores.auc([0, 0, 1, 1], [0.1, 0.5, 0.5, 0.9]) == 0.875


def test_undefined_scores_are_nan_without_a_warning():
    empty = scores.confusion([], [], 2)
    assert all(np.isnan(score(empty)) for score in (*BINARY, scores.mean_jaccard))
    assert np.isnan(scores.sensitivity([[3, 1], [0, 0]]))
    assert np.isnan(scores.auc([1, 1], [0.2, 0.3]))
    assert np.isnan(scores.auc([], []))
    fpr, tpr, thresholds = scores.roc_curve([1, 1], [0.2, 0.3])
    assert np.isnan(fpr).all()
    assert tpr.tolist() == [0, 0.5, 1]
    assert thresholds.tolist() == [np.inf, 0.3, 0.2]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: scores.confusion([0, 1], [0], 2),
        lambda: scores.confusion([0, 2], [0, 1], 2),
        lambda: scores.confusion([0, -1], [0, 1], 2),
        lambda: scores.confusion([0, 0.5], [0, 1], 2),
        lambda: scores.confusion([0, 1], [0, 1], 2, [0.5, 1]),
        lambda: scores.confusion([0, 1], [0, 1], 2, [1]),
        lambda: scores.f1(np.zeros((4, 4))),
        lambda: scores.auc([0, 1], [0.5, np.nan]),
        lambda: scores.auc([0, 1], [0.5]),
        lambda: scores.auc([0, 1], [0.5, 0.6], [1, 1, 1]),
    ],
)
def test_senseless_input_is_refused(wrong):
    with pytest.raises(ValueError, match=r"shape|whole|binary|NaN|vectors"):
        wrong()
