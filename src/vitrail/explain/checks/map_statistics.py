"""What maps are like, before anybody asks whether they are true: how few places they point at, how much they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vitrail.metrics.bootstrap import Estimate, estimate
from vitrail.metrics.scores import divided

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]


def gini(maps: ArrayLike) -> Floats:
    """Return how unevenly each map's magnitude is spread over its cells (Chalasani et al. 2020, arXiv:1810.06583).

    Parameters
    ----------
    maps
        `[n, h, w]`.

    Returns
    -------
    NDArray[np.float64]
        The Gini index, `[n]`: 0 where all cells are equal, near 1 where one has it all; NaN of maps that are 0.
    """
    sizes = np.abs(np.asarray(maps, np.float64)).reshape(len(np.asarray(maps)), -1)
    sizes.sort(axis=1)
    cells = sizes.shape[1]
    sums = sizes.sum(1)
    ranked: Floats = sizes @ (2 * np.arange(1, cells + 1) - cells - 1)
    return divided(ranked, cells * sums)


def likeness(maps: ArrayLike) -> Floats:
    """Return the mean correlation of each map with those of all other tiles.

    Parameters
    ----------
    maps
        `[n, h, w]`, of one kind.

    Returns
    -------
    NDArray[np.float64]
        `[n]`; NaN of maps that are constant, and of a single one.
    """
    flat = np.asarray(maps, np.float64).reshape(len(np.asarray(maps)), -1)
    centred = flat - flat.mean(1, keepdims=True)
    length = np.sqrt(np.square(centred).sum(1))
    varies = np.ptp(flat, axis=1) > 1e-12 * np.abs(flat).max(1)
    unit = np.divide(centred, length[:, None], out=np.zeros_like(centred), where=varies[:, None])
    count, with_all = int(varies.sum()), unit @ unit.sum(0)
    result = (with_all - 1) / (count - 1) if count > 1 else np.full(len(flat), np.nan)
    return np.where(varies, result, np.nan)


def shared(correlations: ArrayLike, patients: ArrayLike, seed: int) -> Estimate:
    """Return the mean correlation of maps of different tiles, with its 95 % interval over patients.

    Each tile is in its own pairs and in those of all others. So the mean over pairs varies twice as much as the mean
    of independent tiles would (Hoeffding 1948, doi:10.1214/aoms/1177730196), and each tile's deviation counts twice.

    Parameters
    ----------
    correlations
        What `likeness` returns, `[n]`.
    patients
        Whose tile it is, `[n]`.
    seed
        See `estimate`.

    Returns
    -------
    Estimate
        NaN where `estimate` is.
    """
    values = np.asarray(correlations, np.float64)
    defined = ~np.isnan(values)
    values = values[defined]
    return estimate(2 * values - values.mean() if len(values) else values, 1, np.asarray(patients)[defined], seed)
