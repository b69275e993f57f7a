"""Which method to believe for a network: ranks over all metrics, and a recommendation that the numbers carry.

Metrics conflict, and no method wins all of them (LATEC: Klein et al. 2024, arXiv:2409.16756). So the ranks stand side
by side, with how far they agree (Kendall's W), and with those of maps that no method made. The recommendation rests on
one number alone that is decided beforehand: the area under insertion minus that under deletion, the mean over the
replacements that are a test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

from vitrail.classes import NETWORKS
from vitrail.explain.checks.faithfulness import faithfulness, mean_areas
from vitrail.explain.checks.localisation import CAUSE
from vitrail.explain.checks.perturbation import BASELINES, FLOORS, KINDS
from vitrail.metrics.bootstrap import RESAMPLES, by_patient, estimate, interval, p_value, ratio, sample

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike

    Values = dict[str, dict[str, float | None]]

LOST = 0.1
"""A randomised network's map passes as another one while its correlation is above chance by less than this.

The number is a convention, no finding: a correlation that explains one per cent of a map's variance is called lost.
"""

CHANCE = 0.1
"""Two-sided; half of it is how often any method may be recommended that is no better than a random order."""

INFORMATION = ("sparseness",)
"""Metrics that are listed and not ranked: a map of few places is easier to read, not truer."""


def rank_methods(values: Values) -> dict[str, Any]:
    """Rank methods and floors over metrics.

    Parameters
    ----------
    values
        By method and metric; None where a metric has no value. Of metrics whose name begins with `deletion`, and of
        `randomisation`, less is better; below `LOST` the latter all tie.

    Returns
    -------
    dict[str, Any]
        `ranks`, as `values`, 1 for the best and ties at their mean; and `mean_rank` by method, over the metrics that
        it has.
    """
    metrics = [metric for metric in next(iter(values.values()), {}) if metric not in INFORMATION]
    ranks: Values = {name: dict.fromkeys(metrics) for name in values}
    for metric in metrics:
        numbers = {name: number for name, row in values.items() if (number := row[metric]) is not None}
        badness = [_badness(metric, number) for number in numbers.values()]
        for name, rank in zip(numbers, rankdata(badness), strict=True):
            ranks[name][metric] = float(rank)
    own = {name: [rank for rank in row.values() if rank is not None] for name, row in ranks.items()}
    return {"ranks": ranks, "mean_rank": {name: float(np.mean(each)) for name, each in own.items() if each}}


def _badness(metric: str, value: float) -> float:
    if metric == "randomisation":
        return max(value, LOST)
    return value if metric.startswith("deletion") else -value


def concordance(values: Values, names: Sequence[str]) -> float | None:
    """Return Kendall's W of the metrics about some methods, with ties (Kendall and Smith 1939, doi:10.2307/2235668).

    Parameters
    ----------
    values
        As for `rank_methods`.
    names
        The methods; metrics that lack one of them take no part.

    Returns
    -------
    float | None
        1 where all metrics rank alike; one over their number is what random ranks give in the mean. None for fewer
        than two methods or metrics, and where all tie.
    """
    metrics = [metric for metric in next(iter(values.values()), {}) if metric not in INFORMATION]
    table = [[values[name][metric] for name in names] for metric in metrics]
    judges = [
        rankdata([_badness(metric, number) for number in row if number is not None])
        for metric, row in zip(metrics, table, strict=True)
        if None not in row
    ]
    m, n = len(judges), len(names)
    if min(m, n) < 2:
        return None
    sums = np.sum(judges, axis=0)
    ties = sum((counts**3 - counts).sum() for judge in judges for counts in [np.unique(judge, return_counts=True)[1]])
    most = m**2 * (n**3 - n) - m * ties
    return float(12 * np.square(sums - sums.mean()).sum() / most) if most > 0 else None


def recommend(
    tiles: pd.DataFrame, patients: ArrayLike, methods: Sequence[str], forgotten: Mapping[str, str], seed: int
) -> list[str]:
    """Choose the methods that can be recommended, best first.

    Those whose insertion minus deletion beats that of a random order and of a centred blob with the whole 95 %
    interval, over patients, of the paired difference; which are not worse than the best with the whole interval; and
    which do not fail randomisation. The more methods there are, the sooner one of them is ahead by chance, so that each
    difference must also have a p-value below `CHANCE` over their number.

    In simulated cohorts of 2 to 15 patients a single random map is recommended in 0.5 to 4.5 % of cohorts, and any of
    five random maps in 1.5 to 5.5 % (without the second condition in 3 to 14 %).

    Parameters
    ----------
    tiles
        What `faithfulness` returns.
    patients
        Whose tile it is, `[tiles]`.
    methods
        The methods.
    forgotten
        By method the verdict on randomisation.
    seed
        Draws the patients of the intervals.

    Returns
    -------
    list[str]
        May be empty.
    """
    weights = sample(len(np.unique(np.asarray(patients))), RESAMPLES, seed)
    counts = by_patient(patients, np.ones(len(tiles)))

    def ahead(first: str, second: str, level: float) -> bool:
        drawn = ratio(by_patient(patients, tiles[first] - tiles[second]), counts, weights, "plain")
        return interval(drawn, weights).low > 0 and p_value(drawn, weights) <= level

    by_mean = sorted(methods, key=lambda name: -float(np.mean(tiles[name])))
    return [
        name
        for name in by_mean
        if all(ahead(name, order, CHANCE / len(methods)) for order in BASELINES)
        and not (name != by_mean[0] and ahead(by_mean[0], name, 1))
        and forgotten.get(name) != "fails"
    ]


def ranking(
    network: str, areas: pd.DataFrame, logits: pd.DataFrame, summary: Mapping[str, Any], titles: Mapping[str, str],
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Rank the methods of a network, and recommend.

    Parameters
    ----------
    network
        Which network.
    areas, logits
        What `curve_areas` returns for `score` and `logit`.
    summary
        What `summarise` has so far, verdicts included.
    titles
        The title of each method that explained it, by its name.
    seed
        Draws the patients of the intervals.

    Returns
    -------
    dict[str, Any]
        `metrics`; `values` and `ranks` by method or floor and metric; `mean_rank`; `floors`; `concordance` of the
        metrics about the methods; `faithfulness`, insertion minus deletion as `[mean, low, high]`; `forgotten`, the
        verdicts on randomisation; `recommended`; and the `sentence`.
    """
    judged = summary["replacements"].get(network, {})
    tests = [name for name, entry in judged.items() if entry["test"]]
    names, values = [*titles, *FLOORS], _values(network, [*titles, *FLOORS], areas, logits, summary)
    metrics = [metric for metric in values[names[0]] if metric not in INFORMATION]
    forgotten = {name: summary["verdicts"][f"{network}_{name}"]["randomisation"] for name in titles}
    faithful, recommended = dict[str, Any](), list[str]()
    if tests:
        tiles = faithfulness(areas, network, tests)
        patients = tiles.index.get_level_values("patient_id")
        faithful = {name: estimate(tiles[name], 1, patients, seed).json for name in names if name in tiles}
        recommended = recommend(tiles, patients, [name for name in titles if name in tiles], forgotten, seed)
    result = {
        "metrics": metrics,
        "values": values,
        **rank_methods(values),
        "floors": list(FLOORS),
        "concordance": concordance(values, list(titles)),
        "faithfulness": faithful,
        "forgotten": forgotten,
        "recommended": recommended,
    }
    return result | {"sentence": sentence(network, result, titles, judged, int(summary["patients"]))}


