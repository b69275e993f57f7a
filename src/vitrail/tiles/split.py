"""The split of a cohort into training, validation and test, by patient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vitrail.classes import SPLITS
from vitrail.core.files import damaged, read_csv, write_csv
from vitrail.errors import CohortError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.slides.cohort import CohortSlide

_SPLIT = 0x5711  # keeps this draw apart from the others of the same seed
_TRIES = 1000


def split_patients(rows: pd.DataFrame, entries: Sequence[CohortSlide], sizes: Sequence[float], seed: int) -> pd.Series:
    """Give each patient a split: the one in slides.csv, or one drawn in the proportions of `sizes`.

    Parameters
    ----------
    rows
        The tile table's rows; only their patients are split.
    entries
        The cohort.
    sizes
        Proportions of train, validation and test.
    seed
        Draws the split.

    Returns
    -------
    pd.Series
        Patient to split, sorted by patient.

    Raises
    ------
    CohortError
        Fewer than three patients have tiles, or a split of slides.csv has none.
    """
    tiles = pd.crosstab(rows["patient_id"], rows["label"])
    fixed = {entry.patient_id: entry.split for entry in entries if entry.split}
    split = [fixed[patient] for patient in tiles.index] if fixed else draw_split(tiles.to_numpy() > 0, sizes, seed)
    result = pd.Series(list(split), index=tiles.index, name="split")
    empty = sorted(set(SPLITS) - set(result))
    if empty:
        problem = f"no patient with tiles is in {', '.join(empty)}"
        raise CohortError("slides.csv", problem, "Add slides there, or leave split out")
    return result


def draw_split(holds: NDArray[np.bool_], sizes: Sequence[float], seed: int) -> list[str]:
    """Draw a split of patients in given proportions such that each part holds both classes where that can be.

    Parameters
    ----------
    holds
        `[patients, classes]`: which classes each patient has.
    sizes
        Proportions of train, validation and test.
    seed
        Draws the split.

    Returns
    -------
    list[str]
        The split of each patient: of a thousand drawn ones the first with the most classes in its parts.

    Raises
    ------
    CohortError
        There are fewer than three patients.
    """
    if len(holds) < len(SPLITS):
        problem = f"only {len(holds)} patients have tiles, and training, validation and test need one each"
        raise CohortError("slides.csv", problem, "Add slides of further patients")
    rng = np.random.default_rng([seed, _SPLIT])
    parts = np.repeat(np.arange(len(SPLITS)), _sizes(len(holds), sizes))
    drawn = rng.permuted(np.tile(parts, (_TRIES, 1)), axis=1)
    classes = np.stack([(drawn == part).astype(int) @ holds > 0 for part in range(len(SPLITS))])
    best = drawn[classes.sum(axis=(0, 2)).argmax()]
    return [SPLITS[part] for part in best]


def write_split(folder: Path, split: pd.Series) -> None:
    """Write a split as `patients.csv`."""
    write_csv(folder / "patients.csv", split.reset_index())


def read_split(folder: Path, rows: pd.DataFrame) -> NDArray[np.str_]:
    """Read the split of each of the tile table's rows.

    Parameters
    ----------
    folder
        The folder `split` of a run.
    rows
        The tile table's.

    Returns
    -------
    NDArray[np.str_]
        `[n]`.

    Raises
    ------
    RunError
        The file is missing or damaged, or lacks a patient.
    """
    split = rows["patient_id"].map(split_of(folder))
    if split.isna().any():
        raise damaged(folder / "patients.csv", f"without patient {rows['patient_id'][split.isna()].iloc[0]}")
    return split.to_numpy(dtype=np.str_)


def split_of(folder: Path) -> dict[str, str]:
    """Read the split of each patient.

    Raises
    ------
    RunError
        The file is missing or damaged.
    """
    path = folder / "patients.csv"
    split = read_csv(path, ("patient_id", "split")).set_index("patient_id")["split"]
    if not split.index.is_unique or not set(split) <= set(SPLITS):
        raise damaged(path, f"not every patient is in one of {', '.join(SPLITS)}")
    return {str(patient): part for patient, part in split.items()}


def _sizes(patients: int, sizes: Sequence[float]) -> NDArray[np.int64]:
    """Share patients out by largest remainder, at least one to each part."""
    ideal = np.asarray(sizes) / np.sum(sizes) * patients
    counts: NDArray[np.int64] = np.maximum(np.floor(ideal).astype(np.int64), 1)
    while counts.sum() < patients:
        counts[np.argmax(ideal - counts)] += 1
    while counts.sum() > patients:
        counts[np.argmax(np.where(counts > 1, counts - ideal, -np.inf))] -= 1
    return counts
