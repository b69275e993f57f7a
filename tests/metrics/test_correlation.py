from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import pearsonr

from vitrail.metrics.correlation import bin_of, histogram, mode, pearson


def test_pearson_is_scipys_for_each_pair():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 5, 4, 6))
    expected = [
        [pearsonr(x.ravel(), y.ravel()).statistic for x, y in zip(*row, strict=True)] for row in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(pearson(a, b), expected, atol=1e-14)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e-200, 1e200])
def test_a_weak_map_correlates_like_a_strong_one(scale):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 7, 7))
    np.testing.assert_allclose(pearson(a * scale, b), pearson(a, b), rtol=1e-12)
    np.testing.assert_allclose(pearson(-a * scale, a), -1, rtol=1e-12)


def test_constant_maps_have_no_correlation():
    ramp = np.arange(12.0).reshape(3, 4)
    flat = np.full((3, 4), 0.1)
    flat[1, 1] += 1e-16
    found = pearson(np.stack([ramp, flat, np.zeros((3, 4)), ramp]), np.stack([ramp, ramp, ramp, flat]))
    assert np.isnan(found).tolist() == [False, True, True, True]
    assert found[0] == 1


@pytest.mark.parametrize(("a", "b"), [((2, 3, 3), (2, 3, 4)), ((3,), (3,))])
def test_pearson_needs_maps_of_one_shape(a, b):
    with pytest.raises(ValueError, match="must be"):
        pearson(np.ones(a), np.ones(b))


def test_pearson_refuses_what_is_not_finite():
    with pytest.raises(ValueError, match="not finite"):
        pearson([[1.0, np.nan]], [[1.0, 2.0]])


def test_the_papers_mode_correlations_are_centres_of_thirty_bins():
    centres = [mode([low + 1 / 30]) for low in np.linspace(-1, 1, 31)[:-1]]
    assert {f"{100 * centre:.2f}" for centre in centres} >= {"70.00", "36.67", "23.33", "56.67"}
    assert mode([0.71, 0.69, 0.68, 0.2, -0.9, np.nan]) == pytest.approx(0.7)


def test_of_equally_full_bins_the_lower_is_the_mode():
    assert mode([0.9, -0.5]) == pytest.approx(-0.5, abs=1 / 30)
    assert mode([1.0]) == pytest.approx(1 - 1 / 30)
    assert np.isnan(mode([]))
    assert np.isnan(mode([np.nan]))


@given(arrays(np.float64, st.integers(0, 40), elements=st.floats(-1, 1)))
def test_histogram_is_numpys(values):
    assert histogram(values).tolist() == np.histogram(values, 30, (-1, 1))[0].tolist()


def test_values_outside_the_bins_are_refused():
    with pytest.raises(ValueError, match="not between -1 and 1"):
        bin_of([0.5, 1.5])
