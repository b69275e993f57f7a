"""From a finished run to its numbers; no picture is read, and none is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.classes import NETWORKS
from vitrail.core.files import damaged, read_csv, read_json, read_table
from vitrail.errors import RunError
from vitrail.evaluation.explanations import open_explanations
from vitrail.evaluation.results import Evaluation
from vitrail.evaluation.unlabelled import assumption
from vitrail.explain.nuclei.results import SUMMARY, open_nuclei
from vitrail.inference.outputs import LEFT_OUT
from vitrail.models.spec import read_spec
from vitrail.review.agreement import raters_summary
from vitrail.review.judgements import Judgements, judged_queues
from vitrail.review.queue import read_queue
from vitrail.shift.results import SUMMARY as SHIFT_SUMMARY
from vitrail.shift.results import open_shift
from vitrail.slides.cohort import read_cohort
from vitrail.stage import open_run

if TYPE_CHECKING:
    from vitrail.slides.cohort import CohortSlide
    from vitrail.stage import Run

_MEASURED = {"mpp": float, "tumor_tiles": int, "non_tumor_tiles": int}


def evaluate(run: Path | str | Run) -> Evaluation:
    """Compute the numbers of a finished run: `metrics.json` and every table, without a figure.

    Parameters
    ----------
    run
        The run folder.

    Returns
    -------
    Evaluation
        Its `metrics` and `tables`, and what they are made of.

    Raises
    ------
    RunError
        The folder is no run, it is not finished, or a file is damaged.
    CohortError
        Its `slides.csv` cannot be read any more.
    ModelError
        What describes a network cannot be read.

    Examples
    --------
    >>> evaluate("runs/orca").metrics["test"]["classifier"]["auc"]  # doctest: +SKIP
    0.957
    """
    run = open_run(Path(run)) if isinstance(run, Path | str) else run
    folder, settings = run.folder, run.settings
    if not (folder / "predictions").is_dir():
        raise RunError(folder, "no predictions of its test tiles", f"Make them with: vitrail run {folder}")
    entries = read_cohort(run.cohort)
    cut = read_csv(folder / "tiles" / "slides.csv", ("slide_id", "patient_id", "skipped", "warnings", *_MEASURED))
    predictions = read_table(folder / "predictions" / "tiles.parquet")
    try:
        slides = cohort_table(cut, entries, predictions)
    except ValueError as error:
        raise damaged(folder / "tiles" / "slides.csv", error) from None
    explanations, checks = open_explanations(folder) or (None, None)
    left_out, own = folder / "predictions" / "maps" / LEFT_OUT, settings.annotations
    reasons = read_json(left_out) if left_out.is_file() else {}
    return Evaluation(
        predictions=predictions,
        slides=slides,
        skipped=cut.loc[cut["skipped"] != "", ["slide_id", "skipped"]].rename(columns={"skipped": "reason"}),
        history={task: _history(folder / task / "history.csv") for task in NETWORKS},
        warnings=[
            *([assumption(own.margin_um)] if own.unlabelled_tissue != "ignore" else []),
            *(line for cell in cut["warnings"] if cell for line in cell.split(" | ")),
            *(f"{slide_id} could not be mapped as a whole: {reason}" for slide_id, reason in reasons.items()),
        ],
        settings=settings.evaluation,
        seed=settings.seed,
        temperatures={task: read_spec(folder / task / "model.json").temperature for task in NETWORKS},
        calibrated=settings.predict.calibrated,
        explanations=explanations,
        checks=checks,
        raters={
            queue.name: raters_summary(Judgements(read_queue(queue)), settings.evaluation.threshold, settings.seed)
            for queue in judged_queues(folder)
        },
        nuclei=open_nuclei(folder / "nuclei") if (folder / "nuclei" / SUMMARY).is_file() else None,
        shift=open_shift(folder / "shift") if (folder / "shift" / SHIFT_SUMMARY).is_file() else None,
    )


def cohort_table(cut: pd.DataFrame, entries: tuple[CohortSlide, ...], predictions: pd.DataFrame) -> pd.DataFrame:
    """Put together what is known of each slide with tiles.

    Parameters
    ----------
    cut
        What became of each slide: the content of `tiles/slides.csv`, all of it text.
    entries
        The rows of slides.csv.
    predictions
        As in `Evaluation`.

    Returns
    -------
    pd.DataFrame
        As `Evaluation.slides`. An attribute is a number where all that are known are; empty cells are NaN.

    Raises
    ------
    ValueError
        A number of tiles is no number.
    """
    slides = cut.loc[cut["skipped"] == "", ["slide_id", "patient_id", *_MEASURED]].astype(_MEASURED)
    splits = predictions.drop_duplicates("slide_id").set_index("slide_id")["split"]
    slides.insert(2, "split", slides["slide_id"].map(splits))
    attributes = pd.DataFrame([entry.attributes for entry in entries]).apply(_numbers_or_words)
    attributes.insert(0, "slide_id", [entry.slide_id for entry in entries])
    return slides.merge(attributes, on="slide_id", how="left", suffixes=("", " in slides.csv"))


def _numbers_or_words(cells: pd.Series[str]) -> pd.Series[Any]:
    words = cells.mask(cells == "")
    numbers = pd.to_numeric(words, errors="coerce")
    return numbers if np.isfinite(numbers[words.notna()]).all() else words


def _history(path: Path) -> pd.DataFrame:
    """Return the losses and scores of a training, a row an epoch."""
    try:
        return read_csv(path, ("epoch", "train_loss", "validation_loss")).astype(float).astype({"epoch": int})
    except ValueError as error:
        raise damaged(path, error) from None
