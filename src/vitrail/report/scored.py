"""The tiles of the test part in numbers: labels, pixels, slides, patients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import expit

from vitrail.classes import CLASSES, LABELS, NETWORKS, TissueClass
from vitrail.metrics import scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCORES = {
    "accuracy": "Accuracy",
    "auc": "AUC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "precision": "Precision",
    "f1": "F1",
}
"""The columns of the paper's Table 2, in its order."""

CALIBRATION = {"brier": "Brier score", "ece": "Calibration error"}
"""What tells whether probabilities mean what they say; lower is better."""


def is_tumor(tiles: pd.DataFrame) -> NDArray[np.bool_]:
    """Tell which tiles are labelled tumor."""
    return (tiles["label"] == TissueClass.TUMOR.key).to_numpy(dtype=bool)


def tempered(tiles: pd.DataFrame, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the classifier's tumor probabilities at a temperature, `[n]`; at 1 as the network gives them."""
    return np.asarray(expit(tiles["classifier_logit"].to_numpy(np.float64) / temperature), np.float64)


def pixel_counts(tiles: pd.DataFrame) -> NDArray[np.int64]:
    """Return the confusion matrix of the pixels of each tile, `[n, 4, 4]`."""
    n = len(CLASSES)
    counts = [np.asarray(cell, np.int64) for cell in tiles["pixels"]]
    return np.stack(counts).reshape(-1, n, n) if counts else np.zeros((0, n, n), np.int64)


def slides_table(test: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Return accuracy, mean Jaccard and tumor share of each test slide.

    Returns
    -------
    `slide_id`, `patient_id`, `tiles`; `classifier_accuracy` and `segmenter_accuracy` on tiles; `mean_jaccard` over
    pixels; `classifier_share`, tiles called tumor, beside `classifier_annotated`, tiles labelled tumor; and
    `segmenter_share`, pixels called tumor, beside `segmenter_annotated`, pixels annotated tumor, both of the pixels
    annotated tumor or non-tumor, NaN where there are none. Shares are of the tiles that were cut.
    """
    rows = []
    for slide_id, tiles in test.groupby("slide_id", sort=True):
        truth, matrix = is_tumor(tiles), pixel_counts(tiles).sum(0)
        called = {name: tiles[name].to_numpy(np.float64) >= threshold for name in NETWORKS}
        row = {"slide_id": slide_id, "patient_id": tiles["patient_id"].iloc[0], "tiles": len(tiles)}
        row |= {f"{name}_accuracy": float((calls == truth).mean()) for name, calls in called.items()}
        row |= {"mean_jaccard": float(scores.mean_jaccard(matrix))}
        row |= {"classifier_share": called["classifier"].mean(), "classifier_annotated": truth.mean()}
        rows.append(row | _pixel_shares(matrix))
    return pd.DataFrame(rows, columns=_SLIDE_COLUMNS)


_SLIDE_COLUMNS = [
    "slide_id", "patient_id", "tiles", *(f"{name}_accuracy" for name in NETWORKS), "mean_jaccard", "classifier_share",
    "classifier_annotated", "segmenter_share", "segmenter_annotated",
]  # fmt: skip


def _pixel_shares(matrix: NDArray[np.int64]) -> dict[str, float]:
    outlined = matrix[list(LABELS)]
    total, tumor = int(outlined.sum()), TissueClass.TUMOR
    found, drawn = (int(outlined[:, tumor].sum()), int(outlined[tumor].sum())) if total else (np.nan, np.nan)
    return {"segmenter_share": found / max(total, 1), "segmenter_annotated": drawn / max(total, 1)}


def patients_table(test: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Return tiles, tumor tiles and the accuracy of both networks of each test patient, the lowest first."""
    truth = is_tumor(test)
    right = {f"{name}_accuracy": (test[name].to_numpy(np.float64) >= threshold) == truth for name in NETWORKS}
    table = test[["patient_id"]].assign(tiles=1, tumor_tiles=truth.astype(int), **right)
    how = {"tiles": "sum", "tumor_tiles": "sum", **dict.fromkeys(right, "mean")}
    found = table.groupby("patient_id", sort=True).agg(how).reset_index()
    return found.sort_values([*right, "patient_id"], kind="stable").reset_index(drop=True)


def worst_slides(table: pd.DataFrame, most: int = 5) -> pd.DataFrame:
    """Return the rows of `slides_table` that the classifier knows least, then the segmenter; only those with errors."""
    columns = [f"{name}_accuracy" for name in NETWORKS]
    wrong = table[(table[columns] < 1).any(axis=1)]
    return wrong.sort_values([*columns, "slide_id"], kind="stable").head(most)
