"""Whether probabilities mean what they say: reliability, expected calibration error, temperature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax

from vitrail.metrics.scores import divided

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

_COLDEST, _HOTTEST = 0.01, 100.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reliability:
    """Probabilities beside what came true, in bins.

    Attributes
    ----------
    edges
        `[bins + 1]`; a bin holds its lower edge, and the last its upper one, too.
    count
        `[bins]`, elements.
    predicted, observed
        `[bins]`, mean probability and share of positives; NaN in an empty bin.
    """

    edges: Floats
    count: NDArray[np.int64]
    predicted: Floats
    observed: Floats

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of the two, weighted by count (Naeini et al. 2015)."""
        gaps = np.abs(self.predicted - self.observed)
        total = int(self.count.sum())
        return float(np.nansum(gaps * self.count) / total) if total else float("nan")


def equal_width(bins: int = 10) -> Floats:
    """Return the edges of bins of equal width, `[bins + 1]`."""
    return np.linspace(0, 1, bins + 1)


def equal_count(probability: ArrayLike, bins: int = 10) -> Floats:
    """Return the edges of bins that hold equally many of these probabilities; fewer bins where many are the same."""
    values = np.asarray(probability, np.float64)
    inner = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]) if len(values) else np.empty(0)
    return np.unique(np.concatenate([[0.0], inner, [1.0]]))


def reliability(truth: ArrayLike, probability: ArrayLike, edges: Floats) -> Reliability:
    """Sort probabilities into bins, and see what came true.

    Parameters
    ----------
    truth
        `[n]`, true for the positive class.
    probability
        `[n]`, of the positive class.
    edges
        Of the bins, rising from 0 to 1: `equal_width` or `equal_count`.

    Returns
    -------
    Reliability
        The bins.

    Raises
    ------
    ValueError
        The two are not vectors of one length, or a probability is not between 0 and 1.
    """
    positive, values = np.asarray(truth).astype(bool), np.asarray(probability, np.float64)
    if values.ndim != 1 or positive.shape != values.shape:
        raise ValueError(f"truth {positive.shape} and probability {values.shape} must be vectors of one length")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("a probability is not between 0 and 1")
    bins = len(edges) - 1
    at = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins - 1)
    count = np.bincount(at, minlength=bins)
    sums = (np.asarray(np.bincount(at, each, bins), np.float64) for each in (values, positive))
    predicted, observed = (divided(each, count.astype(np.float64)) for each in sums)
    return Reliability(edges=edges, count=count.astype(np.int64), predicted=predicted, observed=observed)


def fit_temperature(logits: ArrayLike, truth: ArrayLike) -> float:
    """Return the temperature that makes probabilities of held-out data most likely (Guo et al. 2017, arXiv:1706.04599).

    Divide logits by it before the sigmoid or the softmax. What is called does not change, only how sure the network is:
    above 1 it was too sure. The loss is convex in one over the temperature, whose best value is where its slope is 0.

    Parameters
    ----------
    logits
        `[n]` of the positive class, or `[n, classes]`.
    truth
        `[n]`: booleans for the former, class indices for the latter.

    Returns
    -------
    float
        Between 0.01 and 100; an end of it where the data allow no other: logits that are never wrong ask for 0.01, and
        those that know nothing for 100.

    Raises
    ------
    ValueError
        There are none, their shapes do not fit, a logit is not finite, or a class does not exist.
    """
    values, labels = np.asarray(logits, np.float64), np.asarray(truth).astype(np.int64)
    if values.ndim == 1:
        values = np.stack([np.zeros_like(values), values], axis=1)
    if values.ndim != 2 or labels.shape != values.shape[:1] or not len(labels):
        raise ValueError(f"logits {np.shape(logits)} and truth {labels.shape} must be [n] or [n, classes], and [n]")
    if not np.isfinite(values).all() or labels.min() < 0 or labels.max() >= values.shape[1]:
        raise ValueError("logits must be finite, and truth an index of their classes")
    values = values - values.max(1, keepdims=True)
    of_truth = np.take_along_axis(values, labels[:, None], 1)[:, 0]

    def slope(sharpness: float) -> float:
        return float(((softmax(sharpness * values, axis=1) * values).sum(1) - of_truth).mean())

    low, high = 1 / _HOTTEST, 1 / _COLDEST
    if slope(low) >= 0:
        return _HOTTEST
    return _COLDEST if slope(high) <= 0 else 1 / float(brentq(slope, low, high, xtol=1e-12))
