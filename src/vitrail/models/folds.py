"""What lies beside an ensemble's weights: which member has not seen a patient, and what became of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.core.files import damaged, read_csv
from vitrail.models.spec import read_spec
from vitrail.models.store import JSON

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

FOLDS = "folds.csv"
"""In the model folder of an ensemble: `patient_id` and `fold` of each patient of training and validation."""


MEMBERS = "members.csv"
"""In the model folder of an ensemble: what became of each member."""


def representing(folder: Path) -> dict[str, Any] | None:
    """Say which network of an ensemble explanations are about.

    Parameters
    ----------
    folder
        A model folder.

    Returns
    -------
    dict[str, Any] | None
        `member`, from 1, of so many `members`, and the `correlation` of its logits for the validation tiles with the
        ensemble's, None where nobody has looked. None of a single network.

    Raises
    ------
    ModelError, RunError
        `model.json` or `members.csv` is damaged.
    """
    spec, path = read_spec(folder / JSON), folder / MEMBERS
    if spec.members < 2:
        return None
    correlation = None
    if path.is_file():
        table = read_csv(path, ("member", "correlation")).set_index("member")["correlation"]
        try:
            correlation = float(table[str(spec.representative)])
        except (KeyError, ValueError) as error:
            raise damaged(path, error) from None
    return {"member": spec.representative + 1, "members": spec.members, "correlation": correlation}


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
        return np.full(len(patients), -1, np.int64)
    table = read_csv(path, ("patient_id", "fold"))
    numbers = {str(number): number for number in range(members)}
    folds = table.set_index("patient_id")["fold"].map(numbers)
    if folds.isna().any() or not folds.index.is_unique:
        raise damaged(path, f"not every patient is in one of the folds 0 to {members - 1}")
    return np.asarray(patients.map(folds).fillna(-1), np.int64)
