"""Which features of nuclei go with their relevance, or with the effect of removing them: a regression over patients.

Only differences within a tile count. Features and outcome are centred in each tile, so that neither the level of a
tile nor that of its patient or stain enters. Features that are skewed by nature (areas, lengths, sums) are logarithms;
beyond four standard deviations all are cut off, where a nucleus is a mistake of the segmentation. The outcome has heavy
tails, for a few nuclei carry a score: by default it is the normal score of its rank within the tile (`rank`), so that
tiles count alike, whatever the scale of the map or the logit; `winsorised` cuts off 2.5 % at either end; `plain` does
nothing.

Two coefficients are told of each feature, both in standard deviations of the outcome for one of the feature within
tiles. The marginal one is that of the feature alone, which is the correlation within tiles. The adjusted one is that of
a regression on all features. Features that say nearly the same are dealt with in the open: those that correlate by
more than 0.95 are one, named by the first; and features enter the regression one after the other, those of `CORE`
first, but for one whose variance inflation factor would be above 5, or bring another above 10: it has a marginal
coefficient alone.

Everything is a function of sums that each patient adds to, of products of features and outcome. So intervals and
p-values are those of `vitrail.metrics.bootstrap`: patients are the clusters. The q-values of a table are Benjamini and
Hochberg's (1995, doi:10.1111/j.2517-6161.1995.tb02031.x), over both coefficients of all features at once.

A coefficient is a finding only where its q-value is below 0.05 and it lies beyond what outcomes give that know nothing
of the tile, see `vitrail.explain.nuclei.nulls`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy.special import ndtri
from scipy.stats import false_discovery_control, rankdata
from scipy.stats import t as student

from vitrail.explain.nuclei.nulls import HELD
from vitrail.metrics.bootstrap import RESAMPLES, Drawn, Interval, interval, p_value, sample
from vitrail.metrics.scores import divided

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Scale = Literal["rank", "winsorised", "plain"]

LOGARITHMS = frozenset(
    {
        *("area_um2", "perimeter_um", "major_axis_um", "minor_axis_um", "hematoxylin_sum", "hematoxylin_std"),
        *("texture_contrast", "nearest_um", "edge_um"),
    }
)
"""Features that are taken as logarithms, where all their values are positive."""

ALIKE = 0.95
"""Features that correlate by more within tiles are one."""

MOST_INFLATION = (5.0, 10.0)
"""Of a coefficient's variance, by the features that enter the regression before it, and by all of them."""

CORE = ("area_um2", "hematoxylin_mean", "eccentricity", "solidity")
"""Size, darkness and shape enter the regression first; then all others, in their order, while they add something."""

LEVEL = 0.05
"""Of q-values: the share of false ones among all findings of a table."""

_FARTHEST, _TAIL = 4.0, 0.025
_SINGULAR = 1e6  # an inflation of variance that only rounding errors have


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Design:
    """Features of nuclei, made ready for a regression.

    Attributes
    ----------
    names
        Of the features that differ from each other, `[k]`.
    matrix
        `[n, k]`, centred in each tile, of standard deviation 1; what is missing is 0, its tile's mean.
    merged
        By name the features that are nearly the same, and that it stands for.
    adjusted
        Numbers of the features that the regression on all features holds.
    inflation
        Variance inflation factor of each feature: of those in that regression there, of others as if they were added.
    tiles, patients
        `[n]`, the number of each nucleus's tile and patient.
    """

    names: tuple[str, ...]
    matrix: Floats
    merged: Mapping[str, tuple[str, ...]]
    adjusted: tuple[int, ...]
    inflation: Floats
    tiles: NDArray[np.intp]
    patients: NDArray[np.intp]

    def moments(self, outcome: Floats) -> Floats:
        """Sum up for each patient the products of features and outcome, `[patients, k + 1, k + 1]`."""
        columns = np.column_stack([self.matrix, outcome])
        count = int(self.patients.max(initial=-1)) + 1
        owned = (columns[self.patients == patient] for patient in range(count))
        return np.stack([rows.T @ rows for rows in owned]) if count else np.empty((0, *2 * (columns.shape[1],)))


