from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax
from sklearn.calibration import calibration_curve

from vitrail.metrics.calibration import equal_count, equal_width, fit_temperature, reliability


def made_up(seed=0, n=400):
    rng = np.random.default_rng(seed)
    probability = rng.random(n)
    return rng.random(n) < probability**1.5, probability


def test_reliability_is_scikit_learns():
    truth, probability = made_up()
    found = reliability(truth, probability, equal_width())
    observed, predicted = calibration_curve(truth, probability, n_bins=10)
    np.testing.assert_allclose(found.observed, observed, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.predicted, predicted, rtol=0, atol=1e-12)
    assert found.count.sum() == 400


def test_bins_of_equal_count_hold_equally_many():
    truth, probability = made_up()
    found = reliability(truth, probability, equal_count(probability))
    assert found.count.tolist() == [40] * 10
    observed, predicted = calibration_curve(truth, probability, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(found.observed, observed, atol=1e-12)
    np.testing.assert_allclose(found.predicted, predicted, atol=1e-12)
    assert equal_count([0.5] * 9).tolist() == [0, 0.5, 1]


def test_worked_examples_of_the_calibration_error():
    assert reliability([1, 1, 0, 0], [0.9, 0.7, 0.1, 0.3], equal_width(2)).error == pytest.approx(0.2)
    assert reliability([1, 0], [1.0, 0.0], equal_width()).error == 0
    assert np.isnan(reliability([], [], equal_width()).error)


@pytest.mark.parametrize("wrong", [([1], [1.5]), ([1, 0], [0.5]), ([1], [np.nan])])
def test_what_is_no_probability_is_refused(wrong):
    with pytest.raises(ValueError, match=r"between 0 and 1|one length"):
        reliability(*wrong, equal_width())


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.3, 4))
def test_the_temperature_minimises_the_loss(seed, true):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, 300) * true
    truth = rng.random(300) < expit(logits / true)
    found = fit_temperature(logits, truth)

    def loss(temperature):
        return -log_softmax(np.stack([0 * logits, logits], 1) / temperature, 1)[
            np.arange(300), truth.astype(int)
        ].mean()

    best = minimize_scalar(loss, bounds=(0.01, 100), method="bounded", options={"xatol": 1e-10})
    assert loss(found) <= best.fun + 1e-12
    assert found == pytest.approx(best.x, rel=1e-3)


def test_many_classes_and_any_shift_of_their_logits():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (20_000, 4))
    truth = (softmax(logits / 2.5, axis=1).cumsum(1) < rng.random((20_000, 1))).sum(1)
    assert fit_temperature(logits, truth) == pytest.approx(2.5, rel=0.05)
    assert fit_temperature(logits + 900, truth) == pytest.approx(fit_temperature(logits, truth), rel=1e-9)


def test_the_temperature_stays_within_its_ends():
    assert fit_temperature([-1, 2, 3, -4], [0, 1, 1, 0]) == 0.01
    assert fit_temperature([-1, 2, 3, -4], [1, 0, 0, 1]) == 100
    assert fit_temperature([0, 0], [0, 1]) == 100


@pytest.mark.parametrize(
    "wrong", [([], []), ([1.0], [2]), ([np.inf], [1]), ([1.0, 2.0], [1]), (np.zeros((2, 3)), [0, 3])]
)
def test_logits_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError, match=r"logits"):
        fit_temperature(*wrong)
