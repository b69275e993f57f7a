"""How an outcome of nuclei follows one feature: its mean in bins of the feature, within tiles.

A coefficient is a straight line. Whether only the largest nuclei matter, or those of the middle, is seen in bins. Each
tile's nuclei are divided by the feature into bins of equal number, and the outcome is what it is above its tile's mean,
so that neither a tile's level nor its patient's can pose as dependence. Nothing else is held: what goes with the
feature goes into it. Intervals are those of `vitrail.metrics.bootstrap`, over patients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from vitrail.explain.nuclei.regression import outcome_scores
from vitrail.metrics.bootstrap import estimate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from vitrail.explain.nuclei.regression import Scale


def partial_dependence(
    feature: ArrayLike,
    outcome: ArrayLike,
    tiles: ArrayLike,
    patients: ArrayLike,
    *,
    bins: int = 5,
    seed: int = 0,
    scale: Scale = "plain",
) -> pd.DataFrame:
    """Return the mean outcome in bins of a feature, with intervals over patients.

    Parameters
    ----------
    feature, outcome
        `[n]`; nuclei without one of them (NaN) are left out.
    tiles, patients
        Whose nucleus it is, `[n]`. Tiles of fewer nuclei than bins are left out.
    bins
        How many, of equal number within each tile; equal values share a bin.
    seed
        As in `associate`.
    scale
        Of the outcome, as in `associate`; `plain` keeps its unit.

    Returns
    -------
    pd.DataFrame
        A row a bin, the lowest first: `bin`; `feature`, the median of the feature there; `mean`, `low`, `high`, the
        outcome above its tile's mean, with its 95 % interval; `nuclei`, `patients`.
    """
    values, heights = np.asarray(feature, np.float64), np.asarray(outcome, np.float64)
    rows = np.flatnonzero(np.isfinite(values) & np.isfinite(heights))
    names, numbers, sizes = np.unique(np.asarray(tiles)[rows], return_inverse=True, return_counts=True)
    enough = sizes[numbers] >= bins
    rows, numbers = rows[enough], numbers[enough]
    values, heights, owners = values[rows], outcome_scores(heights[rows], numbers, scale), np.asarray(patients)[rows]
    bin_of = np.zeros(len(rows), np.int64)
    for tile in range(len(names)):
        inside = numbers == tile
        share = (rankdata(values[inside]) - 0.5) / max(int(inside.sum()), 1)
        bin_of[inside] = np.minimum((share * bins).astype(np.int64), bins - 1)
    results: list[dict[str, Any]] = []
    for number in range(bins):
        inside = bin_of == number
        mean = estimate(heights[inside], 1, owners[inside], seed)
        middle = float(np.median(values[inside])) if inside.any() else float("nan")
        counts = {"nuclei": int(inside.sum()), "patients": len(np.unique(owners[inside]))}
        interval = dict(zip(("mean", "low", "high"), mean, strict=True))
        results.append({"bin": number, "feature": middle} | interval | counts)
    return pd.DataFrame(results)