def design(features: pd.DataFrame, tiles: ArrayLike, patients: ArrayLike) -> Design:
    """Make features of nuclei ready for a regression.

    Parameters
    ----------
    features
        `[n, k]`; NaN where a nucleus has none. One that does not vary within tiles is left out.
    tiles, patients
        Whose nucleus it is, `[n]`.

    Returns
    -------
    Design
        See there, and this module, for what is done.
    """
    numbers = np.unique(np.asarray(tiles), return_inverse=True)[1]
    owners = np.unique(np.asarray(patients), return_inverse=True)[1]
    columns: dict[str, Floats] = {}
    for name in features:
        values = features[name].to_numpy(np.float64)
        if name in LOGARITHMS and (values[np.isfinite(values)] > 0).all():
            values = np.log(values)
        values = centred(values, numbers)
        spread = np.sqrt(np.square(values).sum() / max(len(values), 1))
        if spread > 1e-9 * np.abs(values).max(initial=0):
            values = centred(np.clip(values / spread, -_FARTHEST, _FARTHEST), numbers)
            columns[str(name)] = values / values.std()
    ready = np.column_stack([*columns.values()]) if columns else np.empty((len(features), 0))
    correlation = ready.T @ ready / max(len(ready), 1)
    first: dict[int, list[int]] = {}
    for number in range(len(columns)):
        same = next((old for old in first if abs(correlation[old, number]) > ALIKE), None)
        first.setdefault(number if same is None else same, []).append(number)
    names, own = [*columns], [*first]
    kept = correlation[np.ix_(own, own)]
    entered: list[int] = []
    for number in sorted(range(len(own)), key=lambda number: names[own[number]] not in CORE):
        inflated = _inflation(kept, [*entered, number])
        if inflated[-1] <= MOST_INFLATION[0] and inflated.max() <= MOST_INFLATION[1]:
            entered.append(number)
    entered.sort()
    within = dict(zip(entered, _inflation(kept, entered), strict=True))
    added = [within.get(number, _inflation(kept, [*entered, number])[-1]) for number in range(len(own))]
    return Design(
        names=tuple(names[number] for number in own),
        matrix=ready[:, own],
        merged={names[old]: tuple(names[new] for new in group[1:]) for old, group in first.items()},
        adjusted=tuple(entered),
        inflation=np.array(added, np.float64),
        tiles=numbers,
        patients=owners,
    )


def outcome_scores(outcome: ArrayLike, tiles: NDArray[np.intp], scale: Scale = "rank") -> Floats:
    """Bring an outcome to the scale on which it is regressed.

    Parameters
    ----------
    outcome
        `[n]`; NaN where a nucleus has none.
    tiles
        The number of each nucleus's tile, `[n]`.
    scale
        See this module.

    Returns
    -------
    NDArray[np.float64]
        `[n]`, centred in each tile; 0 where there is none.
    """
    values = np.array(outcome, np.float64)
    if scale == "rank":
        order = np.argsort(tiles, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(tiles[order])) + 1):
            defined = rows[np.isfinite(values[rows])]
            values[defined] = ndtri((rankdata(values[defined]) - 0.5) / max(len(defined), 1))
    values = centred(values, tiles)
    if scale == "winsorised" and len(values):
        values = centred(np.clip(values, *np.quantile(values, [_TAIL, 1 - _TAIL])), tiles)
    return values


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
        `[n, k]`, a row a nucleus; names of columns that end in `_um` or `_um2` are those of `LOGARITHMS`.
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
        Of the outcome, see this module.

    Returns
    -------
    pd.DataFrame
        A row a feature: `feature`; `merged`, those it stands for; `coefficient`, `low`, `high`, `p`, `q`, adjusted for
        all other features; `null`, the null that comes closest, with `null_low` and `null_high`, between which one
        more of its draws would lie with 95 %; `verdict`: `more` or `less` (a finding: the outcome rises, or falls, with
        the feature), `as_null` (q is small, but a null does the same), `untested` (q is small, there is no null),
        `undecided`, `collinear` (the features before it say it, and only its marginal coefficient is told) or
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
    given = {"null": null_outcomes} if isinstance(null_outcomes, np.ndarray) else null_outcomes or {}
    nulls = {
        name: _null_coefficients(ready, np.stack([outcome_scores(draw[rows], ready.tiles, scale) for draw in draws]))
        for name, draws in given.items()
        if len(draws)
    }
    both = coefficients(ready, outcome_scores(values[rows], ready.tiles, scale), weights)
    result = pd.DataFrame({"feature": ready.names, "merged": [", ".join(ready.merged[name]) for name in ready.names]})
    for prefix, table in _tested(both, weights).items():
        closest = [
            _closest(
                value,
                {null: draws[prefix][:, number] for null, draws in nulls.items() if name not in HELD.get(null, ())},
            )
            for number, (name, value) in enumerate(zip(ready.names, table["coefficient"], strict=True))
        ]
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


