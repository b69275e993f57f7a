from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vitrail.explain.nuclei.partial_dependence import partial_dependence


def nuclei(patients=6, each=50, seed=0):
    rng = np.random.default_rng(seed)
    tile = np.repeat(np.arange(2 * patients), each)
    return rng.random(len(tile)), tile, tile // 2, rng


def test_bins_follow_a_curve_that_no_line_tells():
    feature, tile, patient, rng = nuclei(each=400)
    outcome = np.abs(feature - 0.5) + 50 * tile + 0.05 * rng.normal(size=len(tile))
    table = partial_dependence(feature, outcome, tile, patient)
    np.testing.assert_allclose(table["feature"], [0.1, 0.3, 0.5, 0.7, 0.9], atol=0.03)
    np.testing.assert_allclose(table["mean"], np.array([0.4, 0.2, 0.05, 0.2, 0.4]) - 0.25, atol=0.02)
    assert (table["low"] < table["mean"]).all()
    assert table.loc[2, "high"] < 0 < table.loc[4, "low"]
    assert table["nuclei"].tolist() == [960] * 5
    assert set(table["patients"]) == {6}


def test_levels_of_tiles_are_no_dependence():
    """Tiles of larger nuclei have a higher outcome; within them it is chance."""
    feature, tile, patient, rng = nuclei()
    table = partial_dependence(feature + tile, 3 * tile + rng.normal(size=len(tile)), tile, patient)
    assert ((table["low"] < 0) & (table["high"] > 0)).all()


def test_missing_values_and_small_tiles_are_left_out_and_ties_share_a_bin():
    feature = np.array([1.0, 2, 3, 4, np.nan, 7, 8, 5, 5, 5, 9])
    outcome = np.array([0.0, 1, 2, 3, 9, 1, 2, 0, 1, 2, 9])
    tile = np.array([0] * 5 + [1] * 2 + [2] * 4)
    table = partial_dependence(feature, outcome, tile, tile, bins=4)
    assert table["nuclei"].sum() == 8
    assert table["nuclei"].tolist() == [1, 4, 1, 2]
    assert table.loc[0, "mean"] == pytest.approx(-1.5)
    pd.testing.assert_frame_equal(
        partial_dependence([], [], [], [], bins=2)[["bin", "nuclei"]], pd.DataFrame({"bin": [0, 1], "nuclei": [0, 0]})
    )


def test_intervals_cover():
    inside = []
    for seed in range(60):
        feature, tile, patient, rng = nuclei(each=25, seed=seed)
        slope = 1 + 0.5 * rng.normal(size=6)[patient]
        outcome = slope * feature + 0.3 * rng.standard_t(3, len(tile)) + rng.normal(size=12)[tile]
        table = partial_dependence(feature, outcome, tile, patient)
        inside.append(table.loc[4, "low"] < 0.4 < table.loc[4, "high"])
    assert np.mean(inside) >= 0.9
