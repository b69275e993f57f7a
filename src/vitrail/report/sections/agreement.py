"""The explanations in numbers: `metrics.json` and one CSV for each table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.classes import NETWORKS
from vitrail.report.sections import checks as checks_tables

if TYPE_CHECKING:
    from vitrail.report.data import Explained

PAPER_MODES = {
    "classifier_gradcam_hrcam": 0.7000,
    "segmenter_gradcam_hrcam": 0.3667,
    "gradcam_classifier_segmenter": 0.2333,
    "hrcam_classifier_segmenter": 0.5667,
}
"""The modes that the paper gives for its own data (in the text on class activation maps)."""

PAIR_TITLES = {
    "classifier_gradcam_hrcam": "Classification network: Grad-CAM and HR-CAM",
    "segmenter_gradcam_hrcam": "Segmentation network: Grad-CAM and HR-CAM",
    "gradcam_classifier_segmenter": "Grad-CAM: both networks",
    "hrcam_classifier_segmenter": "HR-CAM: both networks",
}


def explanation_metrics(explained: Explained) -> dict[str, Any]:
    """Return what `metrics.json` holds about explanations.

    Returns
    -------
    `agreement` and `agreement_relu` by pair of maps, `hrcam_accuracy` by network, `min_share` (the tiles it
    learnt from hold at least this share of one class), `empty` (maps that are 0 everywhere
    after ReLU) by kind, the numbers of `tiles` and `patients`, and `checks`, None where nobody has checked.
    """
    summary = explained.stored.summary
    kept = ("agreement", "agreement_relu", "hrcam_accuracy", "min_share", "empty", "tiles", "patients")
    checked = explained.checked
    return {name: summary[name] for name in kept} | {"checks": None if checked is None else checked.summary}


def explanation_tables(explained: Explained) -> dict[str, pd.DataFrame]:
    """Return every table about explanations by the name of its file."""
    summary = explained.stored.summary
    tables = {
        "agreement": agreement_table(summary),
        "hrcam_accuracy": accuracy_table(summary),
        "layers": layers_table(summary),
        "empty_maps": empty_table(summary),
        "explained_examples": examples_table(explained),
    }
    return tables | (checks_tables.check_tables(explained.checked) if explained.checked is not None else {})


def agreement_table(summary: dict[str, Any]) -> pd.DataFrame:
    """Return the agreement of each pair of maps, signed and after ReLU, and the paper's mode beside it.

    Pairs with a kind of maps whose zero means nothing have no row after ReLU.
    """
    rows = []
    for maps, name in (("as they are", "agreement"), ("relu", "agreement_relu")):
        for pair, found in summary[name].items():
            low, high = found["interval"]
            rows.append(
                {"pair": pair, "maps": maps, "mode": found["mode"], "mean": found["mean"], "mean_low": low,
                 "mean_high": high, "n": found["n"], "constant": found["constant"],
                 "mode_in_the_paper": PAPER_MODES[pair]}
            )  # fmt: skip
    return _numbers(pd.DataFrame(rows), ("mode", "mean", "mean_low", "mean_high"))


def accuracy_table(summary: dict[str, Any]) -> pd.DataFrame:
    """Return the accuracy of HR-CAM's own classifier over each network."""
    rows = []
    for network in NETWORKS:
        found = dict(summary["hrcam_accuracy"][network])
        low, high = found.pop("interval")
        rows.append({"network": network, "accuracy": found["accuracy"], "low": low, "high": high} | found)
    return _numbers(pd.DataFrame(rows), ("accuracy", "low", "high", "train_accuracy"))


def layers_table(summary: dict[str, Any]) -> pd.DataFrame:
    """Return the layers that HR-CAM looks at (the paper's Table 1)."""
    rows = [{"network": network} | layer for network in NETWORKS for layer in summary["layers"][network]]
    return pd.DataFrame(rows, columns=["network", "name", "stride", "channels", "size_px"])


def empty_table(summary: dict[str, Any]) -> pd.DataFrame:
    """Return how many maps of each kind are 0 everywhere after ReLU."""
    empty = summary["empty"]
    return pd.DataFrame({"maps": list(empty), "empty_after_relu": list(empty.values()), "tiles": summary["tiles"]})


def examples_table(explained: Explained) -> pd.DataFrame:
    """Return the tiles that the figures show, so that each can be found again."""
    chosen = explained.examples
    groups = {
        "correct tumor, Grad-CAM": chosen.tumor_mixed,
        "correct tumor, HR-CAM": chosen.tumor,
        "correct non-tumor": chosen.non_tumor,
        "disagreement": chosen.disagreement,
        "wrong": chosen.wrong,
    }
    rows = [row for group in groups.values() for row in group]
    table = explained.stored.rows.iloc[rows].reset_index(drop=True)
    table.insert(0, "shown_as", [name for name, group in groups.items() for _ in group])
    return table


def _numbers(table: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    """Turn columns that may hold None, which is undefined, into floats."""
    return table.astype(dict.fromkeys(columns, np.float64))
