"""One confusion matrix, and every score a reduction of it; ROC curves and the area under them.

Confusion matrices add up: the matrix of a cohort is the sum of its tiles' matrices, and that of a bootstrap sample the
weighted sum of its patients'. The scores therefore take `[..., n, n]` and return `[...]`. Where a score is undefined
(a division by zero) it is NaN, without a warning. The binary scores take `[[tn, fp], [fn, tp]]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]


def confusion(
    truth: ArrayLike, predicted: ArrayLike, n_classes: int, weights: ArrayLike | None = None
) -> NDArray[np.int64]:
    """Count how often each class was taken for each other.

    Parameters
    ----------
    truth, predicted
        Class indices (or booleans) of one shape.
    n_classes
        Number of classes `n`.
    weights
        How often each element counts: whole numbers of the same shape. None counts each once.

    Returns
    -------
    `[n, n]`, rows are the truth, columns the prediction.

    Raises
    ------
    ValueError
        The shapes differ, or an index is not a whole number from 0 to `n - 1`.
    """
    rows, columns = (_indices(values, n_classes) for values in (truth, predicted))
    if rows.shape != columns.shape:
        raise ValueError(f"truth has shape {rows.shape}, predicted has {columns.shape}")
    cells = rows.ravel() * n_classes + columns.ravel()
    if weights is None:
        return np.bincount(cells, minlength=n_classes**2).astype(np.int64).reshape(n_classes, n_classes)
    counts = np.asarray(weights)
    if counts.shape != rows.shape or not _whole(counts):
        raise ValueError(f"weights must be whole numbers of shape {rows.shape}")
    matrix = np.zeros(n_classes**2, np.int64)
    np.add.at(matrix, cells, counts.ravel())  # bincount would add weights as floats
    return matrix.reshape(n_classes, n_classes)


def accuracy(matrix: ArrayLike) -> Floats:
    """Return the share of elements on the diagonal of `[..., n, n]`."""
    counts = np.asarray(matrix)
    return divided(np.trace(counts, axis1=-2, axis2=-1), counts.sum((-2, -1)))


def sensitivity(matrix: ArrayLike) -> Floats:
    """Return `tp / (tp + fn)` of `[..., 2, 2]`, also called recall."""
    _, _, fn, tp = _cells(matrix)
    return divided(tp, tp + fn)


def specificity(matrix: ArrayLike) -> Floats:
    """Return `tn / (tn + fp)` of `[..., 2, 2]`."""
    tn, fp, _, _ = _cells(matrix)
    return divided(tn, tn + fp)


def precision(matrix: ArrayLike) -> Floats:
    """Return `tp / (tp + fp)` of `[..., 2, 2]`, also called positive predictive value."""
    _, fp, _, tp = _cells(matrix)
    return divided(tp, tp + fp)


def f1(matrix: ArrayLike) -> Floats:
    """Return `2 tp / (2 tp + fp + fn)` of `[..., 2, 2]`, the harmonic mean of precision and sensitivity."""
    _, fp, fn, tp = _cells(matrix)
    return divided(2 * tp, 2 * tp + fp + fn)


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
    False positive rate, true positive rate and threshold, `[k]` each, thresholds falling from infinity. An element is
    called positive when its score reaches the threshold. A rate is NaN throughout where its class is absent.

    Raises
    ------
    ValueError
        The two are not vectors of one length, or a score is NaN.
    """
    positive, values = _scored(truth, score)
    levels, hits, misses = _levels(positive, values, np.ones(len(values), np.int64))
    true, false = (np.concatenate(([0], np.cumsum(counts[::-1]))) for counts in (hits, misses))
    return divided(false, false[-1]), divided(true, true[-1]), np.concatenate(([np.inf], levels[::-1]))


def auc(truth: ArrayLike, score: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Return the area under the ROC curve.

    It is the probability that a random positive scores higher than a random negative, ties counting one half (the
    Mann-Whitney statistic; Hanley & McNeil 1982, doi:10.1148/radiology.143.1.7063747).

    Parameters
    ----------
    truth, score
        As in `roc_curve`.
    weights
        `[..., n]`, how much each element counts, for example how often a bootstrap sample drew it.

    Returns
    -------
    `[...]`, NaN where one of the classes is absent.

    Raises
    ------
    ValueError
        As in `roc_curve`, or the weights do not end in `n`.
    """
    positive, values = _scored(truth, score)
    counts = np.ones(len(values), np.int64) if weights is None else np.asarray(weights)
    if counts.shape[-1:] != values.shape:
        raise ValueError(f"weights have shape {counts.shape}, their last axis must be {len(values)}")
    _, hits, misses = _levels(positive, values, counts)
    below = 2 * np.cumsum(misses, axis=-1) - misses  # twice the negatives below each level, with half of its own
    return divided((hits * below).sum(-1), 2 * hits.sum(-1) * misses.sum(-1))


def _levels(
    positive: NDArray[np.bool_], values: Floats, counts: NDArray[Any]
) -> tuple[Floats, NDArray[Any], NDArray[Any]]:
    """Return the distinct scores in rising order and the weight of positives and of negatives at each."""
    if not len(values):
        return values, counts[..., :0], counts[..., :0]
    order = np.argsort(values, kind="stable")
    levels, starts = np.unique(values[order], return_index=True)
    ordered = counts[..., order]
    hits, misses = (np.add.reduceat(ordered * side[order], starts, axis=-1) for side in (positive, ~positive))
    return levels, hits, misses


def _scored(truth: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    positive, values = np.asarray(truth).astype(bool), np.asarray(score, np.float64)
    if values.ndim != 1 or positive.shape != values.shape:
        raise ValueError(f"truth {positive.shape} and score {values.shape} must be vectors of one length")
    if np.isnan(values).any():
        raise ValueError("a score is NaN")
    return positive, values


def _indices(values: ArrayLike, n_classes: int) -> NDArray[np.int64]:
    indices = np.asarray(values)
    if indices.size and not (_whole(indices) and indices.min() >= 0 and indices.max() < n_classes):
        raise ValueError(f"class indices must be whole numbers from 0 to {n_classes - 1}")
    return indices.astype(np.int64)


def _whole(values: NDArray[Any]) -> bool:
    return not values.size or values.dtype.kind in "bui"


def _cells(matrix: ArrayLike) -> tuple[NDArray[Any], ...]:
    counts = np.asarray(matrix)
    if counts.shape[-2:] != (2, 2):
        raise ValueError(f"a binary score needs [..., 2, 2], not {list(counts.shape)}")
    return counts[..., 0, 0], counts[..., 0, 1], counts[..., 1, 0], counts[..., 1, 1]


def divided(part: ArrayLike, whole: ArrayLike) -> Floats:
    """Divide, NaN where the divisor is 0, without a warning; a scalar where neither has axes."""
    top, bottom = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    out = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=out, where=bottom != 0)
    result: Floats = out[()]
    return result
