"""The bench of explanations measures what it says, on scores whose truth can be written down."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

PATH = Path(__file__).parents[2] / "bench" / "explanations.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_explanations", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    present = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    absent = present.copy()
    absent[3:15, 5:11] = rng.integers(0, 256, (12, 6, 3), dtype=np.uint8)
    return present, absent


def test_effects_of_a_linear_score_are_its_own_terms(bench, pair):
    """They add up to the reliance, block by block what the weights say."""
    present, absent = pair
    weights = np.random.default_rng(1).normal(size=present.shape)
    effects = bench.swap_effects(lambda images: (images * weights).sum((1, 2, 3)), present, absent)
    terms = ((present.astype(float) - absent) * weights).sum(2).reshape(12, 2, 12, 2).sum((1, 3)).ravel()
    np.testing.assert_allclose(effects, terms, atol=1e-8)
    assert effects.sum() == pytest.approx((weights * present).sum() - (weights * absent).sum())


def test_equal_images_have_no_effect_and_nothing_that_moves_the_score(bench, pair):
    effects = bench.swap_effects(lambda images: images.sum((1, 2, 3)).astype(float), pair[0], pair[0])
    assert not effects.any()
    assert not bench.movers(effects).any()


def test_movers_are_the_fewest_that_carry_the_share(bench):
    assert bench.movers(np.array([1.0, 5.0, -9.0, 3.0, 1.0])).tolist() == [False, True, False, True, False]
    assert bench.movers(np.array([0.0, 2.0, 0.0])).tolist() == [False, True, False]


def test_auroc_is_that_of_scikit_learn(bench):
    rng = np.random.default_rng(2)
    values, truth = rng.integers(0, 5, 60).astype(float), rng.random(60) < 0.3
    assert bench.auroc(values, truth) == pytest.approx(roc_auc_score(truth, values))
    assert np.isnan(bench.auroc(values, np.zeros(60, bool)))


def test_the_influence_of_a_slide_on_the_correlation_is_its_derivative(bench, monkeypatch):
    rng = np.random.default_rng(3)
    x, slides = rng.normal(size=40), np.repeat(np.arange(8), 5)
    y = x + rng.normal(size=40)
    assert bench.pearson(x, y, slides).value == pytest.approx(np.corrcoef(x, y)[0, 1])
    step = 1e-6
    weights = np.ones((2, 8))
    weights[1, 3] += step
    drawn = []
    monkeypatch.setattr(bench, "sample", lambda *_: weights)
    monkeypatch.setattr(bench, "interval", lambda each, _: drawn.append(each) or (0.0, 0.0))
    bench.pearson(x, y, slides)
    value, influence = drawn[0].value, drawn[0].influence
    assert (value[1] - value[0]) / step == pytest.approx(influence[0, 3], abs=1e-4)


def test_floors_know_the_image_alone(bench, pair):
    images = np.stack(pair)
    floors = bench.floors(images)
    assert set(floors) == set(bench.FLOORS)
    assert all(np.array_equal(maps[1:], bench.floors(images[1:])[name]) for name, maps in floors.items())