def _values(
    network: str, names: Sequence[str], areas: pd.DataFrame, logits: pd.DataFrame, summary: Mapping[str, Any]
) -> Values:
    """Gather the value of each metric for each method and floor."""
    tests = [name for name, entry in summary["replacements"].get(network, {}).items() if entry["test"]]
    columns = {(f"{kind}_{test}", kind): mean_areas(areas, network, [test])[kind] for test in tests for kind in KINDS}
    if tests:
        columns |= {(f"{kind}_logit", kind): mean_areas(logits, network, tests)[kind] for kind in KINDS}
    values: Values = {}
    for name in names:
        key, floors = f"{network}_{name}", summary["floors"]
        located = ((summary["truth"] or {}) | (floors["truth"] or {})).get(key, {}).get(CAUSE)
        forgotten = (summary["randomisation"] | floors["randomisation"]).get(key)
        row: dict[str, float | None] = {
            metric: float(table[name].mean()) if name in table else None for (metric, _), table in columns.items()
        }
        row["stability"] = summary["stability"].get(key, {"excess": [None]})["excess"][0]
        row["randomisation"] = forgotten["excess"][0] if forgotten else None
        if summary["truth"] is not None:
            row["localisation"] = located["over_others"][0] if located else None
        row["sparseness"] = summary["sparseness"].get(key, [None])[0]
        values[name] = row
    return values


def sentence(
    network: str, ranked: Mapping[str, Any], titles: Mapping[str, str], judged: Mapping[str, Any], patients: int
) -> str:
    """Say what is recommended for a network, with the numbers that carry it; or that nothing is, and why."""
    where = f"For the {NETWORKS[network].lower()}"
    few = f" ({patients} patients)" if patients != 1 else " (a single patient)"
    faithful, recommended = ranked["faithfulness"], ranked["recommended"]
    if not faithful:
        names = ", ".join(judged) or "none was measured"
        return f"{where} no method can be recommended: no replacement takes the evidence away ({names})."
    agree = ""
    if ranked["concordance"] is not None:
        agree = f"; the metrics rank the methods with a concordance W of {ranked['concordance']:.2f} (1 is agreement)"
    if not recommended:
        best = max((name for name in titles if name in faithful), key=lambda name: float(faithful[name][0]))
        reason = f"none beats a random order and a centred blob with its whole interval{few}"
        if "fails" in ranked["forgotten"].values():
            reason += ", or those that do stay as they are when the network forgets"
        numbers = f"the best is {titles[best]} with insertion minus deletion {_numbers(faithful[best])}"
        rivals = ", ".join(f"{name} {faithful[name][0]:.2f}" for name in FLOORS if name in faithful)
        return (
            f"{where} no method can be recommended: {reason}; {numbers}, where maps that no method made have {rivals}."
        )
    first, *others = recommended
    parts = [f"{where} we recommend {titles[first]}: insertion minus deletion {_numbers(faithful[first])}"]
    own, gradcam = faithful[first][0], faithful.get("gradcam")
    if gradcam is not None and "gradcam" not in recommended:
        sure = gradcam[1] is not None and gradcam[1] > 0  # a ratio to what may be 0 says nothing
        ratio_to = f"{own / gradcam[0]:.1f} times {titles['gradcam']}'s" if sure else ""
        parts.append(ratio_to or f"where {titles['gradcam']} has {_numbers(gradcam)}")
    if others:
        parts.append(f"not told apart from {' and '.join(f'{titles[o]} ({faithful[o][0]:.2f})' for o in others)}")
    floors = (("an edge detector has", "edges"), ("a centred blob", "blob"))
    rivals = ", ".join(f"{words} {faithful[name][0]:.2f}" for words, name in floors if name in faithful)
    return "; ".join([", ".join(parts), *([rivals] if rivals else [])]) + agree + "."


def _numbers(numbers: Sequence[float | None]) -> str:
    value, low, high = numbers
    between = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    return f"{value:.2f}{between}"
