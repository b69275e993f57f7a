"""Tiles whose nuclei are looked at: which ones, and maps of them in the finer pixels of nuclei."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vitrail.classes import TASKS
from vitrail.explain.nuclei.results import GROUPS, group_of

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_CHOICE = 0x2C1E


def choose_tiles(rows: pd.DataFrame, count: int, seed: int) -> NDArray[np.int64]:
    """Draw the tiles whose nuclei are looked at.

    Half of them are tumor that both networks call so, a quarter other tissue that neither calls tumor, a quarter such
    that a network calls wrongly; where there are too few of one kind, the others fill its room. Within a kind each
    patient gives one tile before any gives a second.

    Parameters
    ----------
    rows
        Tiles, with what both networks say of them; rows of the explanations.
    count
        How many, at most.
    seed
        Draws them.

    Returns
    -------
    NDArray[np.int64]
        Their positions in `rows`, rising.
    """
    groups = np.stack([group_of(rows, network) for network in TASKS])
    same = np.where((groups == groups[0]).all(axis=0), groups[0], "wrong")
    queues = {}
    for group in GROUPS:
        order = np.random.default_rng([seed, _CHOICE]).permutation(np.flatnonzero(same == group))
        patients = rows["patient_id"].iloc[order]
        turn = patients.groupby(patients.to_numpy()).cumcount().to_numpy()
        queues[group] = order[np.argsort(turn, kind="stable")].tolist()
    drawn: list[int] = []
    while len(drawn) < count and any(queues.values()):
        drawn += [queues[group].pop(0) for group in ("tumor", "non_tumor", "tumor", "wrong") if queues[group]]
    return np.sort(np.array(drawn[:count], np.int64))


def spread(values: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.floating]:
    """Return a map over a tile in finer pixels, each with the value of the coarser one that its centre lies in.

    Parameters
    ----------
    values
        `[h, w]`.
    size
        Height and width of the result.

    Returns
    -------
    NDArray[np.floating]
        `[height, width]`.
    """
    rows, columns = (
        ((np.arange(fine) + 0.5) * coarse / fine).astype(np.intp)
        for fine, coarse in zip(size, values.shape, strict=True)
    )
    return values[np.ix_(rows, columns)]
