from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from vitrail.metrics import scores

quick = settings(max_examples=50, deadline=None)


@st.composite
def labelled(draw):
    n = draw(st.integers(1, 60))
    return [draw(hnp.arrays(np.int64, n, elements=st.integers(0, 3))) for _ in range(2)]


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
def test_confusion_and_accuracy_are_scikit_learns(case):
    truth, predicted = case
    ours = scores.confusion(truth, predicted, 4)
    assert ours.dtype == np.int64
    np.testing.assert_array_equal(ours, sk.confusion_matrix(truth, predicted, labels=range(4)))
    np.testing.assert_allclose(scores.accuracy(ours), sk.accuracy_score(truth, predicted), rtol=0, atol=1e-12)


@quick
@given(labelled())
def test_jaccard_is_scikit_learns_and_nan_for_absent_classes(case):
    truth, predicted = case
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


def test_scores_of_a_batch_are_those_of_its_matrices():
    matrices = np.random.default_rng(0).integers(0, 9, (3, 5, 2, 2))
    for score in (scores.accuracy, scores.mean_jaccard):
        assert score(matrices).shape == (3, 5)
        np.testing.assert_array_equal(score(matrices)[2, 3], score(matrices[2, 3]))
    assert scores.jaccard(matrices).shape == (3, 5, 2)


def test_a_worked_example():
    matrix = [[50, 10], [5, 35]]
    assert scores.accuracy(matrix) == 0.85
    assert scores.jaccard(matrix).tolist() == [50 / 65, 35 / 50]
    assert scores.mean_jaccard(matrix) == pytest.approx((50 / 65 + 0.7) / 2, abs=1e-15)
    assert scores.auc([0, 0, 1, 1], [0.1, 0.5, 0.5, 0.9]) == 0.875


def test_undefined_scores_are_nan_without_a_warning():
    empty = scores.confusion([], [], 2)
    assert np.isnan([scores.accuracy(empty), scores.mean_jaccard(empty)]).all()
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
        lambda: scores.auc([0, 1], [0.5, np.nan]),
        lambda: scores.auc([0, 1], [0.5]),
    ],
)
def test_senseless_input_is_refused(wrong):
    with pytest.raises(ValueError, match=r"shape|whole|NaN|vectors"):
        wrong()
