"""The tables of a report, one CSV for each table and curve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.classes import CLASSES, LABELS, NETWORKS
from vitrail.evaluation.names import ALL_SCORES, ROWS, SINGLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vitrail.metrics.calibration import Reliability

    Metrics = Mapping[str, Any]

AGREEMENTS = {"bias": "bias", "lower": "lower limit", "upper": "upper limit", "pearson": "correlation"}
"""What is said of the agreement of tumor shares, and what it is called."""


def networks_table(test: Metrics) -> pd.DataFrame:
    """Return the paper's Table 2: one row a network or ensemble, each score with both ends of its interval.

    Parameters
    ----------
    test
        What `Evaluation.metrics` says of the test tiles; as of the other tables.
    """
    return pd.DataFrame([{"network": title} | _side_by_side(test[name], ALL_SCORES) for name, title in ROWS.items()])


def jaccard_table(test: Metrics) -> pd.DataFrame:
    """Return the Jaccard coefficient of each class, and their mean."""
    pixels, ends = test["pixels"], test["pixels"]["interval"]
    rows = [(tissue.title, pixels["jaccard"][tissue.key], *ends["jaccard"][tissue.key]) for tissue in CLASSES]
    mean = ("Mean", pixels["mean_jaccard"], *ends["mean_jaccard"])
    return pd.DataFrame([*rows, mean], columns=["class", "jaccard", "low", "high"])


def differences_table(test: Metrics) -> pd.DataFrame:
    """Return the paired differences: one row a pair and score."""
    rows = []
    for pair, by_score in test["differences"].items():
        first, second = pair.split("_minus_")
        for score in ALL_SCORES:
            entry = by_score[score]
            ends = entry["interval"]
            rows.append((first, second, score, entry["difference"], *ends, entry["p"], entry.get("p_delong", np.nan)))
    columns = ["first", "second", "score", "difference", "low", "high", "p", "p_delong"]
    return pd.DataFrame(rows, columns=columns)


def thresholds_table(test: Metrics) -> pd.DataFrame:
    """Return the thresholds that the validation tiles choose, and what they come to on the test tiles."""
    return pd.DataFrame(
        {"network": name, "rule": rule, "threshold": test["operating"][name][rule]["threshold"]}
        | _side_by_side(test["operating"][name][rule], ("sensitivity", "specificity", "accuracy"))
        for name in SINGLE
        for rule in ("youden", "sensitivity")
    )


def calibration_table(diagrams: Mapping[str, Mapping[str, Reliability]]) -> pd.DataFrame:
    """Return the bins of the reliability diagrams, of equal width and of equal count; see `Evaluation.reliability`."""
    parts = []
    for name in SINGLE:
        for kind, bins in diagrams[name].items():
            columns = {"network": name, "bins": kind, "from": bins.edges[:-1], "to": bins.edges[1:]}
            columns |= {"tiles": bins.count, "predicted": bins.predicted, "observed": bins.observed}
            parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def agreement_table(test: Metrics) -> pd.DataFrame:
    """Return how far the tumor shares of slides agree with the annotation."""
    rows = [
        (name, title, test["slides"][name][key], *test["slides"][name]["interval"][key])
        for name in NETWORKS
        for key, title in AGREEMENTS.items()
    ]
    return pd.DataFrame(rows, columns=["network", "measure", "value", "low", "high"])


def groups_table(test: Metrics) -> pd.DataFrame:
    """Return the scores of each group of each attribute: one row a group and network."""
    rows = [
        {"attribute": attribute, "group": group["group"], "patients": group["patients"], "tiles": group["tiles"],
         "warning": group["warning"] or "", "network": network} | _side_by_side(group[network], ALL_SCORES)
        for attribute, groups in test["groups"].items()
        for group in groups
        for network in NETWORKS
    ]  # fmt: skip
    ends = [f"{score}{end}" for score in ALL_SCORES for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["attribute", "group", "patients", "tiles", "warning", "network", *ends])


def confusion_tables(test: Metrics) -> dict[str, pd.DataFrame]:
    """Return the confusion matrix of tiles by each row that has one, and of pixels; rows = truth."""
    kinds = dict.fromkeys(ROWS, LABELS) | {"pixels": CLASSES}
    return {
        name: pd.DataFrame(
            [(kind.key, *row) for kind, row in zip(classes, test[name]["confusion"], strict=True)],
            columns=["truth", *(f"predicted_{kind.key}" for kind in classes)],
        )
        for name, classes in kinds.items()
        if test[name]["confusion"] is not None
    }


def _side_by_side(entry: Metrics, names: Iterable[str]) -> dict[str, float]:
    """Return scores with both ends of their intervals."""
    row: dict[str, float] = {}
    for score in names:
        low, high = entry["interval"][score]
        row |= {score: entry[score], f"{score}_low": low, f"{score}_high": high}
    return row
