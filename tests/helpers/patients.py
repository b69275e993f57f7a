"""Simulated patients: they differ in how hard their tiles are, and in how many of them are tumor."""

from __future__ import annotations

import numpy as np


def simulate(rng, patients, tiles=24):
    """Return truth, the probabilities of two networks that err alike, and the patient of each tile."""
    owners = np.repeat(np.arange(patients), rng.integers(tiles // 2, tiles * 3 // 2, patients))
    n = len(owners)
    truth = rng.random(n) < rng.beta(2, 2, patients)[owners]
    hard, gain = rng.normal(0, 0.8, patients), 2.4 + rng.normal(0, 0.6, patients)
    common = hard[owners] + gain[owners] * (truth - 0.5) + rng.normal(0, 0.8, n)
    own = rng.normal(0, 0.5, patients)
    first = common + rng.normal(0, 0.6, n)
    second = 0.8 * common + own[owners] + rng.normal(0, 0.7, n)
    return truth, *(1 / (1 + np.exp(-1.6 * logit)) for logit in (first, second)), owners
