"""The report in numbers: `metrics.json` and one CSV for each table and curve."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.classes import CLASSES, LABELS
from vitrail.core.files import write_csv
from vitrail.evaluation.explanations import check_tables, explanation_tables
from vitrail.metrics import scores
from vitrail.metrics.calibration import equal_count, equal_width, reliability
from vitrail.report.data import NETWORKS
from vitrail.report.scored import CALIBRATION, SCORES, is_tumor, patients_table, slides_table
from vitrail.report.select import examples_table
from vitrail.report.statistics import OPERATED, ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from vitrail.classes import TissueClass
    from vitrail.report.data import ReportData
    from vitrail.report.statistics import Rated

    Measured = dict[str, Any]

ALL_SCORES = SCORES | CALIBRATION

_AGREEMENTS = {"bias": "bias", "lower": "lower limit", "upper": "upper limit", "pearson": "correlation"}


def as_json(value: Any) -> str:
    """Write strict JSON with sorted keys, null for what is undefined, and every digit."""
    return json.dumps(_without_nan(value), indent=2, sort_keys=True, allow_nan=False) + "\n"


def write_tables(data: ReportData, rated: Rated, measured: Measured, folder: Path) -> list[str]:
    """Write every table as CSV and return their file names."""
    explained = data.explained
    tables = {
        "cohort": data.slides,
        "skipped": data.skipped,
        "networks": networks_table(measured),
        "jaccard": jaccard_table(measured),
        "differences": differences_table(measured),
        "operating": operating_table(measured),
        "calibration": calibration_table(rated),
        "slides": slides_table(rated.test, data.threshold),
        "slide_agreement": agreement_table(measured),
        "patients": patients_table(rated.test, data.threshold),
        "groups": groups_table(measured),
        **{f"confusion_{name}": matrix for name, matrix in _confusions(measured).items()},
        **{f"roc_{name}": _roc(rated, name) for name in ROWS if len(rated.said[name]) == 1},
        **{f"training_{name}": table for name, table in data.history.items()},
        **(
            explanation_tables(explained.stored) | {"explained_examples": examples_table(explained)}
            if explained
            else {}
        ),
        **(check_tables(explained.checked) if explained and explained.checked else {}),
        **({"search": pd.DataFrame([asdict(one) for one in data.search.combinations])} if data.search else {}),
    }
    for name, table in tables.items():
        write_csv(folder / f"{name}.csv", table)
    return [f"{name}.csv" for name in tables]


def networks_table(measured: Measured) -> pd.DataFrame:
    """Return the paper's Table 2: one row a network or ensemble, each score with both ends of its interval."""
    test = measured["test"]
    return pd.DataFrame([{"network": title} | _flat(test[name], ALL_SCORES) for name, title in ROWS.items()])


def jaccard_table(measured: Measured) -> pd.DataFrame:
    """Return the Jaccard coefficient of each class, and their mean."""
    pixels = measured["test"]["pixels"]
    ends = pixels["interval"]
    rows = [(tissue.title, pixels["jaccard"][tissue.key], *ends["jaccard"][tissue.key]) for tissue in CLASSES]
    mean = ("Mean", pixels["mean_jaccard"], *ends["mean_jaccard"])
    return pd.DataFrame([*rows, mean], columns=["class", "jaccard", "low", "high"])


def differences_table(measured: Measured) -> pd.DataFrame:
    """Return the paired differences: one row a pair and score."""
    rows = []
    for pair, found in measured["test"]["differences"].items():
        first, second = pair.split("_minus_")
        for score in ALL_SCORES:
            one = found[score]
            low, high = one["interval"]
            row = {"first": first, "second": second, "score": score, "difference": one["difference"], "low": low}
            rows.append({**row, "high": high, "p": one["p"], "p_delong": one.get("p_delong", np.nan)})
    return pd.DataFrame(rows)


def operating_table(measured: Measured) -> pd.DataFrame:
    """Return the thresholds that the validation tiles choose, and what they come to on the test tiles."""
    rows = []
    for name in OPERATED:
        found = measured["test"]["operating"][name]
        for rule in ("youden", "sensitivity"):
            row = {"network": name, "rule": rule, "threshold": found[rule]["threshold"]}
            rows.append(row | _flat(found[rule], ("sensitivity", "specificity", "accuracy")))
    return pd.DataFrame(rows)


def calibration_table(rated: Rated) -> pd.DataFrame:
    """Return the bins of the reliability diagram, of equal width and of equal count."""
    tables = []
    for name in OPERATED:
        (score,) = rated.said[name]
        for kind, edges in {"equal width": equal_width(), "equal count": equal_count(score)}.items():
            found = reliability(is_tumor(rated.test), score, edges)
            table = {"network": name, "bins": kind, "from": edges[:-1], "to": edges[1:], "tiles": found.count}
            tables.append(pd.DataFrame({**table, "predicted": found.predicted, "observed": found.observed}))
    return pd.concat(tables, ignore_index=True)


def agreement_table(measured: Measured) -> pd.DataFrame:
    """Return how far the tumor shares of slides agree with the annotation."""
    found = measured["test"]["slides"]
    rows = [
        {"network": name, "measure": title, "value": found[name][key]}
        | dict(zip(("low", "high"), found[name]["interval"][key], strict=True))
        for name in NETWORKS
        for key, title in _AGREEMENTS.items()
    ]
    return pd.DataFrame(rows)


def groups_table(measured: Measured) -> pd.DataFrame:
    """Return the scores of each group of each attribute: one row a group and network."""
    rows = [
        {"attribute": attribute, "group": group["group"], "patients": group["patients"], "tiles": group["tiles"],
         "warning": group["warning"] or "", "network": network} | _flat(group[network], ALL_SCORES)
        for attribute, groups in measured["test"]["groups"].items()
        for group in groups
        for network in NETWORKS
    ]  # fmt: skip
    ends = [f"{score}{end}" for score in ALL_SCORES for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["attribute", "group", "patients", "tiles", "warning", "network", *ends])


def _flat(entry: Mapping[str, Any], names: Mapping[str, str] | tuple[str, ...]) -> dict[str, float]:
    """Return scores with both ends of their intervals, side by side."""
    flat: dict[str, float] = {}
    for score in names:
        low, high = entry["interval"][score]
        flat |= {score: entry[score], f"{score}_low": low, f"{score}_high": high}
    return flat


def _confusions(measured: Measured) -> dict[str, pd.DataFrame]:
    wanted: dict[str, tuple[TissueClass, ...]] = dict.fromkeys(ROWS, LABELS) | {"pixels": CLASSES}
    return {
        name: pd.DataFrame(
            [[kind.key, *row] for kind, row in zip(kinds, measured["test"][name]["confusion"], strict=True)],
            columns=["truth", *(f"predicted_{kind.key}" for kind in kinds)],
        )
        for name, kinds in wanted.items()
        if measured["test"][name]["confusion"] is not None
    }


def _roc(rated: Rated, name: str) -> pd.DataFrame:
    fpr, tpr, thresholds = scores.roc_curve(is_tumor(rated.test), rated.said[name][0])
    return pd.DataFrame({"threshold": thresholds, "false_positive_rate": fpr, "true_positive_rate": tpr})


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
