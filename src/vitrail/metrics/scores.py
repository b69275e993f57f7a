"""One confusion matrix, and scores that are reductions of it; ROC curves and the area under them.

Confusion matrices add up: the matrix of a cohort is the sum of its tiles' matrices. Their scores therefore take
`[..., n, n]` and return `[...]`. Where a score is undefined (a division by zero) it is NaN, without a warning. Scores
with intervals over patients are those of `vitrail.metrics.per_patient`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Counts = NDArray[np.int64]


def confusion(truth: ArrayLike, predicted: ArrayLike, n_classes: int) -> Counts:
    """Count how often each class was taken for each other.

    Parameters
    ----------
    truth, predicted
        Class indices (or booleans) of one shape.
    n_classes
        Number of classes `n`.

    Returns
    -------
    NDArray[np.int64]
        `[n, n]`, rows are the truth, columns the prediction.

    Raises
    ------
    ValueError
        The shapes differ, or an index is not a whole number from 0 to `n - 1`.
    """
    rows, columns = np.asarray(truth), np.asarray(predicted)
    for indices in (rows, columns):
        if indices.size and not (indices.dtype.kind in "bui" and indices.min() >= 0 and indices.max() < n_classes):
            raise ValueError(f"class indices must be whole numbers from 0 to {n_classes - 1}")
    if rows.shape != columns.shape:
        raise ValueError(f"truth has shape {rows.shape}, predicted has {columns.shape}")
    cells = rows.ravel().astype(np.int64) * n_classes + columns.ravel().astype(np.int64)
    return np.bincount(cells, minlength=n_classes**2).astype(np.int64).reshape(n_classes, n_classes)


def accuracy(matrix: ArrayLike) -> Floats:
    """Return the share of elements on the diagonal of `[..., n, n]`."""
    counts = np.asarray(matrix)
    return divided(np.trace(counts, axis1=-2, axis2=-1), counts.sum((-2, -1)))


def jaccard(matrix: ArrayLike) -> Floats:
    """Return intersection over union of each class, `[..., n]` of `[..., n, n]`.

    NaN for a class that neither the truth nor the prediction holds.
    """
    counts = np.asarray(matrix)
    both = np.diagonal(counts, axis1=-2, axis2=-1)
    return divided(both, counts.sum(-1) + counts.sum(-2) - both)


def mean_jaccard(matrix: ArrayLike) -> Floats:
    """Return the mean of `jaccard` over the classes that have one, `[...]` of `[..., n, n]`."""
    each = jaccard(matrix)
    return divided(np.nansum(each, axis=-1), np.isfinite(each).sum(-1))


def roc_curve(truth: ArrayLike, score: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Return the receiver operating characteristic: one point for each distinct score, and the origin.

    Parameters
    ----------
    truth
        `[n]`, true for the positive class.
    score
        `[n]`, higher means more positive. Elements with equal scores move the curve together.

    Returns
    -------
    tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
        False positive rate, true positive rate and threshold, `[k]` each, thresholds falling from infinity. An element
        is called positive when its score reaches the threshold. A rate is NaN throughout where its class is absent.

    Raises
    ------
    ValueError
        The two are not vectors of one length, or a score is NaN.
    """
    levels, hits, misses = _levels(truth, score)
    true, false = (np.concatenate(([0], np.cumsum(counts[::-1]))) for counts in (hits, misses))
    return divided(false, false[-1]), divided(true, true[-1]), np.concatenate(([np.inf], levels[::-1]))


def auc(truth: ArrayLike, score: ArrayLike) -> float:
    """Return the area under the ROC curve.

    It is the probability that a random positive scores higher than a random negative, ties counting one half (the
    Mann-Whitney statistic; Hanley & McNeil 1982, doi:10.1148/radiology.143.1.7063747).

    Parameters
    ----------
    truth, score
        As in `roc_curve`.

    Returns
    -------
    float
        NaN where one of the classes is absent.

    Raises
    ------
    ValueError
        As in `roc_curve`.
    """
    _, hits, misses = _levels(truth, score)
    below = 2 * np.cumsum(misses) - misses  # twice the negatives below each level, with half of its own
    return float(divided((hits * below).sum(), 2 * hits.sum() * misses.sum()))


def _levels(truth: ArrayLike, score: ArrayLike) -> tuple[Floats, Counts, Counts]:
    """Return the distinct scores in rising order, and how many positives and negatives have each."""
    positive, values = np.asarray(truth).astype(bool), np.asarray(score, np.float64)
    if values.ndim != 1 or positive.shape != values.shape:
        raise ValueError(f"truth {positive.shape} and score {values.shape} must be vectors of one length")
    if np.isnan(values).any():
        raise ValueError("a score is NaN")
    levels, at = np.unique(values, return_inverse=True)
    hits, misses = (np.bincount(at[side], minlength=len(levels)).astype(np.int64) for side in (positive, ~positive))
    return levels, hits, misses


def divided(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    """Divide, NaN where the divisor is 0, without a warning; a scalar where neither has axes."""
    top, bottom = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    out = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=out, where=bottom != 0)
    result: Floats = out[()]
    return result
