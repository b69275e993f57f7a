"""The regression of an outcome of nuclei on their features, as a function of sums that each patient adds to.

Only differences within a tile count. Features and outcome are centred in each tile, so that neither the level of a
tile nor that of its patient or stain enters. Features that are skewed by nature (areas, lengths, sums) are logarithms;
beyond four standard deviations all are cut off, where a nucleus is a mistake of the segmentation. The outcome has heavy
tails, for a few nuclei carry a score: by default it is the normal score of its rank within the tile (`rank`), so that
tiles count alike, whatever the scale of the map or the logit; `winsorised` cuts off 2.5 % at either end; `plain` does
nothing.

There are two coefficients of each feature, both in standard deviations of the outcome for one of the feature within
tiles. The marginal one is that of the feature alone, which is the correlation within tiles. The adjusted one is that of
a regression on all features. Features that say nearly the same are dealt with in the open: those that correlate by
more than 0.95 are one, named by the first; and features enter the regression one after the other, those of `CORE`
first, but for one whose variance inflation factor would be above 5, or bring another above 10: it has a marginal
coefficient alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from vitrail.metrics.bootstrap import Drawn
from vitrail.metrics.scores import divided

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
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
        See this module for what is done.
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
    mutual = correlation[np.ix_(own, own)]
    entered: list[int] = []
    for number in sorted(range(len(own)), key=lambda number: names[own[number]] not in CORE):
        inflated = _inflation(mutual, [*entered, number])
        if inflated[-1] <= MOST_INFLATION[0] and inflated.max() <= MOST_INFLATION[1]:
            entered.append(number)
    entered.sort()
    within = dict(zip(entered, _inflation(mutual, entered), strict=True))
    added = [within.get(number, _inflation(mutual, [*entered, number])[-1]) for number in range(len(own))]
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


def centred(values: Floats, tiles: NDArray[np.intp]) -> Floats:
    """Return values `[n]` minus the mean of their tile, of numbers `[n]`; 0 for those that are not finite."""
    defined = np.isfinite(values)
    finite = np.where(defined, values, 0.0)
    means = divided(np.bincount(tiles, finite), np.bincount(tiles, defined))
    return np.where(defined, finite - means[tiles], 0.0)


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
