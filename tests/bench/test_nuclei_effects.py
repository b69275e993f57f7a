from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_nuclei_effects", ROOT / "bench" / "nuclei_effects.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "bench_nuclei_effects", module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def pool(bench):
    return [bench.drawn_slide((7, number)) for number in range(8)]


def test_features_of_synthetic_slides_are_measured_as_drawn(pool):
    features = pd.concat([table for slide in pool for table in slide.features])
    assert np.isfinite(features.to_numpy()).all()
    assert 20 < features["area_um2"].median() < 30
    assert features["circularity"].max() <= 1
    assert (features["minor_axis_um"] <= features["major_axis_um"] + 1e-9).all()
    np.testing.assert_allclose(features["hematoxylin_sum"], features["area_um2"] * features["hematoxylin_mean"])


def test_intervals_cover_and_clean_cohorts_stay_clean(bench, pool):
    truth = bench.Population(pool, None, 0.0, patients=200)
    clean = bench.measure(truth, 6, cohorts=30, resamples=300)
    row = bench.summarise(clean, None)
    assert row["coverage"] > 0.93
    assert row["marginal_coverage"] > 0.93
    assert row["any_false"] <= 0.1


def test_what_is_planted_is_found(bench, pool):
    truth = bench.Population(pool, "hematoxylin_mean", 0.6, patients=200)
    planted = bench.measure(truth, 16, cohorts=10, resamples=500)
    row = bench.summarise(planted, "hematoxylin_mean")
    assert row["found"] >= 0.7
    assert row["found_alone"] >= 0.7
    assert row["false_a_finding"] <= 0.2


def test_a_cohort_is_drawn_from_its_seed(bench, pool):
    first, second = (bench.simulate(pool, np.random.default_rng(3), 4, "solidity", 0.5) for _ in range(2))
    assert (first.outcome == second.outcome).all()
    assert first.features.equals(second.features)
    assert len(np.unique(first.patients)) == 4
