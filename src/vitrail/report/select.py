"""Which explained tiles a report shows.

They are chosen by labels, probabilities and correlations, never by how a map looks. Every patient
gives one tile before any gives a second, so that no patient fills a figure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vitrail.classes import NETWORKS, TissueClass
from vitrail.report.data import Examples

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from vitrail.explain.study.store import Stored

    Flags = NDArray[np.bool_]
    Floats = NDArray[np.float64]

COLUMNS = 6
"""Tiles of each kind in a figure."""

MIXED = 0.2
"""A tile holds two kinds of tissue when tumor, and tissue that is not tumor, each fill this share of it."""

DISAGREEMENT = "gradcam_classifier_segmenter"
"""The pair of maps whose correlation says that the networks disagree."""


def choose_examples(stored: Stored, shares: pd.DataFrame, threshold: float) -> Examples:
    """Choose the tiles to show.

    Parameters
    ----------
    stored
        The explanations.
    shares
        `tumor`, `non_tumor` and `other` of each explained tile: what fraction of its pixels they fill.
    threshold
        A tile is called tumor when its tumor probability reaches this.
    """
    rows = stored.rows
    tumor = (rows["label"] == TissueClass.TUMOR.key).to_numpy()
    p = rows["classifier"].to_numpy(np.float64)
    called = p >= threshold
    beside = shares["non_tumor"].to_numpy() + shares["other"].to_numpy()
    mixed = (shares["tumor"].to_numpy() >= MIXED) & (beside >= MIXED)
    patients = rows["patient_id"].to_numpy()
    first = spread(patients, tumor & called, np.stack([~mixed, -p]))
    rest = tumor & called & ~np.isin(np.arange(len(rows)), first)
    r = stored.agreement[DISAGREEMENT].to_numpy(np.float64)
    wrong, error = _errors(rows, tumor, threshold)
    return Examples(
        tumor_mixed=first,
        tumor=spread(patients, rest, -p[None]),
        non_tumor=spread(patients, ~tumor & ~called, p[None]),
        disagreement=spread(patients, np.isfinite(r), r[None]),
        wrong=spread(patients, wrong, -error[None]),
    )


def _errors(rows: pd.DataFrame, tumor: Flags, threshold: float) -> tuple[Flags, Floats]:
    """Tell which tiles a network calls wrongly, and by how much the one that errs more is off."""
    p = rows[list(NETWORKS)].to_numpy(np.float64)
    wrong = (p >= threshold) != tumor[:, None]
    return wrong.any(1), np.where(wrong, np.abs(p - tumor[:, None]), 0).max(1)


def spread(patients: NDArray[np.object_], wanted: Flags, order: Floats, most: int = COLUMNS) -> tuple[int, ...]:
    """Choose rows so that every patient gives one before any gives a second.

    Parameters
    ----------
    patients
        Each row's patient, `[n]`.
    wanted
        The rows to choose from, `[n]`.
    order
        `[k, n]`: rows are sorted by the first key, then by the second, and so on, smallest first.
    most
        How many to choose.

    Returns
    -------
    The rows, best first within each round.
    """
    (found,) = np.nonzero(wanted)
    ranked = found[np.lexsort(order[::-1, found])]  # the last key of lexsort counts first
    seen: dict[object, int] = {}
    rounds = []
    for row in ranked:
        seen[patients[row]] = turn = seen.get(patients[row], -1) + 1
        rounds.append(turn)
    return tuple(int(row) for row in ranked[np.argsort(rounds, kind="stable")][:most])
