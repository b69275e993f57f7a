"""Tiles in numbers: their labels and pixels, and what slides and patients come to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import expit

from vitrail.classes import CLASSES, LABELS, NETWORKS, TissueClass
from vitrail.metrics import scores
from vitrail.metrics.ensembles import voting

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SLIDE_COLUMNS = (
    "slide_id", "patient_id", "tiles", *(f"{name}_accuracy" for name in NETWORKS), "mean_jaccard", "classifier_share",
    "classifier_annotated", "segmenter_share", "segmenter_annotated",
)  # fmt: skip


def is_tumor(tiles: pd.DataFrame) -> NDArray[np.bool_]:
    """Tell which tiles are labelled tumor, `[n]`."""
    return (tiles["label"] == TissueClass.TUMOR.key).to_numpy(dtype=bool)


def at_temperature(tiles: pd.DataFrame, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the classifier's tumor probabilities at a temperature, `[n]`; at 1 as the network gives them."""
    return np.asarray(expit(tiles["classifier_logit"].to_numpy(np.float64) / temperature), np.float64)


def both_networks(tiles: pd.DataFrame) -> NDArray[np.float64]:
    """Return the probabilities of both networks as they give them, uncalibrated, `[n, 2]`: what ensembles take."""
    return np.column_stack([at_temperature(tiles), tiles["segmenter"].to_numpy(np.float64)])


def single_scores(tiles: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Return the tumor probabilities of tiles by both networks and by voting, `[n]` by the names of `SINGLE`."""
    scores_of = {name: tiles[name].to_numpy(np.float64) for name in NETWORKS}
    return scores_of | {"voting": voting(both_networks(tiles))}


def pixel_counts(tiles: pd.DataFrame) -> NDArray[np.int64]:
    """Return the confusion matrix of the pixels of each tile, `[n, 4, 4]`, rows = truth."""
    counts = [np.asarray(cell, np.int64) for cell in tiles["pixels"]]
    return np.reshape(counts, (-1, len(CLASSES), len(CLASSES))).astype(np.int64)


def slides_table(tiles: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Measure each slide.

    Parameters
    ----------
    tiles
        The tiles of some slides, as in `Evaluation.predictions`.
    threshold
        A tile is called tumor when its tumor probability reaches this.

    Returns
    -------
    pd.DataFrame
        `slide_id`, `patient_id`, `tiles`; `classifier_accuracy` and `segmenter_accuracy` on tiles; `mean_jaccard` over
        pixels; `classifier_share`, tiles called tumor, beside `classifier_annotated`, tiles labelled tumor; and
        `segmenter_share`, pixels called tumor, beside `segmenter_annotated`, pixels annotated tumor, both of the
        pixels annotated tumor or non-tumor, NaN where there are none. Shares are of the tiles that were cut.
    """
    rows = []
    for slide_id, own in tiles.groupby("slide_id", sort=True):
        truth, matrix = is_tumor(own), pixel_counts(own).sum(0)
        called = [own[name].to_numpy(np.float64) >= threshold for name in NETWORKS]
        accuracies = [float((calls == truth).mean()) for calls in called]
        annotated = matrix[list(LABELS)]
        pixels = int(annotated.sum()) or np.nan
        shares = annotated[:, TissueClass.TUMOR].sum() / pixels, annotated[TissueClass.TUMOR].sum() / pixels
        row = (slide_id, own["patient_id"].iloc[0], len(own), *accuracies, float(scores.mean_jaccard(matrix)))
        rows.append((*row, called[0].mean(), truth.mean(), *shares))
    return pd.DataFrame(rows, columns=_SLIDE_COLUMNS)


def patients_table(tiles: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Measure each patient.

    Parameters
    ----------
    tiles, threshold
        As in `slides_table`.

    Returns
    -------
    pd.DataFrame
        `patient_id`, `tiles`, `tumor_tiles`, `classifier_accuracy` and `segmenter_accuracy`; the lowest first.
    """
    truth = is_tumor(tiles)
    right = {f"{name}_accuracy": (tiles[name].to_numpy(np.float64) >= threshold) == truth for name in NETWORKS}
    table = tiles[["patient_id"]].assign(tiles=1, tumor_tiles=truth.astype(int), **right)
    summed = table.groupby("patient_id", sort=True).agg(
        {"tiles": "sum", "tumor_tiles": "sum", **dict.fromkeys(right, "mean")}
    )
    return summed.reset_index().sort_values([*right, "patient_id"], kind="stable").reset_index(drop=True)


def worst_slides(table: pd.DataFrame, most: int = 5) -> pd.DataFrame:
    """Return the slides that the classifier knows least, then the segmenter; only those with errors.

    Parameters
    ----------
    table
        Of `slides_table`.
    most
        How many.

    Returns
    -------
    pd.DataFrame
        Rows of the table, the worst first.
    """
    columns = [f"{name}_accuracy" for name in NETWORKS]
    wrong = table[(table[columns] < 1).any(axis=1)]
    return wrong.sort_values([*columns, "slide_id"], kind="stable").head(most)
