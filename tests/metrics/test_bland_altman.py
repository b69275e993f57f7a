from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr

from vitrail.metrics.bland_altman import pair_parts
from vitrail.metrics.bootstrap import interval, sample


def made_up(rng, patients=12, each=3):
    owners = np.repeat(np.arange(patients), each)
    y = rng.random(len(owners))
    return 0.1 + 0.8 * y + rng.normal(0, 0.1, patients)[owners] + rng.normal(0, 0.05, len(owners)), y, owners


def test_bias_limits_and_correlation_are_those_of_the_pairs():
    x, y, owners = made_up(np.random.default_rng(0))
    found = {name: float(one) for name, one in pair_parts(x, y, owners).scores(np.ones((1, 12))).items()}
    gap, spread = (x - y).mean(), (x - y).std(ddof=1)
    assert found == pytest.approx(
        {"bias": gap, "lower": gap - 1.96 * spread, "upper": gap + 1.96 * spread, "pearson": pearsonr(x, y).statistic},
        rel=1e-10,
    )


def test_resamples_are_repeated_pairs():
    x, y, owners = made_up(np.random.default_rng(1))
    weights = sample(12, 8, 0)
    found = pair_parts(x, y, owners).scores(weights)
    for row, count in enumerate(weights):
        a, b = (np.repeat(values, count[owners].astype(int)) for values in (x, y))
        assert found["pearson"].value[row] == pytest.approx(pearsonr(a, b).statistic, rel=1e-9)
        assert found["upper"].value[row] == pytest.approx((a - b).mean() + 1.96 * (a - b).std(ddof=1), rel=1e-9)


def test_the_influence_is_the_derivative():
    x, y, owners = made_up(np.random.default_rng(2), 6)
    parts, weights, step = pair_parts(x, y, owners), sample(6, 4, 0) + 50.0, 1e-5  # so many that n - 1 is n
    found = parts.scores(weights)
    for patient in range(6):
        moved = parts.scores(weights + step * (np.arange(6) == patient))
        for name, drawn in found.items():
            slope = (moved[name].value - drawn.value) / step
            np.testing.assert_allclose(drawn.influence[:, patient], slope, rtol=0.02, atol=2e-6, err_msg=name)


def test_what_does_not_vary_has_no_correlation():
    weights = sample(4, 20, 0)
    found = pair_parts([0.5] * 4, [0.1, 0.2, 0.3, 0.4], range(4)).scores(weights)
    assert np.isnan(float(found["pearson"]))
    assert np.isnan(interval(found["pearson"], weights)).all()
    assert float(found["bias"]) == pytest.approx(0.25)
    one = pair_parts([0.5], [0.4], [0]).scores(sample(1, 5, 0))
    assert np.isnan(float(one["upper"]))
    assert np.isnan([float(drawn) for drawn in pair_parts([], [], []).scores(sample(0, 5, 0)).values()]).all()


def test_intervals_cover_what_they_promise():
    rng, weights, runs = np.random.default_rng(5), sample(40, 300, 0), 400
    x, y, _ = made_up(np.random.default_rng(6), 60_000)
    true = {name: float(one) for name, one in pair_parts(x, y, np.zeros(len(x))).scores(np.ones((1, 1))).items()}
    hits = dict.fromkeys(true, 0)
    for _ in range(runs):
        for name, drawn in pair_parts(*made_up(rng, 40)).scores(weights).items():
            low, high = interval(drawn, weights)
            hits[name] += low <= true[name] <= high
    assert all(0.925 <= count / runs <= 0.975 for count in hits.values()), hits
