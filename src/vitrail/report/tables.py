"""The report in numbers: `metrics.json` and one CSV for each table and curve."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.classes import CLASSES, TissueClass
from vitrail.measures import scores
from vitrail.report.data import NETWORKS
from vitrail.report.explained_tables import explanation_tables

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.report.data import ReportData

SCORES = {
    "accuracy": "Accuracy",
    "auc": "AUC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "precision": "Precision",
    "f1": "F1",
}
"""The columns of the paper's Table 2, in its order."""


def metrics(predictions: pd.DataFrame, threshold: float) -> dict[str, Any]:
    """Measure both networks on the test tiles; tumor is the positive class.

    Parameters
    ----------
    predictions
        As in `ReportData`.
    threshold
        A tile is called tumor when its tumor probability, or its fraction of pixels called tumor, reaches this.

    Returns
    -------
    `{"test": {"tiles", "patients", "classifier", "segmenter", "pixels"}}`. A network holds the six scores of `SCORES`
    and `confusion`, `[[tn, fp], [fn, tp]]`; `pixels` holds `jaccard` by class, `mean_jaccard` and the 4 x 4
    `confusion`, rows = truth. What is undefined is NaN.
    """
    test = predictions[predictions["split"] == "test"]
    truth = is_tumor(test)
    networks = {name: _network(truth, test[name].to_numpy(np.float64), threshold) for name in NETWORKS}
    counts = {"tiles": len(test), "patients": int(test["patient_id"].nunique())}
    return {"test": {**counts, **networks, "pixels": _pixels(test)}}


def is_tumor(tiles: pd.DataFrame) -> NDArray[np.bool_]:
    """Tell which tiles are labelled tumor."""
    return (tiles["label"] == TissueClass.TUMOR.key).to_numpy(dtype=bool)


def as_json(value: Any) -> str:
    """Write strict JSON with sorted keys, null for what is undefined, and every digit."""
    return json.dumps(_without_nan(value), indent=2, sort_keys=True, allow_nan=False) + "\n"


def write_tables(data: ReportData, measured: dict[str, Any], folder: Path) -> list[str]:
    """Write every table as CSV and return their file names."""
    tables = {
        "cohort": data.slides,
        "skipped": data.skipped,
        "networks": networks_table(measured),
        "jaccard": jaccard_table(measured),
        "slides": slides_table(data.predictions, data.threshold),
        **{f"confusion_{name}": matrix for name, matrix in _confusions(measured).items()},
        **{f"roc_{name}": _roc(data.predictions, name) for name in NETWORKS},
        **{f"training_{name}": table for name, table in data.history.items()},
        **(explanation_tables(data.explained) if data.explained else {}),
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    return [f"{name}.csv" for name in tables]


def networks_table(measured: dict[str, Any]) -> pd.DataFrame:
    """Return the paper's Table 2: one row a network, one column a score."""
    rows = [
        {"network": title, **{key: measured["test"][name][key] for key in SCORES}} for name, title in NETWORKS.items()
    ]
    return pd.DataFrame(rows)


def jaccard_table(measured: dict[str, Any]) -> pd.DataFrame:
    """Return the Jaccard coefficient of each class, and their mean."""
    pixels = measured["test"]["pixels"]
    rows = [(tissue.title, pixels["jaccard"][tissue.key]) for tissue in CLASSES]
    return pd.DataFrame([*rows, ("Mean", pixels["mean_jaccard"])], columns=["class", "jaccard"])


def slides_table(predictions: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Return tiles, accuracy of both networks and mean Jaccard of each test slide."""
    test = predictions[predictions["split"] == "test"]
    rows = []
    for slide_id, tiles in test.groupby("slide_id", sort=True):
        found = metrics(tiles, threshold)["test"]
        row = {"slide_id": slide_id, "patient_id": tiles["patient_id"].iloc[0], "tiles": found["tiles"]}
        row |= {f"{name}_accuracy": found[name]["accuracy"] for name in NETWORKS}
        rows.append({**row, "mean_jaccard": found["pixels"]["mean_jaccard"]})
    columns = ["slide_id", "patient_id", "tiles", *(f"{name}_accuracy" for name in NETWORKS), "mean_jaccard"]
    return pd.DataFrame(rows, columns=columns)


def _network(truth: NDArray[np.bool_], score: NDArray[np.float64], threshold: float) -> dict[str, Any]:
    matrix = scores.confusion(truth, score >= threshold, 2)
    return {
        "accuracy": float(scores.accuracy(matrix)),
        "auc": float(scores.auc(truth, score)),
        "sensitivity": float(scores.sensitivity(matrix)),
        "specificity": float(scores.specificity(matrix)),
        "precision": float(scores.precision(matrix)),
        "f1": float(scores.f1(matrix)),
        "confusion": matrix.tolist(),
    }


def _pixels(tiles: pd.DataFrame) -> dict[str, Any]:
    n = len(CLASSES)
    matrix = np.zeros((n, n), np.int64)
    for counts in tiles["pixels"]:
        matrix += np.asarray(counts, np.int64).reshape(n, n)
    each = scores.jaccard(matrix)
    return {
        "jaccard": {tissue.key: float(each[tissue]) for tissue in CLASSES},
        "mean_jaccard": float(scores.mean_jaccard(matrix)),
        "confusion": matrix.tolist(),
    }


def _confusions(measured: dict[str, Any]) -> dict[str, pd.DataFrame]:
    tile = [TissueClass.NON_TUMOR, TissueClass.TUMOR]
    wanted = {"classifier": tile, "segmenter": tile, "pixels": list(CLASSES)}
    return {
        name: pd.DataFrame(
            [[kind.key, *row] for kind, row in zip(kinds, measured["test"][name]["confusion"], strict=True)],
            columns=["truth", *(f"predicted_{kind.key}" for kind in kinds)],
        )
        for name, kinds in wanted.items()
    }


def _roc(predictions: pd.DataFrame, name: str) -> pd.DataFrame:
    test = predictions[predictions["split"] == "test"]
    fpr, tpr, thresholds = scores.roc_curve(is_tumor(test), test[name].to_numpy(np.float64))
    return pd.DataFrame({"threshold": thresholds, "false_positive_rate": fpr, "true_positive_rate": tpr})


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
