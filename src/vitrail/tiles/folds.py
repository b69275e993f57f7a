"""Folds of a cross-validation: by patient, stratified, dealt anew in each iteration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vitrail.classes import LABELS
from vitrail.errors import SettingsError, TileError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_TRIES, _BALANCED = 1000, 20


def fold_of_rows(
    rows: pd.DataFrame, folds: int, seed: Sequence[int], setting: str = "search.folds"
) -> NDArray[np.int64]:
    """Return the fold of each row of a tile table; all tiles of a patient are in one fold.

    Parameters
    ----------
    rows
        The tile table's rows.
    folds
        How many.
    seed
        Draws the folds; the iteration is part of it.
    setting
        What asks for so many folds, for errors.

    Returns
    -------
    NDArray[np.int64]
        `[n]`, from 0.

    Raises
    ------
    SettingsError
        There are fewer patients than folds.
    TileError
        A class is held by fewer than two patients: the others could not be trained to find it.
    """
    counts = pd.crosstab(rows["patient_id"], rows["label"])
    counts = counts.reindex(columns=[label.key for label in LABELS], fill_value=0)
    if len(counts) < folds:
        problem = f"{folds} folds of {len(counts)} patients of train and validation with tiles"
        raise SettingsError(setting, problem, f"Lower it to at most {len(counts)}, or add patients")
    for label in LABELS:
        holders = int((counts[label.key] > 0).sum())
        if holders < 2:
            problem = f"only {holders} patients of train and validation have {label.title.lower()} tiles"
            raise TileError(
                setting.partition(".")[0], problem, "Cross-validation needs two: annotate such tissue on more slides"
            )
    drawn = pd.Series(deal(counts.to_numpy(), folds, seed), index=counts.index)
    return rows["patient_id"].map(drawn).to_numpy(dtype=np.int64)


def deal(counts: NDArray[np.int64], folds: int, seed: Sequence[int]) -> NDArray[np.int64]:
    """Deal patients into folds whose numbers of patients differ by one at most.

    Of a thousand random deals those count in which the most folds hold the most classes, and of the first twenty of
    these the one is taken in which the folds' shares of all tiles, class by class, are the most alike. Looking at few
    keeps the iterations different from each other even for few patients.

    Parameters
    ----------
    counts
        `[patients, classes]`, tiles.
    folds
        How many; at most as many as patients.
    seed
        Draws the deals.

    Returns
    -------
    NDArray[np.int64]
        `[patients]`, the fold of each, from 0.
    """
    rng = np.random.default_rng(list(seed))
    even = np.arange(len(counts)) % folds
    drawn = rng.permuted(np.tile(even, (_TRIES, 1)), axis=1)
    tiles = np.stack([(drawn == fold).astype(np.int64) @ counts for fold in range(folds)], axis=1)
    held = (tiles > 0).sum(axis=(1, 2))
    best = np.flatnonzero(held == held.max())[:_BALANCED]
    uneven = np.abs(tiles[best] / counts.sum(axis=0) - 1 / folds).sum(axis=(1, 2))
    chosen: NDArray[np.int64] = drawn[best[uneven.argmin()]]
    return chosen
