from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn import metrics as sk

from helpers.patients import simulate
from vitrail.metrics import scores
from vitrail.metrics.bootstrap import by_patient, interval, sample
from vitrail.metrics.per_patient import clustered_delong, jaccard_scores, mean_scores, tile_parts


def expected(truth, score, threshold, weights):
    """Return every score by scikit-learn, tiles weighted."""
    called, kept = score >= threshold, {"sample_weight": weights}
    nan = {"zero_division": np.nan}
    return {
        "accuracy": sk.accuracy_score(truth, called, **kept),
        "auc": sk.roc_auc_score(truth, score, **kept),
        "sensitivity": sk.recall_score(truth, called, **kept, **nan),
        "specificity": sk.recall_score(~truth, ~called, **kept, **nan),
        "precision": sk.precision_score(truth, called, **kept, **nan),
        "f1": sk.f1_score(truth, called, **kept, **nan),
        "brier": sk.brier_score_loss(truth, score, **kept),
    }


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.sampled_from([4, 50]))
def test_every_score_of_every_resample_is_scikit_learns(seed, patients, levels):
    rng = np.random.default_rng(seed)
    truth, owners = rng.random(60) < 0.5, rng.integers(0, patients, 60)
    score = rng.integers(0, levels + 1, 60) / levels  # ties
    owners[:patients] = np.arange(patients)
    weights = sample(patients, 4, seed)
    found = tile_parts(truth, score, owners, 0.4).scores(weights)
    for row, each in enumerate(weights):
        count = each[owners]
        if len(np.unique(truth[count > 0])) == 2:
            for name, value in expected(truth, score, 0.4, count).items():
                np.testing.assert_allclose(found[name].value[row], value, rtol=0, atol=1e-12, err_msg=name)


def test_the_influence_of_every_score_is_its_derivative():
    rng = np.random.default_rng(0)
    truth, score, _, owners = simulate(rng, 5)
    parts, weights, step = tile_parts(truth, score, owners, 0.5), sample(5, 3, 1) + 0.5, 1e-6
    found = parts.scores(weights)
    for patient in range(5):
        moved = parts.scores(weights + step * (np.arange(5) == patient))
        for name, drawn in found.items():
            slope = (moved[name].value - drawn.value) / step
            np.testing.assert_allclose(drawn.influence[:, patient], slope, rtol=1e-3, atol=1e-7, err_msg=name)


def test_the_calibration_error_is_the_one_written_as_a_loop():
    truth, score, _, owners = simulate(np.random.default_rng(3), 6)
    at = np.minimum((score * 10).astype(int), 9)
    looped = sum(abs(score[at == b].mean() - truth[at == b].mean()) * (at == b).mean() for b in np.unique(at))
    assert float(tile_parts(truth, score, owners, 0.5).scores(np.ones((1, 6)))["ece"]) == pytest.approx(
        looped, abs=1e-12
    )


def test_jaccard_is_scikit_learns_for_each_resample():
    rng = np.random.default_rng(1)
    truth, called, owners = rng.integers(0, 3, 400), rng.integers(0, 3, 400), np.arange(400) % 5
    matrices = by_patient(owners, [scores.confusion([a], [b], 4) for a, b in zip(truth, called, strict=True)])
    weights = sample(5, 6, 0)
    each, mean = jaccard_scores(matrices, weights)
    for row, count in enumerate(weights):
        jaccard = sk.jaccard_score(
            truth, called, labels=range(3), average=None, sample_weight=count[owners], zero_division=0
        )
        np.testing.assert_allclose([one.value[row] for one in each[:3]], jaccard, rtol=0, atol=1e-12)
        assert mean.value[row] == pytest.approx(jaccard.mean(), abs=1e-12)
    assert np.isnan(each[3].value).all()  # a class that nobody has


def test_scores_of_iterations_are_averaged():
    truth, first, second, owners = simulate(np.random.default_rng(5), 8)
    weights = sample(8, 20, 0)
    a, b = (tile_parts(truth, score, owners, 0.5) for score in (first, second))
    mean = mean_scores([a, b], weights)["auc"]
    np.testing.assert_allclose(mean.value, (a.scores(weights)["auc"].value + b.scores(weights)["auc"].value) / 2)


def test_one_class_and_no_tiles_are_undefined_without_a_warning():
    weights = sample(3, 10, 0)
    found = tile_parts([True] * 6, [0.6, 0.9, 0.4, 0.6, 0.7, 0.2], [0, 0, 1, 1, 2, 2], 0.5).scores(weights)
    assert np.isnan(float(found["auc"]))
    assert np.isnan(float(found["specificity"]))
    assert np.isfinite(interval(found["sensitivity"], weights)).all()
    none = tile_parts([], [], [], 0.5).scores(sample(0, 10, 0))
    assert np.isnan([float(one) for one in none.values()]).all()


