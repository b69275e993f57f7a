from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vitrail.explain.nuclei.regression import coefficients, design, outcome_scores


@pytest.mark.parametrize("kind", ["", "marginal_"])
def test_influence_is_the_derivative_by_the_weights(kind):
    rng, tile = np.random.default_rng(0), np.repeat(np.arange(15), 12)
    patient, table = tile // 3, pd.DataFrame(rng.normal(size=(180, 3)), columns=["size", "dark", "rough"])
    ready = design(table, tile, patient)
    outcome = outcome_scores(table["size"] - 0.5 * table["rough"] + rng.normal(size=len(tile)), ready.tiles)
    weights, step = rng.integers(1, 4, (3, 5)).astype(float), 1e-6
    drawn = coefficients(ready, outcome, weights)[kind]
    for owner in range(5):
        more = coefficients(ready, outcome, weights + step * (np.arange(5) == owner))[kind]
        for after, before in zip(more, drawn, strict=True):
            slope = (after.value - before.value) / step
            np.testing.assert_allclose(slope, before.influence[:, owner], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("scale", ["rank", "winsorised", "plain"])
def test_levels_of_tiles_do_not_count_in_any_scale(scale):
    tile, rng = np.repeat(np.arange(24), 30), np.random.default_rng(0)
    values = rng.standard_t(2, len(tile))
    moved = values + 100 * rng.normal(size=24)[tile]
    np.testing.assert_allclose(outcome_scores(values, tile, scale), outcome_scores(moved, tile, scale), atol=1e-9)
    assert np.abs(np.bincount(tile, outcome_scores(moved, tile, scale))).max() < 1e-6


def test_ranks_make_tiles_alike_whatever_their_scale():
    rng, tile = np.random.default_rng(2), np.repeat([0, 1], 50)
    values = np.exp(3 * rng.normal(size=100)) * np.where(tile == 0, 1, 1e6)
    scores = outcome_scores(values, tile)
    np.testing.assert_allclose(np.sort(scores[:50]), np.sort(scores[50:]), atol=1e-12)
    assert np.abs(scores).max() < 3
    values[3] = np.nan
    assert outcome_scores(values, tile)[3] == 0


def test_winsorising_cuts_both_tails():
    values = np.append(np.linspace(-1, 1, 98), [1e6, -1e6])
    scores = outcome_scores(values, np.zeros(100, int), "winsorised")
    assert np.abs(scores).max() < 1.1
    assert outcome_scores(values, np.zeros(100, int), "plain").max() > 9e5
    assert outcome_scores([], np.zeros(0, int), "winsorised").shape == (0,)
