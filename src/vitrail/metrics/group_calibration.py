"""Whether probabilities mean the same in every group, such as a slide, and what chance alone would do to that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vitrail.metrics.correlation import bin_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

BINS = 10
"""Equal bins of probability from which the expected calibration error of a group is taken."""

DRAWS = 1000
"""Times that labels are drawn as the probabilities say."""

_TAIL = 0.025


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupCalibration:
    """Calibration in the large of each group, its expected calibration error, and both under chance.

    Chance: every element is positive with just the probability that was predicted, independently of all others. So a
    network whose probabilities are right on average, but not in each group, is beyond it.

    Attributes
    ----------
    names
        The groups, sorted.
    count
        `[groups]`, elements.
    gap
        `[groups]`, mean probability less the share of positives.
    low, high
        `[groups]`, between which chance has 95 % of the gaps.
    error, chance_error
        `[groups]`, expected calibration error, and its mean under chance.
    spread
        The standard deviation of the gaps over the groups; NaN for fewer than two.
    chance_spread
        `[draws]`, the same under chance.
    """

    names: NDArray[np.object_]
    count: NDArray[np.int64]
    gap: Floats
    low: Floats
    high: Floats
    error: Floats
    chance_error: Floats
    spread: float
    chance_spread: Floats

    @property
    def p(self) -> float:
        """How often chance spreads the gaps as far: one-sided p-value, at least one over the number of draws."""
        if np.isnan(self.spread):
            return float("nan")
        return float((1 + (self.chance_spread >= self.spread - 1e-12).sum()) / (1 + len(self.chance_spread)))

    @property
    def beyond(self) -> float:
        """The standard deviation that is left of the gaps when the variance by chance is taken away; 0 where none is.

        NaN for fewer than two groups.
        """
        return float(np.sqrt(np.maximum(self.spread**2 - np.mean(self.chance_spread**2), 0)))


def group_calibration(
    truth: ArrayLike, probability: ArrayLike, groups: ArrayLike, seed: int, draws: int = DRAWS
) -> GroupCalibration:
    """Compare what was predicted with what came true, group by group.

    Parameters
    ----------
    truth
        `[n]`, true for the positive class.
    probability
        `[n]`, of the positive class.
    groups
        `[n]`, names.
    seed
        The same seed draws the same labels.
    draws
        How often.

    Returns
    -------
    GroupCalibration
        Of all groups.
    """
    positive, values = np.asarray(truth, np.float64), np.asarray(probability, np.float64)
    names, numbers = np.unique(np.asarray(groups, np.object_), return_inverse=True)
    rng = np.random.default_rng([seed, len(values), draws])
    gaps, errors = np.zeros((1 + draws, len(names))), np.zeros((1 + draws, len(names)))
    for group in range(len(names)):
        own = numbers == group
        predicted, share = values[own], 1 / own.sum()
        labels = np.concatenate([positive[own][None], rng.random((draws, own.sum())) < predicted])
        in_bin = bin_of(predicted, BINS, (0.0, 1.0))[:, None] == np.arange(BINS)
        sums = (predicted - labels) @ in_bin.astype(np.float64)  # [1 + draws, bins]
        gaps[:, group], errors[:, group] = sums.sum(1) * share, np.abs(sums).sum(1) * share
    several = len(names) > 1
    spread = gaps.std(axis=1, ddof=1) if several else np.full(1 + draws, np.nan)
    low, high = np.quantile(gaps[1:], (_TAIL, 1 - _TAIL), axis=0) if len(names) else np.empty((2, 0))
    return GroupCalibration(
        names=names,
        count=np.bincount(numbers, minlength=len(names)).astype(np.int64),
        gap=gaps[0],
        low=low,
        high=high,
        error=errors[0],
        chance_error=errors[1:].mean(0),
        spread=float(spread[0]),
        chance_spread=spread[1:],
    )