@pytest.mark.parametrize("wrong", [([0, 1], [0.5], [1, 2]), ([0, 1], [0.5, 1.5], [1, 2]), ([0, 1], [0.5, 0.6], [1])])
def test_senseless_input_is_refused(wrong):
    with pytest.raises(ValueError, match=r"alike|between 0 and 1"):
        tile_parts(*wrong, 0.5)


@pytest.fixture(scope="module")
def truths():
    """The scores of a population, far larger than any cohort."""
    truth, first, second, _ = simulate(np.random.default_rng(99), 40_000)
    one = np.zeros(len(truth))
    found = [tile_parts(truth, score, one, 0.5).scores(np.ones((1, 1))) for score in (first, second)]
    return [{name: float(value) for name, value in side.items()} for side in found]


def test_intervals_cover_what_they_promise(truths):
    """500 cohorts of 50 patients who differ: 95 % intervals hold the population's value in 93 to 97 % of them."""
    rng, weights, runs = np.random.default_rng(11), sample(50, 250, 0), 500
    hits = {}
    for _ in range(runs):
        truth, first, second, owners = simulate(rng, 50)
        a, b = (tile_parts(truth, score, owners, 0.5).scores(weights) for score in (first, second))
        cases = {name: (drawn, truths[0][name]) for name, drawn in a.items() if name != "ece"}
        cases |= {
            f"{name} difference": (a[name] - b[name], truths[0][name] - truths[1][name])
            for name in ("accuracy", "auc", "brier")
        }
        for name, (drawn, true) in cases.items():
            low, high = interval(drawn, weights)
            hits[name] = hits.get(name, 0) + (low <= true <= high)
    covered = {name: count / runs for name, count in hits.items()}
    assert all(0.93 <= share <= 0.97 for share in covered.values()), covered


def test_two_thousand_resamples_of_every_figure_of_table_2_are_quick():
    """Five rows, 100 patients, 20,000 tiles: well under the ten seconds that are asked for."""
    rng = np.random.default_rng(0)
    truth, owners = rng.random(20_000) < 0.5, rng.integers(0, 100, 20_000)
    begun = time.process_time()
    weights = sample(100, 2000, 0)
    for _ in range(5):
        score = np.clip(0.3 * truth + 0.35 + rng.normal(0, 0.25, 20_000), 0, 1)
        ends = [interval(drawn, weights) for drawn in tile_parts(truth, score, owners, 0.5).scores(weights).values()]
        assert np.isfinite(ends).all()
    assert time.process_time() - begun < 5


def delong(truth, first, second):
    """DeLong's own test, tile by tile, written from the paper."""
    fields = []
    for score in (first, second):
        wins = (score[truth][:, None] > score[~truth]) + 0.5 * (score[truth][:, None] == score[~truth])
        fields.append((wins.mean(1), wins.mean(0), wins.mean()))
    (a10, a01, a), (b10, b01, b) = fields
    variance = np.var(a10 - b10, ddof=1) / truth.sum() + np.var(a01 - b01, ddof=1) / (~truth).sum()
    return 2 * norm.sf(abs(a - b) / np.sqrt(variance))


def test_with_one_tile_a_patient_the_clustered_test_is_delongs():
    truth, first, second, _ = simulate(np.random.default_rng(8), 12)
    owners = np.arange(len(truth))
    a, b = (tile_parts(truth, score, owners, 0.5) for score in (first, second))
    assert clustered_delong(a, b) == pytest.approx(delong(truth, first, second), rel=1e-9)


def test_the_clustered_test_knows_that_tiles_of_a_patient_resemble_each_other():
    truth, first, second, owners = (np.repeat(values, 5) for values in simulate(np.random.default_rng(8), 12))
    a, b = (tile_parts(truth, score, owners, 0.5) for score in (first, second))
    single = [tile_parts(truth[::5], score[::5], owners[::5], 0.5) for score in (first, second)]
    assert clustered_delong(a, b) == pytest.approx(clustered_delong(*single), rel=1e-9)
    assert delong(truth, first, second) < clustered_delong(a, b)


def test_the_clustered_test_needs_two_patients_and_a_difference():
    truth, first, _, owners = simulate(np.random.default_rng(8), 12)
    same = tile_parts(truth, first, owners, 0.5)
    assert np.isnan(clustered_delong(same, same))
    one = tile_parts(truth, first, np.zeros(len(truth)), 0.5)
    assert np.isnan(clustered_delong(one, one))
    none = tile_parts([], [], [], 0.5)
    assert np.isnan(clustered_delong(none, none))
