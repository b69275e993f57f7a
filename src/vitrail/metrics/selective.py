"""Selective prediction: what is left wrong when the least certain are left to a person (risk and coverage).

Elements are taken in order of certainty. The risk at a coverage is the share of errors among the most certain ones that
make up this share of all; the area under that curve (AURC) is the mean risk over all coverages (Geifman and El-Yaniv
2017, arXiv:1705.08500). Elements that are equally certain come in an order of chance: within them errors are spread
evenly, and the area is the integral of that curve. An order without any knowledge has the overall risk r as its area,
and the ideal one, all errors last, exactly r + (1 - r) log(1 - r); what is beyond that is the excess (E-AURC, Geifman,
Uziel and El-Yaniv 2019, arXiv:1805.08206).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vitrail.metrics.bootstrap import Drawn, by_patient
from vitrail.metrics.scores import divided

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

LEVELS = 512
"""Levels of certainty that are told apart, at most; of more, neighbours count as equal."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SelectiveParts:
    """How many elements of each patient there are at each level of certainty, and how many of them are wrong.

    Attributes
    ----------
    counts, errors
        `[patients, levels]`, the most certain level first.
    """

    counts: Floats
    errors: Floats

    def area(self, weights: Floats) -> Drawn:
        """Return the area under the curve of risk and coverage, 0 to 1; lower is better.

        Parameters
        ----------
        weights
            `[rows, patients]`, see `vitrail.metrics.bootstrap`.

        Returns
        -------
        Drawn
            NaN where a sample has no element.
        """
        own, wrong = weights @ self.counts, weights @ self.errors  # [rows, levels]
        own_before, wrong_before = np.cumsum(own, 1) - own, np.cumsum(wrong, 1) - wrong
        total = own.sum(1)
        rate = np.nan_to_num(divided(wrong, own))
        # within a level the risk runs from that before it to that behind it: the integral has a closed form
        reached = (own_before > 0) & (own > 0)
        start = np.where(reached, own_before, 1.0)
        growth = np.log1p(np.where(reached, own, 0.0) / start)
        lead = np.where(reached, wrong_before - rate * own_before, 0.0)
        value = divided((wrong + lead * growth).sum(1), total)
        by_rate = np.where(reached, start * growth, 0.0)  # what an element more adds, by way of each of the sums
        slope = np.where(reached, lead / (start + own), 0.0)
        steps = np.where(own > 0, own, 1.0)
        by_wrong, by_own = 1 - by_rate / steps, rate * by_rate / steps + slope
        by_wrong_before, by_own_before = growth, -rate * growth + slope - np.where(reached, lead / start, 0.0)
        empty = (own == 0) & (own_before > 0)  # an element here would have the risk before it
        by_wrong = np.where(own > 0, by_wrong, 0.0)
        by_own = np.where(empty, divided(wrong_before, np.where(empty, own_before, 1.0)), by_own)
        counts_before = np.cumsum(self.counts, 1) - self.counts
        errors_before = np.cumsum(self.errors, 1) - self.errors
        moved = (
            by_wrong @ self.errors.T
            + by_own @ self.counts.T
            + by_wrong_before @ errors_before.T
            + by_own_before @ counts_before.T
        )
        each = self.counts.sum(1)
        influence = divided(moved - value[:, None] * each, total[:, None])
        return Drawn(value=value, influence=influence, scale="share")

    def risk(self, weights: Floats) -> Drawn:
        """Return the risk of all elements, which is also the area of an order of chance; see `area`."""
        total = weights @ self.counts.sum(1)
        value = divided(weights @ self.errors.sum(1), total)
        influence = divided(self.errors.sum(1) - value[:, None] * self.counts.sum(1), total[:, None])
        return Drawn(value=value, influence=influence, scale="share")

    def ideal(self, weights: Floats) -> Drawn:
        """Return the area of the order that has all errors last; see `area`."""
        risk = self.risk(weights)
        right = np.maximum(1 - risk.value, np.finfo(np.float64).tiny)
        value = risk.value + right * np.log(right)
        return Drawn(value=value, influence=-np.log(right)[:, None] * risk.influence, scale="share")

    def excess(self, weights: Floats) -> Drawn:
        """Return the area beyond that of the ideal order; see `area`."""
        beyond = self.area(weights) - self.ideal(weights)
        return Drawn(value=np.maximum(beyond.value, 0), influence=beyond.influence, scale="share")  # but for rounding


def selective_parts(wrong: ArrayLike, certainty: ArrayLike, patients: ArrayLike) -> SelectiveParts:
    """Sum up by patient and level of certainty.

    Parameters
    ----------
    wrong
        `[n]`, true where an element is called wrongly.
    certainty
        `[n]`, more is more certain, on any scale.
    patients
        `[n]`, whose element it is.

    Returns
    -------
    SelectiveParts
        With a level for each distinct certainty; of more than `LEVELS` about equally many elements are put together.

    Raises
    ------
    ValueError
        The three are not vectors of one length, or a certainty is not a number.
    """
    errors, values, owners = np.asarray(wrong, np.float64), np.asarray(certainty, np.float64), np.asarray(patients)
    if not errors.shape == values.shape == owners.shape or values.ndim != 1:
        raise ValueError(f"wrong {errors.shape}, certainty {values.shape}, patients {owners.shape} must be alike")
    if np.isnan(values).any():
        raise ValueError("a certainty is not a number")
    distinct, level = np.unique(-values, return_inverse=True)
    if len(distinct) > LEVELS:
        behind = np.cumsum(np.bincount(level)) - 1
        level = (behind * LEVELS // len(values))[level]
        level = np.unique(level, return_inverse=True)[1]
    levels = int(level.max()) + 1 if len(level) else 0
    names, numbers = np.unique(owners, return_inverse=True)
    at, size = numbers * levels + level, len(names) * levels
    shape = len(names), levels
    counts = np.bincount(at, minlength=size).reshape(shape).astype(np.float64)
    return SelectiveParts(counts=counts, errors=np.bincount(at, errors, size).reshape(shape).astype(np.float64))


def binned_parts(counts: ArrayLike, right: ArrayLike, patients: ArrayLike) -> SelectiveParts:
    """Sum up by patient what was counted in bins of certainty, such as the pixels of tiles.

    Parameters
    ----------
    counts, right
        `[n, bins]`, the least certain bin first: how many, and how many of them were called rightly.
    patients
        `[n]`, whose counts they are.

    Returns
    -------
    SelectiveParts
        A level a bin.
    """
    own, hits = (by_patient(patients, np.asarray(each, np.float64))[:, ::-1] for each in (counts, right))
    return SelectiveParts(counts=own, errors=own - hits)


def kept_for(wrong: ArrayLike, certainty: ArrayLike, accuracy: float) -> float:
    """Return the least certainty at which the elements at least as certain are right as often as is wished.

    Parameters
    ----------
    wrong, certainty
        `[n]`, as of `selective_parts`.
    accuracy
        The wish, 0 to 1.

    Returns
    -------
    float
        Of the limits that reach it the one that keeps most; NaN where none does.
    """
    errors, values = np.asarray(wrong, np.float64), np.asarray(certainty, np.float64)
    order = np.argsort(-values, kind="stable")
    ranked = values[order]
    risk = np.cumsum(errors[order]) / np.arange(1, len(values) + 1)
    last = np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)]  # equals are kept or left out together
    reached = np.flatnonzero(last & (risk <= 1 - accuracy + 1e-12))
    return float(ranked[reached[-1]]) if len(reached) else float("nan")
