"""Whether features tell sites apart."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from vitrail.shift.probe import PERMUTATIONS, _logistic, one_site, over_patients, probe, sites_of, within_patients


def cohort(seed, patients=12, slides=2, shift=0.0):
    """Slides of patients of two sites, whose features differ by patient and, by `shift`, by site."""
    rng = np.random.default_rng(seed)
    names = np.repeat([f"P{number}" for number in range(patients)], slides)
    labels = np.repeat(np.arange(patients) % 2, slides)
    features = np.repeat(rng.normal(size=(patients, 30)), slides, axis=0) + rng.normal(size=(len(names), 30))
    return features + shift * labels[:, None], labels, names


def test_the_regression_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    inputs = np.column_stack([rng.normal(size=(60, 3)), np.ones(60)])
    truth = (inputs[:, 0] + rng.normal(size=60) > 0.7).astype(float)
    reference = LogisticRegression(C=1.0, class_weight="balanced", tol=1e-10).fit(inputs[:, :3], truth)
    found = _logistic(inputs, truth[None])[0]
    np.testing.assert_allclose(found[:3], reference.coef_[0], atol=2e-3)
    assert found[3] == pytest.approx(reference.intercept_[0], abs=2e-3)


def test_sites_that_differ_are_told_apart():
    features, labels, names = cohort(0, shift=2.0)
    found = probe(features, labels, names, over_patients(labels, names, 0), 0)
    assert found.balanced_accuracy > 0.9
    assert found.p == pytest.approx(1 / (1 + PERMUTATIONS), abs=0.01)
    assert found.null_mean == pytest.approx(0.5, abs=0.1)
    assert found.null_high < found.balanced_accuracy


def test_where_sites_do_not_differ_p_values_are_uniform(monkeypatch):
    """Though slides of a patient are alike: whole patients are permuted."""
    monkeypatch.setattr("vitrail.shift.probe.PERMUTATIONS", 79)
    values = []
    for seed in range(60):
        features, labels, names = cohort(seed)
        values.append(probe(features, labels, names, over_patients(labels, names, seed), seed).p)
    assert np.mean(np.array(values) <= 0.05) < 0.12
    assert np.mean(values) == pytest.approx(0.5, abs=0.12)


def test_permutations_keep_patients_whole():
    _, labels, names = cohort(0, slides=3)
    for permuted in over_patients(labels, names, 0)[:20]:
        assert all(len(set(permuted[names == name].tolist())) == 1 for name in set(names.tolist()))
        assert permuted.sum() == labels.sum()
    pairs, owners = np.tile([0, 1], 6), np.repeat(np.arange(6), 2)
    assert (within_patients(pairs, owners, 0).reshape(PERMUTATIONS, 6, 2).sum(2) == 1).all()


def test_patients_of_two_sites_count_for_neither():
    patients, sites = ["A", "A", "B", "C", "D", "E"], ["x", "y", "x", "x", "", "y"]
    assert one_site(patients, sites) == {"B": "x", "C": "x", "E": "y"}
    assert sites_of(patients, sites, 2) == ["x"]
    assert sites_of(patients, sites, 1) == ["x", "y"]
