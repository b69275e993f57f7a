from __future__ import annotations

import numpy as np
import pytest

from vitrail.metrics.calibration import equal_width, reliability
from vitrail.metrics.group_calibration import group_calibration


def simulated(seed, slides=12, tiles=50, shift=0.0):
    """Tiles of slides on which the truth is more or less frequent than is predicted, by `shift` on the logit scale."""
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(slides), tiles)
    logit = rng.normal(0, 1.5, len(owners))
    own = rng.normal(0, shift, slides)[owners]
    truth = rng.random(len(owners)) < 1 / (1 + np.exp(-logit - own))
    return truth, 1 / (1 + np.exp(-logit)), owners


def test_gaps_and_errors_are_those_of_each_group():
    truth, p, owners = simulated(0)
    found = group_calibration(truth, p, owners, seed=0, draws=50)
    for slide in range(12):
        own = owners == slide
        assert found.gap[slide] == pytest.approx(p[own].mean() - truth[own].mean())
        assert found.error[slide] == pytest.approx(reliability(truth[own], p[own], equal_width()).error)
    assert found.spread == pytest.approx(np.std(found.gap, ddof=1))
    assert found.count.tolist() == [50] * 12


def test_chance_is_the_binomial_one():
    truth, p, owners = simulated(1, slides=2, tiles=400)
    found = group_calibration(truth, p, owners, seed=0, draws=4000)
    for slide in range(2):
        own = p[owners == slide]
        error = np.sqrt((own * (1 - own)).sum()) / len(own)
        assert found.high[slide] - found.low[slide] == pytest.approx(2 * 1.96 * error, rel=0.06)


def test_chance_alone_is_seldom_taken_for_more():
    p = [group_calibration(*simulated(seed), seed=seed, draws=199).p for seed in range(300)]
    assert np.mean(np.array(p) < 0.05) < 0.09  # of 300, 0.05 would have a standard error of 0.013
    assert np.mean(np.array(p) < 0.5) == pytest.approx(0.5, abs=0.09)


def test_slides_that_differ_are_seen():
    found = group_calibration(*simulated(3, slides=30, tiles=80, shift=1.0), seed=0, draws=300)
    assert found.p < 0.01
    large, _, owners = simulated(4, slides=3000, tiles=80, shift=1.0)
    _, p, _ = simulated(4, slides=3000, tiles=80, shift=1.0)
    expected = group_calibration(large, p, owners, seed=0, draws=5).beyond
    assert found.beyond == pytest.approx(expected, rel=0.3)


def test_few_groups_have_no_spread():
    found = group_calibration([1, 0], [0.7, 0.4], ["S", "S"], seed=0, draws=9)
    assert np.isnan([found.spread, found.p, found.beyond]).all()
    assert found.gap[0] == pytest.approx(0.05)
    assert len(group_calibration([], [], [], seed=0, draws=9).gap) == 0
