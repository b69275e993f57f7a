from __future__ import annotations

import numpy as np
import pytest

from helpers.patients import simulate
from vitrail.metrics.bootstrap import (
    Drawn,
    by_patient,
    crossed_estimate,
    estimate,
    interval,
    p_value,
    ratio,
    sample,
    standard_error,
)
from vitrail.metrics.scores import divided


def test_the_first_row_is_the_cohort_and_the_others_are_drawn():
    weights = sample(7, 50, 3)
    assert weights.shape == (51, 7)
    assert (weights[0] == 1).all()
    assert (weights.sum(1) == 7).all()
    assert np.array_equal(weights, sample(7, 50, 3))
    assert not np.array_equal(weights, sample(7, 50, 4))
    assert sample(0, 5, 3).shape == (6, 0)


def test_parts_are_added_by_patient():
    sums = by_patient(["b", "a", "b"], [[1, 2], [3, 4], [5, 6]])
    assert sums.tolist() == [[3, 4], [6, 8]]


def test_the_influence_is_the_derivative_by_the_weights():
    rng = np.random.default_rng(0)
    part, whole = rng.random(6), rng.integers(1, 9, 6).astype(float)
    weights = rng.integers(1, 4, (4, 6)).astype(float)
    step = 1e-6
    for patient in range(6):
        more = weights + step * (np.arange(6) == patient)
        slope = (ratio(part, whole, more).value - ratio(part, whole, weights).value) / step
        np.testing.assert_allclose(slope, ratio(part, whole, weights).influence[:, patient], rtol=1e-4, atol=1e-8)


def test_the_interval_of_a_mean_is_students():
    values = np.random.default_rng(2).normal(3, 2, 200)
    weights = sample(200, 4000, 0)
    mean = ratio(values, np.ones(200), weights, "plain")
    low, high = interval(mean, weights)
    half = 1.972 * values.std(ddof=1) / np.sqrt(200)
    assert (high - low) / 2 == pytest.approx(half, rel=0.05)
    assert (low + high) / 2 == pytest.approx(values.mean(), rel=1e-12)
    assert standard_error(mean, weights)[0] == pytest.approx(values.std() / np.sqrt(200))


@pytest.mark.parametrize(("scale", "ends"), [("share", (0, 1)), ("correlation", (-1, 1))])
def test_intervals_stay_where_the_statistic_can_be(scale, ends):
    weights = sample(6, 500, 1)
    part = {"share": np.array([9, 10, 10, 10, 10, 6.0]), "correlation": np.array([9.9, 9, 10, 9.8, 9.9, 9.0])}[scale]
    low, high = interval(ratio(part, np.full(6, 10.0), weights, scale), weights)
    assert ends[0] <= low < part.sum() / 60 < high <= ends[1]


def test_p_is_below_five_percent_where_the_interval_excludes_zero():
    rng = np.random.default_rng(4)
    for shift in np.linspace(0, 1.2, 25):
        values, weights = rng.normal(shift, 1, 14), sample(14, 999, 5)
        mean = ratio(values, np.ones(14), weights, "plain")
        low, high = interval(mean, weights)
        assert (p_value(mean, weights) < 0.05) == (not low <= 0 <= high)


def test_under_the_null_p_is_uniform():
    rng = np.random.default_rng(6)
    weights = sample(20, 399, 7)
    found = [p_value(ratio(rng.normal(size=20), np.ones(20), weights, "plain"), weights) for _ in range(600)]
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(found) < level) == pytest.approx(level, abs=3.5 * np.sqrt(level * (1 - level) / 600))


def test_where_patients_say_nothing_there_is_no_interval():
    one, many = sample(1, 20, 0), sample(5, 20, 0)
    undefined = [
        (ratio([3.0], [4.0], one), one),
        (ratio(np.ones(5), np.ones(5), many), many),  # nobody differs
        (ratio(np.ones(5), np.zeros(5), many), many),  # undefined
    ]
    for drawn, weights in undefined:
        assert np.isnan(interval(drawn, weights)).all()
        assert np.isnan(p_value(drawn, weights))


def test_two_patients_are_no_reason_to_fail():
    weights = sample(2, 100, 0)
    low, high = interval(ratio([3.0, 4.0], [5.0, 5.0], weights), weights)
    assert 0 <= low < 0.3
    assert 0.95 < high <= 1


def test_sums_and_differences_are_paired():
    weights = sample(9, 50, 0)
    first = ratio(np.arange(9.0), np.ones(9), weights)
    gap = first - first
    assert not gap.value.any()
    assert not gap.influence.any()
    half = (first + first).over(4)
    np.testing.assert_allclose(half.value, first.value / 2)
    assert half.scale == first.scale
    assert float(first) == 4