def coefficients(ready: Design, outcome: Floats, weights: Floats) -> dict[str, list[Drawn]]:
    """Return the coefficients of all features, for the cohort and each bootstrap sample.

    Parameters
    ----------
    ready
        The features.
    outcome
        `[n]`, what `outcome_scores` returns.
    weights
        `[rows, patients]`.

    Returns
    -------
    dict[str, list[Drawn]]
        A list with an element a feature: under `""` the adjusted ones, NaN for those that have none, under
        `"marginal_"` those of each feature alone.
    """
    parts, count = ready.moments(outcome), len(ready.names)
    sums = np.tensordot(weights, parts, 1)
    own = np.diagonal(sums, axis1=1, axis2=2)  # squares, of the outcome last
    lengths = np.sqrt(own[:, :count] * own[:, count:])
    chosen = [*ready.adjusted]
    inverse = _inverse(sums[np.ix_(range(len(sums)), chosen, chosen)])
    slopes = np.einsum("rij,rj->ri", inverse, sums[:, chosen, count])
    residual = np.concatenate([-slopes, np.ones((len(sums), 1))], 1)  # outcome minus prediction, of each row
    crossed = parts[:, chosen][:, :, [*chosen, count]].reshape(len(parts), len(chosen) * (len(chosen) + 1))
    result: dict[str, list[Drawn]] = {"": [], "marginal_": []}
    for number in range(count):
        # a change of a patient's weight also changes the two standard deviations
        spreads = (
            divided(parts[:, number, number], own[:, number, None]),
            divided(parts[:, count, count], own[:, count:]),
        )
        value = divided(sums[:, number, count], lengths[:, number])
        direct = divided(parts[:, number, count], lengths[:, number, None])
        influence = direct - value[:, None] / 2 * (spreads[0] + spreads[1])
        result["marginal_"].append(Drawn(value=value, influence=influence, scale="correlation"))
        value, influence = np.full(len(sums), np.nan), np.full_like(influence, np.nan)
        if number in chosen:
            at = chosen.index(number)
            unit = np.sqrt(divided(own[:, number], own[:, count]))
            value = slopes[:, at] * unit
            moved = (inverse[:, at, :, None] * residual[:, None]).reshape(len(sums), crossed.shape[1]) @ crossed.T
            influence = unit[:, None] * moved + value[:, None] / 2 * (spreads[0] - spreads[1])
        result[""].append(Drawn(value=value, influence=influence))
    return result


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Return the q-values of p-values, `[n]`; what is NaN stays so and does not count."""
    values = np.array(p, np.float64)
    tested = np.isfinite(values)
    if tested.any():
        values[tested] = false_discovery_control(values[tested])
    return values


def centred(values: Floats, tiles: NDArray[np.intp]) -> Floats:
    """Return values `[n]` minus the mean of their tile, and 0 for those that are not finite."""
    defined = np.isfinite(values)
    finite = np.where(defined, values, 0.0)
    means = divided(np.bincount(tiles, finite), np.bincount(tiles, defined))
    return np.where(defined, finite - means[tiles], 0.0)


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
    reach = float(student.ppf(1 - _TAIL, len(values) - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / len(values)))
    return Interval(float(values.mean()) - reach, float(values.mean()) + reach)


def _inflation(correlation: Floats, chosen: Sequence[int]) -> Floats:
    """Return the variance inflation factor of each of some features, infinite where others determine it."""
    part = correlation[np.ix_(chosen, chosen)]
    inverse = np.linalg.inv(part + np.eye(len(part)) * 1e-9)
    return np.asarray(np.diagonal(inverse))


def _inverse(matrices: Floats) -> Floats:
    """Invert matrices `[rows, k, k]`; NaN where the patients drawn do not tell the features apart."""
    own = np.diagonal(matrices, axis1=1, axis2=2)
    scale = np.sqrt(own[:, :, None] * own[:, None])
    inverse = np.linalg.inv(np.nan_to_num(divided(matrices, scale)) + np.eye(matrices.shape[1]) * 1e-9)
    singular = np.abs(np.diagonal(inverse, axis1=1, axis2=2)).max(1, initial=0) > _SINGULAR
    return divided(np.where(singular[:, None, None], np.nan, inverse), scale)


def _null_coefficients(ready: Design, outcomes: Floats) -> dict[str, Floats]:
    """Return the coefficients of outcomes `[m, n]`, `[m, k]`, as `coefficients` does for the cohort."""
    chosen, products = [*ready.adjusted], outcomes @ ready.matrix
    inner, size = ready.matrix.T @ ready.matrix, np.square(outcomes).sum(1)[:, None]
    own = np.diagonal(inner)
    adjusted = np.full_like(products, np.nan)
    slopes = np.linalg.solve(inner[np.ix_(chosen, chosen)], products[:, chosen].T).T
    adjusted[:, chosen] = slopes * np.sqrt(divided(own[chosen], size))
    return {"": adjusted, "marginal_": divided(products, np.sqrt(own * size))}


def _tested(drawn: Mapping[str, Sequence[Drawn]], weights: Floats) -> dict[str, pd.DataFrame]:
    """Return coefficients with interval, p-value and q-value, a row each; by kind of coefficient."""
    tables = {}
    for kind, each in drawn.items():
        rows = [(float(one), *interval(one, weights), p_value(one, weights)) for one in each]
        tables[kind] = pd.DataFrame(rows, columns=["coefficient", "low", "high", "p"], dtype=np.float64)
    q = benjamini_hochberg(np.concatenate([table["p"] for table in tables.values()]))
    parts = np.split(q, len(tables))  # all tests are one family
    return {kind: table.assign(q=part) for (kind, table), part in zip(tables.items(), parts, strict=True)}


def _closest(value: float, draws: Mapping[str, Floats]) -> tuple[str, float, float]:
    """Return the null that a coefficient is least beyond, and its interval; no name where there is none."""
    intervals = {name: null_interval(each[np.isfinite(each)]) for name, each in draws.items()}
    beyond = {
        name: max(each.low - value, value - each.high) for name, each in intervals.items() if np.isfinite(each.low)
    }
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
