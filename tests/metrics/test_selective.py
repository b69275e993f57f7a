from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from helpers.patients import simulate
from vitrail.metrics.bootstrap import interval, sample
from vitrail.metrics.selective import LEVELS, SelectiveParts, binned_parts, kept_for, selective_parts

ONE = np.ones((1, 1))


def area(wrong, certainty):
    return float(selective_parts(wrong, certainty, np.zeros(len(wrong))).area(ONE))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_three_orders_have_areas_in_closed_form(rate):
    wrong = np.arange(200) < 200 * rate
    ideal = rate + ((1 - rate) * np.log(1 - rate) if rate < 1 else 0)
    parts = selective_parts(wrong, ~wrong, np.zeros(200))
    assert float(parts.area(ONE)) == pytest.approx(ideal, abs=1e-12)
    assert float(parts.ideal(ONE)) == pytest.approx(ideal, abs=1e-12)
    assert float(parts.excess(ONE)) == pytest.approx(0, abs=1e-12)
    assert area(wrong, np.zeros(200)) == pytest.approx(rate)  # all equal: chance
    backwards = 1.0 if rate == 1 else -rate * np.log(rate) + rate if rate else 0.0  # all errors first
    assert area(wrong, wrong) == pytest.approx(backwards, abs=1e-12)


def test_it_is_the_integral_of_the_curve():
    rng = np.random.default_rng(0)
    wrong, certainty = rng.random(60) < 0.3, rng.integers(0, 9, 60)
    levels = [(np.sum(certainty == c), np.sum(wrong[certainty == c])) for c in range(8, -1, -1)]

    def risk(share):
        left, errors = share * 60, 0.0
        for own, bad in levels:
            taken = min(own, left)
            errors, left = errors + bad * taken / own, left - taken
        return errors / (share * 60)

    edges = np.cumsum([0, *[own for own, _ in levels]]) / 60
    expected = sum(quad(risk, a, b)[0] for a, b in pairwise(edges))
    assert area(wrong, certainty) == pytest.approx(expected, abs=1e-8)


def test_it_is_close_to_the_mean_over_whole_elements():
    rng = np.random.default_rng(1)
    certainty = rng.random(400)
    wrong = rng.random(400) < 0.5 - 0.4 * certainty
    order = np.argsort(-certainty)
    discrete = np.mean(np.cumsum(wrong[order]) / np.arange(1, 401))
    assert area(wrong, certainty) == pytest.approx(discrete, abs=0.004)


@given(st.integers(0, 10_000))
def test_influences_are_derivatives(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, (4, 6)).astype(float)
    counts[:, 0] += 1  # no sample lacks its first level
    parts = SelectiveParts(counts=counts, errors=np.floor(counts * rng.random((4, 6))))
    weights = rng.integers(0, 3, (1, 4)) + 1.0
    for measure in (parts.area, parts.ideal, parts.risk, parts.excess):
        found = measure(weights).influence[0]
        for patient in range(4):
            step = np.eye(4)[patient] * 1e-6
            slope = (float(measure(weights + step)) - float(measure(weights - step))) / 2e-6
            assert found[patient] == pytest.approx(slope, abs=1e-6)


def test_patients_that_were_drawn_twice_count_twice():
    rng = np.random.default_rng(2)
    wrong, certainty, owners = rng.random(90) < 0.3, rng.integers(0, 20, 90), np.repeat(np.arange(3), 30)
    drawn = selective_parts(wrong, certainty, owners).area(np.array([[1.0, 1, 1], [2, 0, 1]]))
    again = np.concatenate([np.arange(30), np.arange(30), np.arange(60, 90)])
    assert drawn.value[1] == pytest.approx(area(wrong[again], certainty[again]), abs=1e-12)


def test_a_level_that_no_patient_of_a_sample_has_changes_nothing():
    parts = SelectiveParts(counts=np.array([[3.0, 0, 2], [0, 4, 0]]), errors=np.array([[0.0, 0, 2], [0, 1, 0]]))
    found = parts.area(np.array([[1.0, 0], [0, 1]]))
    assert found.value.tolist() == pytest.approx([area([0, 0, 0, 1, 1], [1, 1, 1, 0, 0]), 0.25])
    assert np.isfinite(found.influence).all()


def test_many_certainties_are_put_together_without_harm():
    rng = np.random.default_rng(3)
    certainty = rng.random(5 * LEVELS)
    wrong = rng.random(5 * LEVELS) < 0.5 - 0.45 * certainty
    parts = selective_parts(wrong, certainty, np.zeros(5 * LEVELS))
    assert parts.counts.shape[1] <= LEVELS
    discrete = np.mean(np.cumsum(wrong[np.argsort(-certainty)]) / np.arange(1, 5 * LEVELS + 1))
    assert float(parts.area(ONE)) == pytest.approx(discrete, abs=0.002)


def test_bins_of_pixels_are_levels():
    parts = binned_parts([[4, 6], [0, 10]], [[1, 6], [0, 5]], ["b", "a"])
    assert parts.counts.tolist() == [[10, 0], [6, 4]]
    assert parts.errors.tolist() == [[5, 0], [0, 3]]


def test_the_limit_keeps_as_many_as_it_can():
    wrong, certainty = np.array([0, 0, 0, 1, 0, 1]), np.array([6, 5, 4, 3, 3, 1])
    assert kept_for(wrong, certainty, 1.0) == 4
    assert kept_for(wrong, certainty, 0.8) == 3  # the two equals together
    assert kept_for(wrong, certainty, 0.6) == 1
    assert np.isnan(kept_for([1, 1], [2, 1], 0.9))
    assert np.isnan(kept_for([], [], 0.9))


def test_intervals_cover():
    """Simulated cohorts of 12 patients; the truth is that of very many."""

    def parts_of(rng, patients):
        truth, first, second, owners = simulate(rng, patients)
        wrong = (first >= 0.5) != truth
        return [selective_parts(wrong, each, owners) for each in (np.abs(first - 0.5), -np.abs(first - second))]

    large = parts_of(np.random.default_rng(99), 4000)
    everyone = np.ones((1, 4000))
    true_areas = [float(each.area(everyone)) for each in large]
    truths = [*true_areas, true_areas[1] - true_areas[0], float(large[0].excess(everyone))]
    weights, covered = sample(12, 300, 0), np.zeros(4)
    for seed in range(200):
        own = parts_of(np.random.default_rng(seed), 12)
        areas = [each.area(weights) for each in own]
        drawn = [*areas, areas[1] - areas[0], own[0].excess(weights)]
        ends = [interval(each, weights) for each in drawn]
        covered += [low <= value <= high for (low, high), value in zip(ends, truths, strict=True)]
    assert (covered / 200 > 0.9).all(), covered / 200


@pytest.mark.parametrize(
    ("wrong", "certainty", "words"), [([0, 1], [0.1], "must be alike"), ([0], [np.nan], "not a number")]
)
def test_what_cannot_be_ordered_is_refused(wrong, certainty, words):
    with pytest.raises(ValueError, match=words):
        selective_parts(wrong, certainty, np.zeros(len(wrong)))
