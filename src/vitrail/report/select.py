"""Which explained tiles a report shows.

They are chosen by labels, probabilities and correlations, never by how a map looks. Every patient
gives one tile before any gives a second, so that no patient fills a figure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vitrail.classes import NETWORKS, TissueClass
from vitrail.explain.study.store import pairs, split_key
from vitrail.report.data import Examples

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from vitrail.explain.study.store import Stored
    from vitrail.report.data import Explained

COLUMNS = 4
"""Tiles of each kind in a figure, at most."""

PAPER_METHODS = ("gradcam", "hrcam")
"""Those that stand in every figure of tiles."""

MOST = 4
"""Kinds of maps in a figure of tiles, so that nuclei can still be seen."""

MIXED = 0.2
"""A tile holds two kinds of tissue when tumor, and tissue that is not tumor, each fill this share of it."""


def network_pair(stored: Stored) -> str | None:
    """Return the pair of maps whose correlation says that the networks disagree: the first of one method."""
    return next(
        (name for name, keys in pairs(stored.keys).items() if len({split_key(key)[1] for key in keys}) == 1), None
    )


def shown_methods(stored: Stored, show: Sequence[str] = ()) -> list[str]:
    """Return the methods that figures of tiles show: the paper's two, and beside them those to show, `MOST` at most.

    Parameters
    ----------
    stored
        The explanations.
    show
        Names of methods, best first; none takes all.
    """
    paper = [name for name in PAPER_METHODS if name in stored.methods]
    others = [name for name in show or stored.methods if name in stored.methods and name not in paper]
    return (paper + others)[:MOST]


def shown_keys(explained: Explained) -> tuple[str, ...]:
    """Return the kinds of the classifier's maps that the figure of correctly called tiles shows."""
    keys = tuple(f"classifier_{method}" for method in shown_methods(explained.stored, explained.show))
    return tuple(key for key in keys if key in explained.stored.keys)


def compared_keys(explained: Explained, pair: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the kinds of both networks' maps that a figure compares, `MOST` at most.

    Parameters
    ----------
    explained
        What the report shows.
    pair
        The kinds that come first; beside them stands the best method that the paper lacks, if there is one. Without
        them the methods are Grad-CAM or the first there is, and that method or the last.
    """
    stored, methods = explained.stored, shown_methods(explained.stored, explained.show)
    further = [name for name in methods if name not in PAPER_METHODS][:1]
    names = [split_key(pair[0])[1], *further] if pair else [methods[0], *(further or methods[1:2])]
    keys = [f"{network}_{name}" for name in dict.fromkeys(names) for network in NETWORKS]
    return tuple(key for key in keys if key in stored.keys)[:MOST]


def closeup_key(stored: Stored, show: Sequence[str]) -> str:
    """Return the kind of map whose strongest place is enlarged: the classifier's by the best method, else the last."""
    methods = shown_methods(stored, show)
    name = next((name for name in show if name in methods), methods[-1])
    return next((key for key in (f"classifier_{name}", *stored.keys) if key in stored.keys), "")


def listed(words: Sequence[str]) -> str:
    """Return words as a list within a sentence."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


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
    rows, pair = stored.rows, network_pair(stored)
    tumor = (rows["label"] == TissueClass.TUMOR.key).to_numpy()
    patients, probability = rows["patient_id"].to_numpy(), rows["classifier"].to_numpy(np.float64)
    called = probability >= threshold
    beside = shares["non_tumor"].to_numpy() + shares["other"].to_numpy()
    mixed = (shares["tumor"].to_numpy() >= MIXED) & (beside >= MIXED)
    r = stored.agreement[pair].to_numpy(np.float64) if pair else np.full(len(rows), np.nan)
    both = rows[list(NETWORKS)].to_numpy(np.float64)
    wrong = (both >= threshold) != tumor[:, None]
    error = np.where(wrong, np.abs(both - tumor[:, None]), 0).max(1)  # of the network that errs more
    return Examples(
        tumor=spread(patients, tumor & called, np.stack([~mixed, -probability])),
        non_tumor=spread(patients, ~tumor & ~called, probability[None]),
        disagreement=spread(patients, np.isfinite(r), r[None]),
        wrong=spread(patients, wrong.any(1), -error[None]),
    )


def spread(
    patients: NDArray[np.object_], candidates: NDArray[np.bool_], order: NDArray[np.float64], most: int = COLUMNS
) -> tuple[int, ...]:
    """Choose rows so that every patient gives one before any gives a second.

    Parameters
    ----------
    patients
        Each row's patient, `[n]`.
    candidates
        The rows to choose from, `[n]`.
    order
        `[k, n]`: rows are sorted by the first key, then by the second, and so on, smallest first.
    most
        How many to choose.

    Returns
    -------
    tuple[int, ...]
        The rows, best first within each round.
    """
    (rows,) = np.nonzero(candidates)
    ranked = rows[np.lexsort(order[::-1, rows])]  # the last key of lexsort counts first
    turns: dict[object, int] = {}
    rounds = []
    for row in ranked:
        turns[patients[row]] = turn = turns.get(patients[row], -1) + 1
        rounds.append(turn)
    return tuple(int(row) for row in ranked[np.argsort(rounds, kind="stable")][:most])


def examples_table(explained: Explained) -> pd.DataFrame:
    """Return the tiles that the figures show, so that each can be found again."""
    stored, chosen = explained.stored, explained.examples
    groups = [
        ("correct tumor", chosen.tumor), ("correct non-tumor", chosen.non_tumor),
        ("disagreement", chosen.disagreement), ("wrong", chosen.wrong),
    ]  # fmt: skip
    table = stored.rows.iloc[[row for _, rows in groups for row in rows]].reset_index(drop=True)
    table.insert(0, "shown_as", [name for name, rows in groups for _ in rows])
    return table
