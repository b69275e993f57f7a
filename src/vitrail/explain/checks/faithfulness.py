"""What deletion and insertion come to: areas under curves, and which replacement is a test at all.

A replacement that leaves the evidence tests nothing: whatever a map points at, the score stays. How much it leaves is
measured on the tiles that are wholly replaced: (score replaced - score of tiles without evidence) / (score as they are
- score of tiles without evidence), where tiles without evidence are test tiles that are not tumor and that the network
calls so. It is a test where that share is below `LEFT` and its whole 95 % interval, over patients, below 1: something
is certainly taken away, and four fifths of it in the mean. In simulated cohorts of 2 to 15 patients what takes nothing
away is never called a test, what leaves half in 0 to 5.5 % of cohorts, and what leaves three tenths in 0 to 21 %. That
is lenient on purpose: a map that knows nothing beats a random order no sooner for it, since both follow the same
tiles and the same replacement.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, spearmanr

from vitrail.metrics.bootstrap import RESAMPLES, Drawn, Estimate, by_patient, interval, ratio, sample
from vitrail.metrics.scores import divided

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

LEFT = 0.2
"""A replacement is a test where it leaves less than this share of the score; a convention: four fifths have to go."""

FEWEST_ORDERS = 3
"""Orders whose ranks can agree or not, at least."""


def curve_areas(perturbation: pd.DataFrame, value: str = "score") -> pd.DataFrame:
    """Return the area under each curve, by trapezoids.

    Parameters
    ----------
    perturbation
        The table.
    value
        The curve: `score` or `logit`.

    Returns
    -------
    pd.DataFrame
        One row a tile; index `tile`, `patient_id`; columns `(network, replacement, order, kind)`.
    """
    owner, names = ["tile", "patient_id"], ["network", "replacement", "order", "kind"]
    if perturbation.empty:
        return pd.DataFrame(index=pd.MultiIndex.from_tuples([], names=owner))
    fractions = np.unique(perturbation["fraction"])
    steps = np.diff(fractions)
    weights = (np.append(steps, 0) + np.append(0, steps)) / 2
    parts = perturbation[value] * weights[np.searchsorted(fractions, perturbation["fraction"])]
    table = perturbation[[*owner, *names]].assign(area=parts)
    return table.pivot_table("area", owner, names, aggfunc="sum")


def left_over(
    whole: ArrayLike, replaced: ArrayLike, patients: ArrayLike, without: ArrayLike, their_patients: ArrayLike, seed: int
) -> Estimate:
    """Return the share of the score that a replacement leaves, with its 95 % interval over patients.

    Parameters
    ----------
    whole, replaced
        The scores of tiles as they are, and wholly replaced, `[tiles]`.
    patients
        Whose they are, `[tiles]`.
    without
        The scores of tiles without evidence, `[n]`; where there are none, a score of 0 is taken for theirs, which asks
        more of a replacement.
    their_patients
        Whose those are, `[n]`; they may be the same patients.
    seed
        The same seed draws the same patients.

    Returns
    -------
    Estimate
        0: nothing is left; 1: all of it. NaN where tiles as they are score no more than those without evidence.
    """
    owners = np.concatenate([np.asarray(patients, np.str_), np.asarray(their_patients, np.str_)])
    checked, others = np.zeros((2, len(owners)))
    tiles = len(np.asarray(patients))
    checked[:tiles], others[tiles:] = 1, 1
    scores = np.zeros((3, len(owners)))
    scores[0, :tiles], scores[1, :tiles], scores[2, tiles:] = whole, replaced, without
    sums = by_patient(owners, np.column_stack([*scores, checked, others])).T
    weights = sample(sums.shape[1], RESAMPLES, seed)
    top, bottom = (ratio(sums[row], sums[3], weights, "plain") for row in (1, 0))
    if others.any():
        floor = ratio(sums[2], sums[4], weights, "plain")
        top, bottom = top - floor, bottom - floor
    share = divided(top.value, np.where(bottom.value > 0, bottom.value, 0))
    influence = divided(top.influence - share[:, None] * bottom.influence, bottom.value[:, None])
    drawn = Drawn(value=share, influence=influence)
    return Estimate(float(drawn), *interval(drawn, weights))


def judge_replacements(perturbation: pd.DataFrame, reference: pd.DataFrame, seed: int) -> dict[str, dict[str, Any]]:
    """Decide which replacements are a test for which network.

    Parameters
    ----------
    perturbation, reference
        The tables.
    seed
        Draws the patients of the intervals.

    Returns
    -------
    dict[str, dict[str, Any]]
        By network and replacement the mean scores of the tiles as they are (`tile`), wholly `replaced`, and of tiles
        `without` evidence (null where there are none); `left`, what `left_over` returns; whether it is a `test`, of a
        single patient by the value alone; and a `sentence` where it is none, else null.
    """
    # deletion begins with the tile as it is, insertion with what is replaced; all orders share these
    begun = perturbation[perturbation["fraction"] == 0]
    begun = begun.drop_duplicates(["tile", "network", "replacement", "kind"])
    judged: dict[str, dict[str, Any]] = {}
    for (network, name), rows in begun.groupby(["network", "replacement"], sort=False):
        ends = rows.pivot_table("score", ["tile", "patient_id"], "kind")
        without = reference[reference["network"] == network]
        left = left_over(
            ends["deletion"], ends["insertion"], ends.index.get_level_values("patient_id"), without["score"],
            without["patient_id"], seed,
        )  # fmt: skip
        test = bool(left.value < LEFT and not left.high >= 1)  # without an interval, the value alone; NaN is no test
        entry = {
            "tile": float(ends["deletion"].mean()),
            "replaced": float(ends["insertion"].mean()),
            "without": float(without["score"].mean()) if len(without) else None,
            "left": left.json,
            "test": test,
        }
        judged.setdefault(str(network), {})[str(name)] = entry | {
            "sentence": None if test else refusal(str(name), entry)
        }
    return judged


def refusal(name: str, judged: Mapping[str, Any]) -> str:
    """Say that a replacement is no test, and why."""
    reference = "" if judged["without"] is None else f" (tiles without tumor score {judged['without']:.2f})"
    value, low, high = judged["left"]
    share = "" if value is None else f", {value:.0%} of what it should take away"
    if low is not None and high is not None:
        share += f" ({low:.0%} to {high:.0%})"
    return (
        f"replacing whole tiles by {name} moves the network's mean score from {judged['tile']:.2f} to "
        f"{judged['replaced']:.2f}{reference}: it leaves too much{share}, and is no test"
    )


def rank_agreement(
    areas: pd.DataFrame, logits: pd.DataFrame, network: str, judged: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return how far replacements rank the orders alike, by insertion minus deletion; and score and logit.

    Parameters
    ----------
    areas, logits
        What `curve_areas` returns for `score` and `logit`.
    network
        Which network.
    judged
        By replacement what `judge_replacements` returns.

    Returns
    -------
    list[dict[str, Any]]
        By pair `first` and `second` (two replacements; or `score` and `logit`, means over the replacements that are a
        test), whether both are a `test`, `spearman`, `kendall` (null for fewer than three orders), and the number of
        `orders`.
    """
    means = {name: faithfulness(areas, network, [name]).mean() for name in judged}
    tests = [name for name, entry in judged.items() if entry["test"]]
    pairs = [
        (first, second, {first, second} <= set(tests), means[first], means[second])
        for first, second in combinations(judged, 2)
    ]
    if tests:
        by_score, by_logit = (faithfulness(table, network, tests).mean() for table in (areas, logits))
        pairs.append(("score", "logit", True, by_score, by_logit))
    result = []
    for first, second, test, one, two in pairs:
        table = pd.concat([one, two], axis=1).dropna().to_numpy()
        enough = len(table) >= FEWEST_ORDERS and (np.ptp(table, axis=0) > 0).all()
        spearman, kendall = (float(of(*table.T).statistic) if enough else None for of in (spearmanr, kendalltau))
        entry = {"first": first, "second": second, "test": test, "spearman": spearman, "kendall": kendall}
        result.append(entry | {"orders": len(table)})
    return result


def faithfulness(areas: pd.DataFrame, network: str, replacements: Sequence[str]) -> pd.DataFrame:
    """Return insertion minus deletion of each order and tile, the mean over some replacements.

    Parameters
    ----------
    areas
        What `curve_areas` returns.
    network
        Which network.
    replacements
        At least one.

    Returns
    -------
    pd.DataFrame
        Rows as those of `areas`; a column for each order.
    """
    both = mean_areas(areas, network, replacements)
    return both["insertion"] - both["deletion"]


def mean_areas(areas: pd.DataFrame, network: str, replacements: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return by `deletion` and `insertion` the area of each tile and order, the mean over some replacements."""
    own = areas[network]
    return {
        kind: sum(own[name].xs(kind, axis=1, level="kind") for name in replacements) / len(replacements)
        for kind in ("deletion", "insertion")
    }
