"""Which member of an ensemble has not seen a patient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vitrail.core.files import damaged, read_csv

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

FOLDS = "folds.csv"
"""In the model folder of an ensemble: `patient_id` and `fold` of each patient of training and validation."""


def unseen_by(folder: Path, patients: pd.Series[str], members: int) -> NDArray[np.int64]:
    """Return for each patient the member that was not trained on them.

    Parameters
    ----------
    folder
        A model folder.
    patients
        Identifiers, `[n]`.
    members
        Of the model.

    Returns
    -------
    NDArray[np.int64]
        `[n]`, from 0; -1 of patients in no fold, whom no member has seen, and where the model has no folds.

    Raises
    ------
    RunError
        `folds.csv` is damaged.
    """
    path = folder / FOLDS
    if members < 2 or not path.is_file():
        return np.full(len(patients), -1)
    table = read_csv(path, ("patient_id", "fold"))
    numbers = {str(number): number for number in range(members)}
    folds = table.set_index("patient_id")["fold"].map(numbers)
    if folds.isna().any() or not folds.index.is_unique:
        raise damaged(path, f"not every patient is in one of the folds 0 to {members - 1}")
    return patients.map(folds).fillna(-1).to_numpy(dtype=np.int64)
