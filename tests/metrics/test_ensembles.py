from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from helpers.patients import simulate
from vitrail.metrics.ensembles import cross_stacked, stacked, voting


@pytest.fixture(scope="module")
def tiles():
    truth, first, second, owners = simulate(np.random.default_rng(0), 10)
    return np.column_stack([first, second]), truth, owners


def test_voting_is_the_mean():
    assert voting([[0.2, 0.6], [1, 0]]).tolist() == [0.4, 0.5]


def test_stacking_is_a_logistic_regression(tiles):
    features, truth, _ = tiles
    expected = LogisticRegression().fit(features[:90], truth[:90]).predict_proba(features[90:])[:, 1]
    assert stacked((features[:90], truth[:90]), features[90:]).tolist() == expected.tolist()


def test_one_class_or_nothing_cannot_be_stacked(tiles):
    features, truth, _ = tiles
    assert stacked((features, np.ones(len(features), bool)), features) is None
    assert stacked((features[:0], truth[:0]), features) is None
    assert stacked((features, truth), features[:0]) is None


def test_no_tile_is_predicted_by_a_model_that_saw_its_patient(tiles):
    """With the labels of one patient turned around, that patient's predictions of each fold stay what they were."""
    features, truth, owners = tiles
    before = cross_stacked(features, truth, owners, 5, 3)
    for patient in (0, 7):
        turned = np.where(owners == patient, ~truth, truth)
        after = cross_stacked(features, turned, owners, 5, 3)
        assert len(after) == 5
        for a, b in zip(before, after, strict=True):
            assert (a[owners == patient] == b[owners == patient]).all()
            assert (a != b).any()


def test_iterations_are_drawn_anew_and_from_the_seed(tiles):
    features, truth, owners = tiles
    found = cross_stacked(features, truth, owners, 4, 3)
    assert len({tuple(one) for one in found}) == 4
    assert [one.tolist() for one in cross_stacked(features, truth, owners, 4, 3)] == [one.tolist() for one in found]
    assert (cross_stacked(features, truth, owners, 4, 4)[0] != found[0]).any()


def test_folds_are_drawn_until_both_have_both_classes(tiles):
    features, _, owners = tiles
    truth = (owners < 2) & (np.arange(len(owners)) % 2 == 0)  # two patients alone have tumor: one must go to each fold
    for one in cross_stacked(features, truth, owners, 6, 0):
        assert ((one > 0) & (one < 1)).all()
    assert cross_stacked(features, owners == 0, owners, 2, 0) == []
    assert cross_stacked(features[:5], np.array([True] * 3 + [False] * 2), np.zeros(5), 2, 0) == []
    assert cross_stacked(features[:0], np.zeros(0, bool), owners[:0], 2, 0) == []
