from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import norm

from vitrail.metrics.bootstrap import interval, sample
from vitrail.metrics.label_noise import confident_of, confident_thresholds, contradicted, noise_by_errors, noise_parts

ONE = np.ones((1, 1))


def test_a_joint_by_hand():
    """Northcutt et al., Equation 1 and 3, counted on paper: of each label the mean probability is the threshold."""
    labels = [1, 1, 1, 1, 0, 0, 0, 0]
    p = [0.9, 0.9, 0.7, 0.1, 0.1, 0.2, 0.1, 0.8]
    assert confident_thresholds(labels, p) == pytest.approx((0.65, 0.7))
    parts = noise_parts(labels, p, np.zeros(8))
    assert parts.joint[0].tolist() == [[3, 1], [1, 3]]
    assert parts.distribution == pytest.approx(np.array([[3, 1], [1, 3]]) / 8)
    rates = {name: float(drawn) for name, drawn in parts.rates(ONE).items()}
    assert rates == pytest.approx({"noise": 0.25, "positive": 0.25, "negative": 0.25})


def test_the_joint_is_scaled_to_the_labels():
    """Of the positives one in three of whom the network is confident is contradicted; 6 of 10 are positive."""
    labels = np.array([1] * 6 + [0] * 4)
    p = np.array([0.95, 0.95, 0.05, 0.6, 0.6, 0.6, 0.05, 0.05, 0.05, 0.05])
    parts = noise_parts(labels, p, np.zeros(10))
    upper, lower = confident_thresholds(labels, p)
    confident = labels.astype(bool) & ((p >= upper) | (1 - p >= lower))
    expected = 0.6 * (1 - p[confident] >= lower).sum() / confident.sum()
    assert float(parts.rates(ONE)["noise"]) == pytest.approx(expected)
    assert parts.distribution.sum() == pytest.approx(1)
    assert parts.distribution.sum(1) == pytest.approx([0.6, 0.4])


def flipped(rng, rate, patients=24, tiles=60, gap=2.6):
    """Labels of which a share was flipped, and the calibrated scores of a network that knows the truth well."""
    owners = np.repeat(np.arange(patients), tiles)
    truth = rng.random(len(owners)) < 0.5
    p = 1 / (1 + np.exp(-2 * gap * (np.where(truth, gap, -gap) / 2 + rng.normal(0, 1, len(owners)))))
    return truth ^ (rng.random(len(owners)) < rate), p, owners, truth


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2])
def test_planted_noise_is_recovered(rate):
    labels, p, owners, _ = flipped(np.random.default_rng(0), rate, gap=5)
    assert float(noise_parts(labels, p, owners).rates(np.ones((1, 24)))["noise"]) == pytest.approx(rate, abs=0.02)


def test_asymmetric_noise_is_told_by_label():
    rng = np.random.default_rng(1)
    _, p, owners, truth = flipped(rng, 0, gap=5)
    labels = truth & ~(rng.random(len(truth)) < 0.3)  # a third of the tumor was left undrawn
    rates = noise_parts(labels, p, owners).rates(np.ones((1, 24)))
    assert float(rates["positive"]) < 0.02
    assert float(rates["negative"]) == pytest.approx(truth[~labels].mean(), abs=0.03)


@given(st.integers(0, 10_000))
def test_influences_are_derivatives(seed):
    rng = np.random.default_rng(seed)
    labels, p, owners, _ = flipped(rng, 0.2, patients=4, tiles=40)
    parts, weights = noise_parts(labels, p, owners), rng.integers(1, 4, (1, 4)).astype(float)
    found = parts.rates(weights)
    for patient in range(4):
        step = 1e-6 * np.eye(4)[patient]
        above, below = parts.rates(weights + step), parts.rates(weights - step)
        for name in ("noise", "positive", "negative"):
            slope = (float(above[name]) - float(below[name])) / 2e-6
            assert found[name].influence[0, patient] == pytest.approx(slope, abs=1e-6)


def test_intervals_cover_what_the_estimate_is_of_very_many_patients():
    """Its bias is another matter, see bench/label_noise.py."""
    labels, p, owners, _ = flipped(np.random.default_rng(5), 0.1, patients=3000)
    truth = float(noise_parts(labels, p, owners).rates(np.ones((1, 3000)))["noise"])
    weights, covered = sample(12, 200, 0), 0
    for seed in range(150):
        labels, p, owners, _ = flipped(np.random.default_rng([7, seed]), 0.1, patients=12)
        low, high = interval(noise_parts(labels, p, owners).rates(weights)["noise"], weights)
        covered += low <= truth <= high
    assert covered / 150 > 0.9


def test_what_all_networks_contradict():
    labels = np.array([1, 1, 1, 0, 0, 0])
    one = np.array([0.9, 0.8, 0.05, 0.1, 0.2, 0.9])
    other = np.array([0.8, 0.9, 0.1, 0.2, 0.1, 0.3])
    found = contradicted(labels, np.stack([one, other], 1))
    np.testing.assert_allclose(found, [np.nan, np.nan, 0.9, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(contradicted(labels, one[:, None])[[2, 5]], [0.95, 0.9])


def test_nobody_is_confident_of_both():
    rng = np.random.default_rng(2)
    above, below = confident_of(rng.random(200) < 0.5, rng.random(200) * 0.2 + 0.4)  # both thresholds are near a half
    assert not (above & below).any()


def test_most_of_what_is_contradicted_was_flipped():
    labels, p, _, truth = flipped(np.random.default_rng(3), 0.05, gap=4)
    listed = np.isfinite(contradicted(labels, p[:, None]))
    assert (labels != truth)[listed].mean() > 0.8
    assert listed[labels != truth].mean() > 0.8


def test_one_class_has_no_noise_to_tell():
    parts = noise_parts([1, 1], [0.9, 0.8], ["a", "b"])
    assert np.isnan(float(parts.rates(np.ones((1, 2)))["noise"]))
    assert np.isnan(contradicted([1, 1], [[0.1], [0.9]])).all()
    assert np.isnan(float(noise_parts([], [], []).rates(np.ones((1, 0)))["noise"]))


@pytest.mark.parametrize(("p", "words"), [([0.5], "must be alike"), ([0.5, 1.2], "between 0 and 1")])
def test_what_is_no_probability_is_refused(p, words):
    with pytest.raises(ValueError, match=words):
        noise_parts([0, 1], p, [0, 1])


@pytest.mark.parametrize(("area", "positives"), [(0.85, 0.5), (0.95, 0.5), (0.9, 0.2)])
def test_noise_by_errors_is_that_of_a_simulated_network(area, positives):
    rng = np.random.default_rng(0)
    truth = rng.random(200_000) < positives
    gap = np.sqrt(2) * norm.ppf(area)
    p = expit(gap * rng.normal(np.where(truth, gap, -gap) / 2, 1) + logit(positives))
    simulated = float(noise_parts(truth, p, np.zeros(len(p))).rates(ONE)["noise"])
    assert noise_by_errors(area, positives) == pytest.approx(simulated, abs=0.004)


def test_noise_by_errors_falls_as_networks_get_better():
    rates = [noise_by_errors(area, 0.5) for area in (0.7, 0.8, 0.9, 0.99, 1.0)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 0
    assert np.isnan([noise_by_errors(0.4, 0.5), noise_by_errors(0.9, 0.0), noise_by_errors(np.nan, 0.5)]).all()
