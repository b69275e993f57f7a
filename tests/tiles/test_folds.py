"""Folds of patients: whole, stratified, dealt anew in each iteration."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.errors import SettingsError, TileError, VitrailError
from vitrail.tiles.folds import deal, fold_of_rows


def tile_rows(counts):
    labels = [("tumor", tumor, p) for p, (tumor, _) in enumerate(counts)]
    labels += [("non_tumor", other, p) for p, (_, other) in enumerate(counts)]
    rows = [{"patient_id": f"P{p}", "label": label} for label, n, p in labels for _ in range(n)]
    return pd.DataFrame(rows, columns=["patient_id", "label"])


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=4, max_size=15),
    folds=st.integers(2, 4),
    seed=st.integers(0, 99),
)
def test_patients_are_in_one_fold_and_classes_in_as_many_as_can_be(counts, folds, seed):
    holds = np.array(counts) > 0
    if (holds.sum(0) < 2).any() or holds.any(1).sum() < folds:
        with pytest.raises(VitrailError):
            fold_of_rows(tile_rows(counts), folds, (seed,))
        return
    rows = tile_rows(counts)
    fold = fold_of_rows(rows, folds, (seed,))
    of_patient = rows.assign(fold=fold).groupby("patient_id")["fold"]
    assert (of_patient.nunique() == 1).all()
    sizes = of_patient.first().value_counts().reindex(range(folds), fill_value=0)
    assert sizes.max() - sizes.min() <= 1
    for held in range(folds):  # what remains to train on holds both classes
        assert set(rows["label"][fold != held]) == {"tumor", "non_tumor"}
    assert (fold_of_rows(rows, folds, (seed,)) == fold).all()


def test_folds_are_stratified_and_dealt_anew_in_each_iteration():
    rng = np.random.default_rng(0)
    counts = np.stack([rng.integers(1, 126, 80), rng.integers(1, 501, 80)], 1)
    counts[10:, 0] = 0  # ten of eighty patients have tumor
    dealt = [deal(counts, 5, (0, iteration)) for iteration in range(6)]
    for fold in dealt:
        found = np.stack([counts[fold == number].sum(0) for number in range(5)])
        assert (found > 0).all()
        shares = found / counts.sum(0)
        assert np.abs(shares[:, 1] - 0.2).max() < 0.1
    alike = [np.mean(a == b) for i, a in enumerate(dealt) for b in dealt[:i]]
    assert max(alike) < 0.5


def test_too_few_patients_are_told():
    with pytest.raises(SettingsError, match="5 folds of 3 patients"):
        fold_of_rows(tile_rows([(1, 1)] * 3), 5, (0,))
    with pytest.raises(TileError, match="only 1 patients of train and validation have tumor tiles"):
        fold_of_rows(tile_rows([(1, 1), (0, 1), (0, 1)]), 2, (0,))
