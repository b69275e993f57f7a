"""Which features of nuclei go with their relevance, or with the effect of removing them: tables with verdicts.

The regression is that of `vitrail.explain.nuclei.regression`. Everything in it is a function of sums that each patient
adds to, of products of features and outcome. So intervals and p-values are those of `vitrail.metrics.bootstrap`:
patients are the clusters. The q-values of a table are Benjamini and Hochberg's (1995,
doi:10.1111/j.2517-6161.1995.tb02031.x), over both coefficients of all features at once.

A coefficient is a finding only where its q-value is below 0.05 and it lies beyond what outcomes give that know nothing
of the tile, see `vitrail.explain.nuclei.nulls`.

Simulated (`python -m bench.nuclei_effects`, 200 cohorts a case) with the features of synthetic slides' nuclei, smooth
noise with heavy tails and slopes that differ between patients, intervals cover 0.97 to 0.98 with 4 patients, 0.95 to
0.96 with 8 and 0.94 to 0.95 with 20. Of cohorts without any effect 3 % have a finding, before nulls are asked. An area
that correlates with the outcome by 0.21 is found in no cohort of 4 patients, in 13 % of 8 and in 85 % of 20; one by
0.37 in 1, 45 and 100 %. So with few patients no finding means little.
"""

from __future__ import annotations

import operator
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control
from scipy.stats import t as student

from vitrail.explain.nuclei.nulls import HELD
from vitrail.explain.nuclei.regression import coefficients, design, outcome_scores
from vitrail.metrics.bootstrap import RESAMPLES, Interval, interval, p_value, sample

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from vitrail.explain.nuclei.regression import Scale
    from vitrail.metrics.bootstrap import Drawn

    Floats = NDArray[np.float64]

LEVEL = 0.05
"""Of q-values: the share of false ones among all findings of a table."""


def associate(
    features: pd.DataFrame,
    outcome: pd.Series[float],
    tiles: ArrayLike,
    patients: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    null_outcomes: Mapping[str, Floats] | Floats | None = None,
    scale: Scale = "rank",
) -> pd.DataFrame:
    """Regress an outcome of nuclei on their features, within tiles, with intervals over patients.

    Parameters
    ----------
    features
        `[n, k]`, a row a nucleus, and nothing but features; see `vitrail.explain.nuclei.regression` for what is done.
    outcome
        `[n]`, relevance or effect; nuclei without one (NaN) are left out.
    tiles, patients
        Whose nucleus it is, `[n]`.
    resamples, seed
        Bootstrap samples of the patients, and what draws them.
    null_outcomes
        By the name of a null, what the outcome is where nothing can be known of a nucleus, `[m, n]`, a row a draw; see
        `vitrail.explain.nuclei.nulls`. A single array is a null called `null`.
    scale
        Of the outcome, see `vitrail.explain.nuclei.regression`.

    Returns
    -------
    pd.DataFrame
        A row a feature: `feature`; `merged`, those it stands for; `coefficient`, `low`, `high`, `p`, `q`, adjusted for
        all other features; `null`, the null that comes closest, with `null_low` and `null_high`, between which the
        coefficient would lie with 95 % if it were one more of its draws, of other patients; `verdict`: `more` or `less`
        (a finding: the outcome rises, or falls, with the feature), `as_null` (q is small, but a null does the same),
        `untested` (q is small, there is no null), `undecided`, `collinear` (other features say it, and only its
        marginal coefficient is told) or
        `undefined` (fewer than two patients). The same with `marginal_` in front for the feature alone. `vif`; and
        `nuclei`, `patients`, how many there were.

    Raises
    ------
    ValueError
        The arguments are not of one length.
    """
    values = np.asarray(outcome, np.float64)
    lengths = {len(features), len(values), len(np.asarray(tiles)), len(np.asarray(patients))}
    if len(lengths) > 1:
        raise ValueError(f"features, outcome, tiles and patients must be of one length, not {sorted(lengths)}")
    rows = np.flatnonzero(np.isfinite(values))
    ready = design(features.iloc[rows], np.asarray(tiles)[rows], np.asarray(patients)[rows])
    weights = sample(int(ready.patients.max(initial=-1)) + 1, resamples, seed)
    by_null = {"null": null_outcomes} if isinstance(null_outcomes, np.ndarray) else null_outcomes or {}
    both = coefficients(ready, outcome_scores(values[rows], ready.tiles, scale), weights)
    cohort = coefficients(ready, outcome_scores(values[rows], ready.tiles, scale), weights[:1])
    nulls: dict[str, list[dict[str, list[Drawn]]]] = {}
    for null, draws in by_null.items():
        for draw in draws:
            drawn = np.asarray(draw, np.float64)[rows]
            # where a null has no outcome features must not count either, or its coefficients would be too small
            part = replace(ready, matrix=np.where(np.isfinite(drawn)[:, None], ready.matrix, 0.0))
            scores = outcome_scores(drawn, ready.tiles, scale)
            nulls.setdefault(null, []).append(coefficients(part, scores, weights[:1]))
    result = pd.DataFrame({"feature": ready.names, "merged": [", ".join(ready.merged[name]) for name in ready.names]})
    for prefix, table in _tested(both, weights).items():
        closest = [
            _closest(
                cohort[prefix][number],
                {null: [draw[prefix][number] for draw in draws] for null, draws in nulls.items()
                 if name not in HELD.get(null, ())},
            )
            for number, name in enumerate(ready.names)
        ]  # fmt: skip
        table[["null", "null_low", "null_high"]] = pd.DataFrame(closest, columns=["null", "null_low", "null_high"])
        table["verdict"] = [_verdict(row) for row in table.to_dict("records")]
        result = result.join(table.add_prefix(prefix))
    result.loc[[number not in ready.adjusted for number in range(len(ready.names))], "verdict"] = "collinear"
    return result.assign(vif=ready.inflation, nuclei=len(ready.matrix), patients=weights.shape[1])


