"""The bench of label noise plants what it says, and predicts no tile by a network that has seen its patient."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vitrail.metrics.scores import auc

PATH = Path(__file__).parents[2] / "bench" / "label_noise.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_label_noise", PATH)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "bench_label_noise", module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5])
def test_as_many_labels_are_turned_around_as_it_says(bench, rate):
    doubt = np.arange(1000.0)
    for place in bench.PLACES:
        turned = bench.plant(np.random.default_rng(0), doubt, rate, place)
        assert turned.sum() == 1000 * rate
        assert place == "uniform" or doubt[turned].min(initial=1000) >= 1000 * (1 - max(bench.BORDER, rate))


def test_a_perfect_network_finds_all_that_was_planted(bench):
    rng = np.random.default_rng(0)
    truth, _, owners, doubt = bench.simulate(rng, 2.0)
    turned = bench.plant(rng, doubt, 0.1, "uniform")
    scores = np.repeat(np.where(truth, 0.99, 0.01)[:, None], 2, axis=1)
    found = bench.judge(truth ^ turned, turned, scores, owners, 0)
    assert found.noise == pytest.approx(0.1, abs=0.01)
    assert (found.listed, found.found, found.covered) == (1, 1, True)


def test_no_regression_sees_the_patients_that_it_predicts(bench):
    """Features name the patient, and labels are the patient's: who had seen them would know, others know nothing."""
    rng = np.random.default_rng(1)
    patients = np.repeat([f"P{i}" for i in range(20)], 30)
    labels = np.repeat(rng.permutation(np.arange(20) < 10), 30)
    features = np.eye(20)[np.repeat(np.arange(20), 30)] * 5
    scores = bench.out_of_fold((features, features), labels, patients, rng)
    assert auc(labels, scores[:, 0]) <= 0.5


def test_a_tile_is_as_far_from_the_other_label_as_the_next_one(bench):
    rows = pd.DataFrame({
        "slide_id": ["A"] * 4 + ["B"], "x": [0.0, 10, 20, 30, 0], "y": 0.0, "side": 10.0,
        "label": ["tumor", "tumor", "non_tumor", "non_tumor", "tumor"],
    })  # fmt: skip
    assert bench.distance_to_other(rows).tolist() == [2, 1, 1, 2, np.inf]
