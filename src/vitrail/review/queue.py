"""A queue of cases for raters: which tiles, in which order, and what is asked of them.

The folder `review/<name>/` of a run holds `queue.json`, what was asked for, and `queue.csv`, one row a case:

- `case`, its number; `row`, its tile's in the tile table; `slide_id`, `patient_id`, `x`, `y`, `side`, `label` as there;
  `classifier` and `segmenter`, what the networks said; `urgency`, by which it was ordered, empty where it is unknown;
- `reason`: `ordered`; `random`, drawn from all others, so that what raters say of all tiles can be estimated; or
  `repeat`, of case `of`, so that a rater can be compared with themselves.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd

from vitrail.core.files import read_csv, read_json, read_table, write_csv, write_json
from vitrail.errors import RunError, SettingsError
from vitrail.explain.study.store import SUMMARY, open_stored, pairs, split_key
from vitrail.review.labels import contradicted_labels

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Order = Literal["disagreement", "uncertainty", "errors", "explanations", "labels", "random"]
"""Tiles come first of which the networks disagree; of which both are unsure; of which they say what the outlines do
not; of which the maps of both networks agree least; whose label both contradict that have not seen them, and no others;
or as chance has it."""

ORDERS: tuple[Order, ...] = get_args(Order)

Question = Literal["class", "explanation"]

ANSWERS: dict[Question, tuple[str, ...]] = {
    "class": ("tumor", "non_tumor", "other", "unsure"),
    "explanation": ("tumor_cells", "stroma", "artefact", "unsure"),
}
"""What can be answered: what a tile shows; or on what the strongest places of a map lie, which is how the paper reads
its maps."""

RANDOM_SHARE, REPEAT_SHARE = 0.1, 0.05

LEAST_APART = 10
"""Cases between one and its repeat, at least, where the queue is long enough."""

MOST_CASES = 100_000

_QUEUE, _CASES = "queue.json", "queue.csv"
COLUMNS = {
    "case": int, "row": int, "slide_id": str, "patient_id": str, "x": float, "y": float, "side": float, "label": str,
    "classifier": float, "segmenter": float, "urgency": float, "reason": str, "of": int,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSpec:
    """What a queue was asked to be.

    Attributes
    ----------
    by
        Its order.
    question
        What is asked.
    network, method
        Of the map that a question about explanations is about.
    cases
        How many there are to be, repeats among them.
    split
        `train`, `validation` or `test`; empty takes all tiles.
    seed
        Draws random and repeated cases.
    """

    by: Order = "disagreement"
    question: Question = "class"
    network: str = ""
    method: str = ""
    cases: int = 100
    split: str = ""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Queue:
    """A queue on disk.

    Attributes
    ----------
    folder
        Where.
    spec
        What it was asked to be.
    rows
        The columns of `queue.csv`.
    """

    folder: Path
    spec: QueueSpec
    rows: pd.DataFrame

    def __len__(self) -> int:
        return len(self.rows)


def urgency(rows: pd.DataFrame, by: Order, rng: np.random.Generator, measured: Floats | None = None) -> Floats:
    """Say how much each tile wants a rater.

    Parameters
    ----------
    rows
        With `label`, and `classifier` and `segmenter`, the scores.
    by
        The order.
    rng
        Of chance.
    measured
        `[n]`. Of `explanations`: how far the maps of both networks correlate, NaN where there are none. Of `labels`:
        how strongly both networks contradict the label, see `vitrail.review.labels`.

    Returns
    -------
    NDArray[np.float64]
        `[n]`, from 0 to 1, or for `explanations` to 2; more wants more; NaN where it cannot be said.
    """
    scores = rows[["classifier", "segmenter"]].to_numpy(np.float64)
    if by == "disagreement":
        return np.asarray(np.abs(scores[:, 0] - scores[:, 1]))
    if by == "uncertainty":
        return np.asarray(1 - np.abs(2 * scores - 1).mean(1))
    if by == "errors":
        tumor = (rows["label"] == "tumor").to_numpy()
        return np.asarray(np.where(tumor, 1 - scores.mean(1), scores.mean(1)))
    if by in {"explanations", "labels"}:
        known = np.full(len(rows), np.nan) if measured is None else measured
        return 1 - known if by == "explanations" else known
    return rng.random(len(rows))


def draw_queue(rows: pd.DataFrame, spec: QueueSpec, measured: Floats | None = None) -> pd.DataFrame:
    """Choose and order the cases of a queue.

    Parameters
    ----------
    rows
        The tiles that may be asked about, with the columns of `predictions/tiles.parquet`; the index is their row.
    spec
        What is wished.
    measured
        As of `urgency`.

    Returns
    -------
    pandas.DataFrame
        The columns of `queue.csv`. Fewer cases than wished where there are fewer tiles; by `labels` none is drawn by
        chance.
    """
    rng = np.random.default_rng([spec.seed, len(rows)])
    wanted = urgency(rows, spec.by, rng, measured)
    if spec.by == "labels":
        rows, wanted = rows[np.isfinite(wanted)], wanted[np.isfinite(wanted)]
    able = np.flatnonzero(np.isfinite(wanted))
    able = able[np.lexsort((rng.random(len(able)), -wanted[able]))]  # chance decides between equals
    repeats = round(spec.cases * REPEAT_SHARE)
    first = min(spec.cases - repeats, len(rows))
    by_chance = 0 if spec.by in {"labels", "random"} else round(spec.cases * RANDOM_SHARE)
    ordered = able[: max(first - by_chance, 0)]
    others = rng.permutation(np.setdiff1d(np.arange(len(rows)), ordered))[: first - len(ordered)]
    total = len(ordered) + len(others)
    is_random = np.zeros(total, np.bool_)
    is_random[rng.permutation(total)[: len(others)]] = True
    place = np.empty(total, np.int64)
    place[~is_random], place[is_random] = ordered, others
    cases = rows.iloc[place].reset_index(names="row")
    cases["urgency"], cases["reason"], cases["of"] = wanted[place], np.where(is_random, "random", "ordered"), -1
    return _with_repeats(cases, min(repeats, total // 2), rng)[list(COLUMNS)]


def _with_repeats(cases: pd.DataFrame, repeats: int, rng: np.random.Generator) -> pd.DataFrame:
    """Put some cases into the queue again, further behind."""
    total = len(cases)
    again = np.sort(rng.permutation(total - total // 2)[:repeats])  # of the first half, so that there is room behind
    ranks = np.arange(total, dtype=np.float64)
    behind = np.array([rng.uniform(min(at + LEAST_APART, total - 1), total) for at in again])
    copies = cases.iloc[again].assign(reason="repeat", of=again)
    order = np.argsort(np.concatenate([ranks, behind]), kind="stable")
    result = pd.concat([cases, copies], ignore_index=True).iloc[order].reset_index(drop=True)
    numbers = np.empty(total + len(again), np.int64)
    numbers[order] = np.arange(len(order))
    result["of"] = [int(numbers[at]) if at >= 0 else -1 for at in result["of"]]
    result["case"] = np.arange(len(result))
    return result


def open_queue(run: Path, name: str, spec: QueueSpec) -> Queue:
    """Return the queue of a name, made where there is none yet.

    Parameters
    ----------
    run
        The run folder, with predictions of its tiles.
    name
        Of the folder within `review/`.
    spec
        What is wished; a queue that is there keeps its cases, and has to be of the same wish.

    Returns
    -------
    Queue
        On disk.

    Raises
    ------
    RunError
        The run has no predictions or, where they are asked about, no explanations; or no tile can be asked about.
    SettingsError
        The name is none, or another queue has it; or the map that is asked about is not there.
    """
    if not name.replace("-", "").replace("_", "").isalnum() or len(name) > 60:
        raise SettingsError("--queue", f"{name[:60]!r} is no name", "Use letters, digits, - and _")
    if not 1 <= spec.cases <= MOST_CASES:
        raise SettingsError("--cases", f"{spec.cases} is not between 1 and {MOST_CASES:,}", "Name another number")
    folder = run / "review" / name
    if (folder / _QUEUE).is_file():
        queue = read_queue(folder)
        if queue.spec != spec:
            problem = f"there is a queue {name} already, by {queue.spec.by} with {queue.spec.cases} cases"
            raise SettingsError("--queue", problem, "Name another with --queue, or ask for the same")
        return queue
    table = run / "predictions" / "tiles.parquet"
    if not table.is_file():
        raise RunError(run, "has no predictions of its tiles", f"Make them with: vitrail predict {run}")
    rows = read_table(table)
    if not {"classifier", "segmenter"} <= set(rows):
        raise RunError(run, "lacks the predictions of a network", f"Make them with: vitrail predict {run}")
    measured = contradicted_labels(rows) if spec.by == "labels" else None
    if spec.split:
        own = (rows["split"] == spec.split).to_numpy()
        rows, measured = rows[own], None if measured is None else measured[own]
    if spec.by == "explanations" or spec.question == "explanation":
        rows, measured = _explained(run, rows, spec, measured)
    cases = draw_queue(rows, spec, measured)
    if cases.empty:
        raise RunError(run, "has no tile that could be asked about", "Choose another split, or another order")
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / _CASES, cases)
    write_json(folder / _QUEUE, asdict(spec))  # last: a queue is whole or not there
    return Queue(folder=folder, spec=spec, rows=cases)


def read_queue(folder: Path) -> Queue:
    """Read a queue.

    Raises
    ------
    RunError
        A file is missing or damaged.
    """
    values = read_json(folder / _QUEUE, QueueSpec.__slots__)
    rows = read_csv(folder / _CASES, tuple(COLUMNS))
    try:
        rows = rows[list(COLUMNS)].replace({"urgency": {"": "nan"}}).astype(COLUMNS)
    except ValueError as error:
        raise RunError(folder / _CASES, f"damaged ({error})", "Restore it, or make another queue") from None
    return Queue(folder=folder, spec=QueueSpec(**{name: values[name] for name in QueueSpec.__slots__}), rows=rows)


def queues_of(run: Path) -> list[Path]:
    """List the folders of a run's queues."""
    return sorted(file.parent for file in (run / "review").glob(f"*/{_QUEUE}"))


def _explained(run: Path, rows: pd.DataFrame, spec: QueueSpec, measured: Floats | None) -> tuple[pd.DataFrame, Floats]:
    """Return the tiles that are explained, and what was measured of them: else how far the maps of both agree."""
    if not (run / "explanations" / SUMMARY).is_file():
        raise RunError(run, "has no explanations", f"Make them with: vitrail explain {run}")
    stored = open_stored(run / "explanations")
    key = f"{spec.network}_{spec.method}"
    if spec.question == "explanation" and key not in stored.keys:
        raise SettingsError("--map", f"there is no map {key}", f"There are {', '.join(stored.keys)}")
    own = next((name for name, both in pairs(stored.keys).items() if len({split_key(k)[1] for k in both}) == 1), None)
    numbers = stored.rows["tile"].to_numpy()
    known = np.isin(numbers, rows.index)
    if measured is not None:
        return rows.loc[numbers[known]], measured[rows.index.get_indexer(pd.Index(numbers[known]))]
    agreement = np.full(len(numbers), np.nan) if own is None else stored.agreement[own].to_numpy(np.float64)
    return rows.loc[numbers[known]], agreement[known]
