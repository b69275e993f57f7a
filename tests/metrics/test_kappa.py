from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from vitrail.metrics.kappa import cohen_kappa, fleiss_kappa


def tables(first, second, k):
    counts = np.zeros((len(first), k, k))
    counts[np.arange(len(first)), first, second] = 1
    return counts


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(8, 60))
def test_two_raters_agree_as_scikit_learn_says(seed, k, n):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, k, n)
    second = np.where(rng.random(n) < 0.6, first, rng.integers(0, k, n))
    value, low, high = cohen_kappa(tables(first, second, k), rng.integers(0, 6, n), seed=0)
    if len({*first, *second}) == 1:
        assert np.isnan(value)
        return
    assert value == pytest.approx(cohen_kappa_score(first, second), abs=1e-9)
    assert np.isnan(low) or low <= value <= high


FLEISS = np.array([
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
])  # fmt: skip
"""The usual worked example: ten cases, fourteen raters, five answers; kappa is 0.210."""


def test_many_raters_agree_as_in_the_worked_example():
    assert fleiss_kappa(FLEISS, np.arange(10), seed=0).value == pytest.approx(0.210, abs=5e-4)


def test_perfect_agreement_is_one_and_chance_is_none():
    rng = np.random.default_rng(0)
    same = np.eye(3)[rng.integers(0, 3, 90)] * 4
    assert fleiss_kappa(same, np.arange(90) % 9, seed=0).value == pytest.approx(1)
    blind = np.stack([np.bincount(rng.integers(0, 3, 4), minlength=3) for _ in range(3000)])
    value, low, high = fleiss_kappa(blind, np.arange(3000) % 30, seed=0)
    assert abs(value) < 0.03
    assert low < 0 < high


def test_cases_that_one_rater_saw_count_for_nothing():
    more = np.concatenate([FLEISS, np.eye(5)[[0, 0, 1]]])
    expected = fleiss_kappa(FLEISS, np.arange(10), seed=0).value
    assert fleiss_kappa(more, np.arange(13), seed=0).value == pytest.approx(expected)
    assert np.isnan(fleiss_kappa(np.eye(3), np.arange(3), seed=0).value)


@pytest.mark.parametrize("kind", ["cohen", "fleiss"])
def test_intervals_cover(kind):
    """Of cohorts whose kappa is known, patients differing in how hard they are: nearly all intervals hold it."""
    rng, truth, cohorts = np.random.default_rng(1), [], []
    for _ in range(120):
        care = rng.uniform(0.4, 0.95, 8).repeat(12)
        answers = [
            np.where(rng.random(96) < care, label, rng.integers(0, 2, 96))
            for label in [rng.integers(0, 2, 96)]
            for _ in range(3)
        ]
        if kind == "cohen":
            result = cohen_kappa(tables(answers[0], answers[1], 2), np.arange(96) // 12, seed=0)
        else:
            stacked = np.stack(answers)
            counts = np.stack([(stacked == answer).sum(0) for answer in (0, 1)], 1)
            result = fleiss_kappa(counts, np.arange(96) // 12, seed=0)
        cohorts.append(result)
        truth.append(result.value)
    inside = np.mean([low <= np.mean(truth) <= high for _, low, high in cohorts])
    assert inside >= 0.9