def compare(
    features: pd.DataFrame,
    outcomes: tuple[ArrayLike, ArrayLike],
    tiles: ArrayLike,
    patients: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    scale: Scale = "rank",
) -> pd.DataFrame:
    """Compare what two networks, or two methods, go by: the differences of their coefficients over the same nuclei.

    Parameters
    ----------
    features, tiles, patients, resamples, seed, scale
        As in `associate`.
    outcomes
        Of the first and the second, `[n]` each; only nuclei with both count.

    Returns
    -------
    pd.DataFrame
        A row a feature: `feature`; `first`, `second`, their adjusted coefficients; `difference`, of the first minus the
        second, with `low`, `high`, `p` and `q`, patients being drawn for both at once. The same with `marginal_` in
        front for the feature alone.
    """
    values = [np.asarray(outcome, np.float64) for outcome in outcomes]
    rows = np.flatnonzero(np.isfinite(values).all(0))
    ready = design(features.iloc[rows], np.asarray(tiles)[rows], np.asarray(patients)[rows])
    weights = sample(int(ready.patients.max(initial=-1)) + 1, resamples, seed)
    first, second = (coefficients(ready, outcome_scores(each[rows], ready.tiles, scale), weights) for each in values)
    result = pd.DataFrame({"feature": ready.names})
    gaps = {kind: [one - other for one, other in zip(first[kind], second[kind], strict=True)] for kind in first}
    for kind, table in _tested(gaps, weights).items():
        named = table.rename(columns={"coefficient": "difference"})
        named.insert(0, "first", [float(one) for one in first[kind]])
        named.insert(1, "second", [float(other) for other in second[kind]])
        result = result.join(named.add_prefix(kind))
    return result


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Return the q-values of p-values, `[n]`; what is NaN stays so and does not count."""
    values = np.array(p, np.float64)
    tested = np.isfinite(values)
    if tested.any():
        values[tested] = false_discovery_control(values[tested])
    return values


def null_interval(draws: ArrayLike) -> Interval:
    """Return the interval in which one more draw of a null lies with 95 %, if draws are normal.

    Parameters
    ----------
    draws
        Coefficients of outcomes that know nothing, `[m]`.

    Returns
    -------
    Interval
        Student's prediction interval, wide for few draws; NaN for fewer than two.
    """
    values = np.asarray(draws, np.float64)
    if len(values) < 2:
        return Interval(np.nan, np.nan)
    reach = float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / len(values)))
    return Interval(float(values.mean()) - reach, float(values.mean()) + reach)


def _tested(drawn: Mapping[str, Sequence[Drawn]], weights: Floats) -> dict[str, pd.DataFrame]:
    """Return coefficients with interval, p-value and q-value, a row each; by kind of coefficient."""
    tables = {}
    for kind, each in drawn.items():
        rows = [(float(one), *interval(one, weights), p_value(one, weights)) for one in each]
        tables[kind] = pd.DataFrame(rows, columns=["coefficient", "low", "high", "p"], dtype=np.float64)
    q = benjamini_hochberg(np.concatenate([table["p"] for table in tables.values()]))
    parts = np.split(q, len(tables))  # all tests are one family
    return {kind: table.assign(q=part) for (kind, table), part in zip(tables.items(), parts, strict=True)}


def _closest(value: Drawn, nulls: Mapping[str, Sequence[Drawn]]) -> tuple[str, float, float]:
    """Return the null that a coefficient is least beyond, and its interval; no name where there is none.

    The interval is that of one more draw, for these patients. Draws can be alike, as where each tile has but one other
    of its patient, and still differ from what is asked by chance: that of the patients. So the half-width of the
    interval of the difference over patients adds to that over draws, in squares, as in `crossed_estimate`.
    """
    ones = np.ones((1, value.influence.shape[1]))
    intervals: dict[str, Interval] = {}
    for name, draws in nulls.items():
        over_draws = null_interval([float(draw) for draw in draws])
        mean = reduce(operator.add, draws).over(len(draws))
        over_patients = interval(value - mean, ones)
        reach = np.hypot(over_draws.high - over_draws.low, np.nan_to_num(over_patients.high - over_patients.low)) / 2
        intervals[name] = Interval(float(mean) - reach, float(mean) + reach)
    beyond = {name: max(each.low - float(value), float(value) - each.high) for name, each in intervals.items()}
    beyond = {name: margin for name, margin in beyond.items() if np.isfinite(margin)}
    if not beyond:
        return "", np.nan, np.nan
    name = min(beyond, key=lambda null: beyond[null])
    return name, *intervals[name]


def _verdict(row: Mapping[Any, Any]) -> str:
    """Return what a row of a table comes to, see `associate`."""
    if not np.isfinite(row["q"]):
        return "undefined"
    if row["q"] >= LEVEL:
        return "undecided"
    if not row["null"]:
        return "untested"
    if row["coefficient"] > max(row["null_high"], 0):
        return "more"
    return "less" if row["coefficient"] < min(row["null_low"], 0) else "as_null"
