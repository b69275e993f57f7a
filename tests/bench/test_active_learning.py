"""The simulation of active learning trains on what was judged and outlined, and on nothing else."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

PATH = Path(__file__).parents[2] / "bench" / "active_learning.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_active_learning", PATH)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "bench_active_learning", module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def tiles(bench):
    """Make a cohort of 8 slides whose first feature says what a tile is, but for noise."""
    rng = np.random.default_rng(0)
    truth = rng.random(240) < 0.5
    features = rng.normal(size=(240, 16, 60))
    features[..., 0] += 4 * truth[:, None] - 2
    outlined = np.zeros((240, 16, 2))
    outlined[truth, :, 0] = outlined[~truth, :, 1] = 1
    return bench.Tiles(
        slide=np.repeat(np.arange(8), 30), features=features, finer=features[..., ::-1], truth=truth, outlined=outlined
    )


def test_a_fit_is_the_best_there_is(bench):
    rng = np.random.default_rng(1)
    features, weight = rng.normal(size=(80, 3)), rng.uniform(0.1, 1, 80)
    target = expit(features @ [1, -2, 0.5] + 0.3)

    def loss(w):
        p = expit(features @ w[:3] + w[3])
        ridge = bench.RIDGE / 2 * (w[:3] ** 2).sum() + 0.5e-3 * w[3] ** 2
        return -(weight * (target * np.log(p) + (1 - target) * np.log1p(-p))).sum() + ridge

    best = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-8}).x
    np.testing.assert_allclose(bench.fit(features, target, weight), best, atol=1e-5)


@pytest.mark.parametrize("own_eyes", [False, True])
def test_outlines_that_are_held_back_are_not_learnt_from(bench, tiles, own_eyes):
    learner = bench.Learner(tiles, 0, 1, own_eyes=own_eyes)
    assert not (learner.is_pool & learner.is_test).any()
    assert learner.is_outlined.sum() == 30
    before = learner.scores(np.array([], np.int64))
    tiles.outlined[learner.is_pool] = tiles.outlined[learner.is_pool, :, ::-1]
    np.testing.assert_array_equal(learner.scores(np.array([], np.int64)), before)
    judged = np.flatnonzero(learner.is_pool)[:5]
    assert not np.array_equal(learner.scores(judged), before)


def test_each_round_judges_others(bench, tiles):
    learner = bench.Learner(tiles, 0, 1, own_eyes=False)
    for order in bench.RUN_ORDERS:
        curve = learner.curve(order, 3, 8, (0, 0))
        assert [row["judged"] for row in curve] == [0, 8, 16, 24]
        assert curve[-1]["auc"] > 0.9


def test_errors_are_sought_where_outlines_say_something(bench, tiles):
    outlined = tiles.outlined.copy()
    learner = bench.Learner(tiles, 0, 1, own_eyes=False)
    silent = np.flatnonzero(learner.is_pool)[20:]
    outlined[silent] = 0
    blind = bench.Learner(replace(tiles, outlined=outlined), 0, 1, own_eyes=False)
    blind.is_outlined, blind.is_pool, blind.is_test = learner.is_outlined, learner.is_pool, learner.is_test
    chosen = []
    blind.scores = lambda judged: chosen.append(judged) or np.full((240, 2), 0.5)
    blind.curve("errors", 2, 8, (0, 0))
    assert not set(chosen[-1]) & set(silent)
