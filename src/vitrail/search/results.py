"""The folder `search/` of a run: what the grid search found.

`cells.parquet` holds one row for each training, `table.csv` one for each combination of tile size and resolution,
`summary.json` how it was searched and what was chosen, `chosen.toml` the lines for `study.toml`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from vitrail.core.files import read_csv, read_json, write_csv, write_table, write_text
from vitrail.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

State = Literal["complete", "abandoned", "failed"]

CELL_COLUMNS = ("side_um", "side_px", "iteration", "fold", "accuracy", "auc", "seconds", "n_validation")
"""Columns of `cells.parquet`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """A tile size at a resolution, and how well the classifier did on patients it was not trained on.

    Attributes
    ----------
    side_um, side_px
        Side of the tiles.
    accuracy
        Mean validation accuracy over all folds of all iterations; NaN where none is finished.
    spread
        Standard deviation of the accuracy over folds and iterations; NaN for fewer than two. The folds share most of
        their training patients, so that it is no standard error.
    auc
        Mean area under the ROC curve over the folds that hold both classes.
    n
        How many trainings the means are of.
    state
        `complete`; `abandoned` where a setting stopped it early; `failed` where a training was not possible.
    """

    side_um: float
    side_px: int
    accuracy: float
    spread: float
    auc: float
    n: int
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What a grid search found.

    Attributes
    ----------
    combinations
        Sorted by size, then resolution.
    chosen
        The one to take.
    folds, iterations
        Of the cross-validation.
    tolerance
        How much less accuracy than the best still counts as the best.
    patients
        Those who took part: of train and validation.
    unseen
        How many test patients took no part.
    """

    combinations: tuple[Combination, ...]
    chosen: Combination
    folds: int
    iterations: int
    tolerance: float
    patients: tuple[str, ...]
    unseen: int

    def in_test(self, split: Mapping[str, str]) -> tuple[str, ...]:
        """Return the patients who took part and are in test by this split of patients: test figures are biased then.

        A split that is drawn, not given in slides.csv, may change when the tiles do.
        """
        return tuple(patient for patient in self.patients if split.get(patient) == "test")


def choose(combinations: tuple[Combination, ...], tolerance: float) -> Combination | None:
    """Choose the fewest pixels among the complete combinations whose accuracy is within `tolerance` of the best.

    Of equally many pixels the most accurate is taken, then the smallest tile; None where no combination is complete.
    """
    complete = [combination for combination in combinations if combination.state == "complete"]
    if not complete:
        return None
    best = max(combination.accuracy for combination in complete)
    close = [combination for combination in complete if combination.accuracy >= best - tolerance]
    return min(close, key=lambda combination: (combination.side_px, -combination.accuracy, combination.side_um))


def is_searched(folder: Path) -> bool:
    """Tell whether a run's `search` folder holds a finished search."""
    return (folder / "stage.json").is_file()


_TYPES = {
    "side_um": float, "side_px": int, "accuracy": float, "spread": float, "auc": float, "n": int, "state": str,
}  # fmt: skip
_SUMMARY = ("folds", "iterations", "tolerance", "patients", "unseen")


def read_search(folder: Path) -> SearchResult:
    """Read a run's `search` folder.

    Parameters
    ----------
    folder
        Its path.

    Returns
    -------
    SearchResult
        What `write_search` wrote.

    Raises
    ------
    RunError
        There is no finished search, or a file does not fit.
    """
    if not is_searched(folder):
        raise RunError(folder, "no finished search", f"Make one with: vitrail search {folder.parent}")
    summary = read_json(folder / "summary.json")
    try:
        table = read_csv(folder / "table.csv", tuple(_TYPES)).replace("", "nan")
        rows: list[Any] = table.astype(_TYPES).to_dict("records")
        combinations = tuple(Combination(**row) for row in rows)
        pair = (summary["chosen"]["side_um"], summary["chosen"]["side_px"])
        (chosen,) = (each for each in combinations if (each.side_um, each.side_px) == pair)
        values = {name: summary[name] for name in _SUMMARY} | {"patients": tuple(summary["patients"])}
        return SearchResult(combinations=combinations, chosen=chosen, **values)
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(folder, f"does not fit together ({error})", "Run vitrail search again") from None


def write_search(folder: Path, result: SearchResult, cells: pd.DataFrame) -> None:
    """Write the tables, the summary and the lines for `study.toml`.

    Parameters
    ----------
    folder
        Of the search.
    result
        What came out.
    cells
        A row for each training, with `CELL_COLUMNS`.
    """
    chosen = result.chosen
    write_table(folder / "cells.parquet", cells[list(CELL_COLUMNS)])
    write_csv(folder / "table.csv", pd.DataFrame([asdict(combination) for combination in result.combinations]))
    about = f"# Chosen by vitrail search: mean validation accuracy {chosen.accuracy:.4f} of {chosen.n} trainings."
    tiles = f"[tiles]\nside_um = {chosen.side_um!r}\nside_px = {chosen.side_px}\n"
    write_text(folder / "chosen.toml", f"{about}\n{tiles}")
    summary = {"chosen": {name: getattr(chosen, name) for name in ("side_um", "side_px", "accuracy", "n")}}
    summary |= {name: getattr(result, name) for name in _SUMMARY}
    write_text(folder / "summary.json", json.dumps(summary, indent=1))
