"""How true the labels are: the estimated share of wrong ones, and the tiles whose label both networks contradict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from vitrail.classes import LABELS
from vitrail.evaluation.intervals import with_intervals
from vitrail.evaluation.names import SINGLE
from vitrail.evaluation.tiles import is_tumor, single_scores
from vitrail.metrics.bootstrap import sample
from vitrail.metrics.label_noise import noise_by_errors, noise_parts
from vitrail.metrics.scores import auc
from vitrail.review.labels import contradicted_labels, unseen

ISSUES = (
    "row", "slide_id", "patient_id", "split", "x", "y", "side", "label", "classifier", "segmenter", "strength",
    "annotated", "contrary",
)  # fmt: skip
"""The columns of `label_issues`."""


def label_metrics(predictions: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    """Estimate how many labels are wrong; see `vitrail.metrics.label_noise`.

    Parameters
    ----------
    predictions
        As in `Evaluation`.
    resamples, seed
        Of the intervals.

    Returns
    -------
    dict[str, Any]
        `tiles` and `patients` that no network had seen when it predicted them, and of how many of these tiles the
        `split` is which; by the names of `SINGLE` the share `noise` of labels that are wrong, of those that say `tumor`
        and of those that say `non_tumor`, with their `interval`, the `joint` distribution of label (rows) and
        estimated truth, and the noise `by_errors` that a network of the same AUC would show of labels that are all
        true; and how many tiles are `contradicted` by both networks, by label.
    """
    tiles = predictions[unseen(predictions)]
    tumor, patients = is_tumor(tiles), tiles["patient_id"].to_numpy()
    weights = sample(tiles["patient_id"].nunique(), resamples, seed)
    result: dict[str, Any] = {
        "tiles": len(tiles),
        "patients": int(tiles["patient_id"].nunique()),
        "split": {str(name): int(count) for name, count in tiles["split"].value_counts().sort_index().items()},
    }
    for name, score in single_scores(tiles).items():
        parts = noise_parts(tumor, score, patients)
        rates = parts.rates(weights)
        named = {"noise": rates["noise"], "tumor": rates["positive"], "non_tumor": rates["negative"]}
        by_errors = noise_by_errors(float(auc(tumor, score)), float(tumor.mean()) if len(tumor) else np.nan)
        result[name] = with_intervals(named, weights)
        result[name] |= {"joint": parts.distribution.tolist(), "by_errors": by_errors}
    issues = label_issues(predictions)["label"]
    result["contradicted"] = {label.key: int((issues == label.key).sum()) for label in LABELS}
    return result


def label_issues(predictions: pd.DataFrame) -> pd.DataFrame:
    """List the tiles whose label both networks contradict, those first that are contradicted most.

    Parameters
    ----------
    predictions
        As in `Evaluation`.

    Returns
    -------
    pd.DataFrame
        `row` of the tile table; `slide_id`, `patient_id`, `split`, `x`, `y`, `side`, `label`, `classifier` and
        `segmenter` as there; `strength`, the probability of the other class by the network that gives it less;
        `annotated`, the share of the tile's mask that was outlined at all, and `contrary`, that outlined as the other
        class, NaN where masks were not counted; and the networks' spread where it is known.
    """
    strength = contradicted_labels(predictions)
    (chosen,) = np.nonzero(np.isfinite(strength))
    chosen = chosen[np.argsort(-strength[chosen], kind="stable")]
    own = predictions.iloc[chosen].assign(row=chosen, strength=strength[chosen])
    shares = own.reindex(columns=[label.key for label in LABELS]).to_numpy(np.float64)
    own = own.assign(annotated=shares.sum(1), contrary=np.where(is_tumor(own), shares[:, 1], shares[:, 0]))
    spreads = [name for name in ("classifier_spread", "segmenter_spread") if name in own]
    return own[[*ISSUES, *spreads]].reset_index(drop=True)


def noise_table(labels: dict[str, Any]) -> pd.DataFrame:
    """Return the estimated shares of wrong labels, a row for each network and kind of label.

    Parameters
    ----------
    labels
        Of `label_metrics`.

    Returns
    -------
    pd.DataFrame
        `network`, `labels` (`all`, `tumor`, `non_tumor`), `noise`, `low`, `high`, and of all labels `by_errors`.
    """
    rows = [
        (
            name,
            title,
            labels[name][key],
            *labels[name]["interval"][key],
            labels[name]["by_errors"] if key == "noise" else np.nan,
        )
        for name in SINGLE
        for key, title in (("noise", "all"), ("tumor", "tumor"), ("non_tumor", "non_tumor"))
    ]
    return pd.DataFrame(rows, columns=["network", "labels", "noise", "low", "high", "by_errors"])