def test_division_by_zero_is_nan_without_a_warning():
    assert divided(np.array([1.0, 2.0]), np.array([0.0, 4.0])).tolist() == pytest.approx([np.nan, 0.5], nan_ok=True)


def test_an_estimate_is_a_ratio_of_sums_with_its_interval():
    values, owners = np.array([1.0, 4, 2, 7, 5, 3]), np.array(["a", "b", "a", "c", "b", "c"])
    areas, weights = np.array([2.0, 3, 1, 4, 2, 2]), sample(3, 2000, 7)
    drawn = ratio([3, 9, 10], [3, 5, 6], weights, "plain")
    assert estimate(values, areas, owners, 7) == (22 / 14, *interval(drawn, weights))
    assert estimate(values, 1, owners, 7).value == pytest.approx(values.mean())
    assert estimate(values[:1], 1, owners[:1], 7).json == [1.0, None, None]
    assert estimate([], 1, [], 7).json == [None, None, None]


def test_reaches_over_patients_and_draws_add_up_in_squares():
    rng = np.random.default_rng(8)
    values, (tiles, shared) = rng.normal(size=30), np.divmod(np.arange(30), 5)
    found = crossed_estimate(values, tiles, shared, 0)
    reaches = [estimate(values, 1, units, 0).high - values.mean() for units in (tiles, shared)]
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.value == pytest.approx(np.hypot(*reaches))
    assert found.value - found.low == pytest.approx(np.hypot(*reaches))
    assert crossed_estimate(values, tiles, 0 * shared, 0).json[1:] == [None, None]  # one draw tells nothing


def tiles_of(rng, patients):
    """Values around 0 of patients who differ and have from two tiles to many; and whose they are."""
    owners = np.repeat(np.arange(patients), rng.integers(2, 40, patients))
    return 0.05 * rng.normal(size=patients)[owners] + 0.1 * rng.normal(size=len(owners)), owners


@pytest.mark.parametrize("patients", [2, 3, 5, 11, 21])
def test_intervals_of_means_cover_what_they_promise_however_few_patients(patients):
    """What percentiles cover is 0.50, 0.75, 0.83, 0.91 and 0.93."""
    rng, weights, hits = np.random.default_rng([3, patients]), sample(patients, 400, 0), 0
    for _ in range(400):
        values, owners = tiles_of(rng, patients)
        mean = ratio(np.bincount(owners, values), np.bincount(owners), weights, "plain")
        low, high = interval(mean, weights)
        hits += low <= 0 <= high
    assert 0.91 <= hits / 400 <= 0.99


@pytest.mark.parametrize(("patients", "shared"), [(3, 2), (3, 8), (5, 4), (21, 2), (21, 8)])
def test_intervals_over_patients_and_draws_cover_what_they_promise(patients, shared):
    """Patients, draws and both together differ; the bootstrap of both at once covers 0.7 to 0.9."""
    rng, hits = np.random.default_rng([patients, shared]), 0
    for _ in range(200):
        values, owners = tiles_of(rng, patients)
        together = 0.02 * rng.normal(size=(patients, shared)) + 0.05 * rng.normal(size=shared)
        all_values = values[:, None] + together[owners] + 0.05 * rng.normal(size=(len(values), shared))
        owner, draw = np.repeat(owners, shared), np.tile(np.arange(shared), len(owners))
        found = crossed_estimate(all_values.ravel(), owner, draw, 0)
        hits += found.low <= 0 <= found.high
    assert hits / 200 >= 0.92


def test_percentiles_would_be_too_narrow_for_few_patients():
    """The reason for the studentised bootstrap: what plain percentiles cover with 11 patients."""
    rng, weights = np.random.default_rng(1), sample(11, 300, 0)
    true = simulate(np.random.default_rng(2), 20_000)
    right = ((true[1] >= 0.5) == true[0]).mean()
    hits = np.zeros(2)
    for _ in range(400):
        truth, score, _, owners = simulate(rng, 11)
        tiles = np.bincount(owners).astype(float)
        drawn = ratio(np.bincount(owners, (score >= 0.5) == truth), tiles, weights)
        ends = np.quantile(drawn.value[1:], (0.025, 0.975)), interval(drawn, weights)
        hits += [low <= right <= high for low, high in ends]
    percentile, ours = hits / 400
    assert percentile < 0.93
    assert 0.93 <= ours <= 0.975


def test_scales_are_kept():
    assert Drawn(value=np.zeros(1), influence=np.zeros((1, 1))).scale == "plain"
