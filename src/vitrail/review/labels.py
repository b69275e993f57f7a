"""Which labels all networks contradict that have not seen the tile: what raters had better look at again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vitrail.classes import TASKS, TissueClass
from vitrail.metrics.label_noise import contradicted

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


def unseen(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Tell which tiles were predicted by networks whose training had no tile of their patients.

    Parameters
    ----------
    rows
        Of `predictions/tiles.parquet`; in older ones, without `out_of_fold`, all tiles but those of training.

    Returns
    -------
    NDArray[np.bool_]
        `[n]`.
    """
    if "out_of_fold" in rows:
        return rows["out_of_fold"].to_numpy(dtype=bool)
    return (rows["split"] != "train").to_numpy(dtype=bool)


def contradicted_labels(rows: pd.DataFrame) -> NDArray[np.float64]:
    """Say how strongly both networks contradict the label of each tile that they have not seen.

    Parameters
    ----------
    rows
        Of all tiles of `predictions/tiles.parquet`: what a network is confident of depends on all that it has not seen.

    Returns
    -------
    NDArray[np.float64]
        `[n]`, see `vitrail.metrics.label_noise.contradicted`; NaN also for tiles that were seen.
    """
    known, strength = unseen(rows), np.full(len(rows), np.nan)
    own = rows[known]
    tumor = (own["label"] == TissueClass.TUMOR.key).to_numpy(dtype=bool)
    strength[known] = contradicted(tumor, own[list(TASKS)].to_numpy(np.float64))
    return strength
