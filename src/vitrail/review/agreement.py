"""What the raters said, in numbers: how far they agree with each other, with themselves, with networks and maps."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.classes import TASKS
from vitrail.metrics.bootstrap import estimate
from vitrail.metrics.kappa import cohen_kappa, fleiss_kappa
from vitrail.review.queue import ANSWERS

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from vitrail.metrics.bootstrap import Estimate
    from vitrail.review.judgements import Judgements

_DECIDED = ("tumor", "non_tumor")


def raters_summary(judgements: Judgements, threshold: float = 0.5, seed: int = 0) -> dict[str, Any]:
    """Compute the agreement of raters.

    Only blind answers count, but for `changed`; a rater's answer to the repeat of a case counts only where they are
    compared with themselves. Intervals are over patients.

    Parameters
    ----------
    judgements
        Of one queue.
    threshold
        From which score on a network calls a tile tumor.
    seed
        Of the intervals.

    Returns
    -------
    dict[str, Any]
        JSON; triples are a value and its 95 % interval, null where undefined. `cases`, `raters` with their number of
        `judged` cases and median `seconds`; `own`, kappa of each rater with themselves; `pairs`, Cohen's kappa of each
        two; `fleiss` of all. Of a question about classes: `networks`, by network and rater the share of equal answers
        and kappa, over the cases drawn by chance as well (`random_share`); `labels`, the same against the outlines;
        `changed`, the share of answers that were changed once the prediction was shown. Of one about explanations:
        `answers`, the share of each.
    """
    queue, table = judgements.queue, judgements.table()
    answers = list(ANSWERS[queue.spec.question])
    blind = table[~table["shown"].astype(bool)]
    first = blind[blind["reason"] != "repeat"]
    raters = sorted(set(first["rater"]))
    summary: dict[str, Any] = {
        "cases": len(queue),
        "question": queue.spec.question,
        "by": queue.spec.by,
        "raters": {
            rater: {
                "judged": int((first["rater"] == rater).sum()),
                "seconds": float(first.loc[first["rater"] == rater, "seconds"].median()),
            }
            for rater in raters
        },
        "own": {rater: _own(blind[blind["rater"] == rater], answers, seed).json for rater in raters},
        "pairs": {
            f"{one} / {other}": _pair(first, (one, other), answers, seed).json for one, other in combinations(raters, 2)
        },
    }
    counts = np.stack(
        [_one_hot(rows["answer"], answers).sum(0) for _, rows in first.groupby("case")] or [[0] * len(answers)]
    )
    owners = first.groupby("case")["patient_id"].first().to_numpy() if len(first) else np.array(["none"])
    summary["fleiss"] = fleiss_kappa(counts, owners, seed).json
    if queue.spec.question == "class":
        summary["networks"] = {
            task: _against(first, raters, (first[task] >= threshold).to_numpy(), seed) for task in TASKS
        }
        summary["labels"] = _against(first, raters, (first["label"] == "tumor").to_numpy(), seed)
        summary["changed"] = _changed(table, seed).json
    else:
        shares = {}
        for answer in answers:
            given = (first["answer"] == answer).to_numpy(np.float64)
            shares[answer] = _share(given, first["patient_id"].to_numpy(), seed).json
        summary["answers"] = shares
        summary["map"] = [queue.spec.network, queue.spec.method]
    return summary


def _one_hot(answers: pd.Series[str], names: list[str]) -> NDArray[np.float64]:
    return np.array(answers.to_numpy(dtype=str)[:, None] == np.array(names), np.float64)


def _kappa_of(
    one: pd.Series[str], other: pd.Series[str], owners: NDArray[Any], names: list[str], seed: int
) -> Estimate:
    tables = _one_hot(one, names)[:, :, None] * _one_hot(other, names)[:, None, :]
    return cohen_kappa(tables, owners, seed)


def _pair(rows: pd.DataFrame, raters: tuple[str, str], names: list[str], seed: int) -> Estimate:
    one, other = (rows[rows["rater"] == rater] for rater in raters)
    both = one.merge(other[["case", "answer"]], on="case", suffixes=("", "_other"))
    return _kappa_of(both["answer"], both["answer_other"], both["patient_id"].to_numpy(), names, seed)


def _own(rows: pd.DataFrame, names: list[str], seed: int) -> Estimate:
    again = rows[rows["reason"] == "repeat"]
    both = again.merge(rows[["case", "answer"]], left_on="of", right_on="case", suffixes=("", "_first"))
    return _kappa_of(both["answer_first"], both["answer"], both["patient_id"].to_numpy(), names, seed)


def _against(rows: pd.DataFrame, raters: list[str], tumor: NDArray[np.bool_], seed: int) -> dict[str, Any]:
    """Compare each rater with calls of tumor, on the cases that the rater decided."""
    decided = rows["answer"].isin(_DECIDED).to_numpy()
    said, chance = (rows["answer"] == "tumor").to_numpy(), (rows["reason"] == "random").to_numpy()
    result = {}
    for rater in raters:
        own = decided & (rows["rater"] == rater).to_numpy()
        owners = rows["patient_id"].to_numpy()
        calls = np.where(tumor[own], "tumor", "non_tumor")
        tables = _one_hot(rows.loc[own, "answer"], list(_DECIDED))[:, :, None]
        tables = tables * (calls[:, None] == np.array(_DECIDED))[:, None, :]
        equal, by_chance = (said == tumor).astype(np.float64), own & chance
        result[rater] = {
            "cases": int(own.sum()),
            "share": _share(equal[own], owners[own], seed).json,
            "kappa": cohen_kappa(tables, owners[own], seed).json,
            "random_share": _share(equal[by_chance], owners[by_chance], seed).json,
        }
    return result


def _changed(table: pd.DataFrame, seed: int) -> Estimate:
    """Return how many answers were changed once what the networks say was shown."""
    shown = table["shown"].astype(bool)
    both = table[~shown].merge(
        table.loc[shown, ["case", "rater", "answer"]], on=["case", "rater"], suffixes=("", "_after")
    )
    different = (both["answer"] != both["answer_after"]).to_numpy(np.float64)
    return _share(different, both["patient_id"].to_numpy(), seed)


def _share(values: NDArray[Any], patients: NDArray[Any], seed: int) -> Estimate:
    return estimate(values, np.ones(len(values)), patients, seed, "share")
