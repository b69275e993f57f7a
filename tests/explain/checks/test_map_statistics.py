from __future__ import annotations

import numpy as np
import pytest

from vitrail.explain.checks.map_statistics import gini, likeness, shared

COHORTS = 200


def test_gini_of_known_maps():
    even, single = np.full((2, 5), 3.0), np.zeros((2, 5))
    single[1, 2] = -7
    ramp = np.arange(10.0).reshape(2, 5)
    pairs = np.abs(ramp.ravel()[:, None] - ramp.ravel()).mean() / (2 * ramp.mean())  # by its definition
    assert gini(np.stack([even, single, ramp])) == pytest.approx([0, 0.9, pairs])
    assert np.isnan(gini(np.zeros((1, 2, 5)))).all()


def test_likeness_is_the_mean_of_all_pairs():
    maps = np.random.default_rng(0).normal(size=(6, 4, 4)) + np.arange(16).reshape(4, 4) / 9
    pairs = np.corrcoef(maps.reshape(6, -1))
    expected = (pairs.sum(1) - 1) / 5
    assert likeness(maps) == pytest.approx(expected)
    with_flat = likeness(np.concatenate([maps, np.ones((1, 4, 4))]))
    assert with_flat[:6] == pytest.approx(expected)
    assert np.isnan(with_flat[6])
    assert np.isnan(likeness(maps[:1])).all()


def test_the_interval_of_what_maps_share_covers_it():
    """Maps are a common pattern, one of the patient's own, and noise; tiles of one patient share more."""
    rng, covered = np.random.default_rng(1), 0
    pattern = rng.normal(size=(1, 5, 5))
    owners = np.repeat([f"P{i}" for i in range(8)], 3)

    def cohort():
        own = rng.normal(0, 0.5, (8, 5, 5))[np.repeat(np.arange(8), 3)]
        return shared(likeness(rng.uniform(0, 2, (24, 1, 1)) * pattern + own + rng.normal(size=(24, 5, 5))), owners, 0)

    truth = np.mean([cohort().value for _ in range(COHORTS)])
    for _ in range(COHORTS):
        found = cohort()
        covered += found.low <= truth <= found.high
    assert covered >= 0.92 * COHORTS
