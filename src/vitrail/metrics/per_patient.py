"""What each patient adds to the scores of a network: sums, once; the scores of any weighting of patients, at once.

The area under the ROC curve is no sum over patients but a sum over pairs of them: of the positive tiles of one and the
negative tiles of the other. With that square matrix a resample is one product, however many tiles there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

from vitrail.metrics.bootstrap import Drawn, by_patient, ratio
from vitrail.metrics.correlation import bin_of
from vitrail.metrics.scores import divided

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

BINS = 10
"""Equal bins of probability from which the expected calibration error is taken."""

_ROUNDING = 1e-24


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TileParts:
    """What each patient adds to the scores of one network on tiles, in sorted order of the patients' names.

    Attributes
    ----------
    confusion
        `[patients, 2, 2]`, `[[tn, fp], [fn, tp]]`.
    wins
        `[patients, patients]`: how often a positive tile of the one scores higher than a negative tile of the other,
        ties counting one half.
    squares
        `[patients]`, squared errors of the probability.
    gaps
        `[patients, bins]`, sums of probability less truth in equal bins of probability.
    """

    confusion: Floats
    wins: Floats
    squares: Floats
    gaps: Floats

    def scores(self, weights: Floats) -> dict[str, Drawn]:
        """Score the network, tumor or whatever else is the positive class.

        Parameters
        ----------
        weights
            `[rows, patients]`, see `vitrail.metrics.bootstrap`.

        Returns
        -------
        dict[str, Drawn]
            `accuracy`, `auc`, `sensitivity`, `specificity`, `precision`, `f1`, `brier` and `ece`, all NaN where
            undefined. The last is the expected calibration error: chance moves every bin, so that it is too high where
            patients are few, and its interval says how far it varies, not where that of all patients lies.
        """
        (tn, fp), (fn, tp) = np.moveaxis(self.confusion, 0, -1)
        tiles = self.confusion.sum((1, 2))
        gaps, total = weights @ self.gaps, weights @ tiles
        ece = divided(np.abs(gaps).sum(-1), total)
        influence = divided(np.sign(gaps) @ self.gaps.T - ece[:, None] * tiles, total[:, None])
        return {
            "accuracy": ratio(tn + tp, tiles, weights),
            "auc": self._auc(weights),
            "sensitivity": ratio(tp, tp + fn, weights),
            "specificity": ratio(tn, tn + fp, weights),
            "precision": ratio(tp, tp + fp, weights),
            "f1": ratio(2 * tp, 2 * tp + fp + fn, weights),
            "brier": ratio(self.squares, tiles, weights),
            "ece": Drawn(value=ece, influence=influence, scale="share"),
        }

    def _auc(self, weights: Floats) -> Drawn:
        negatives, positives = self.confusion.sum(-1).T
        misses, hits = (weights @ negatives)[:, None], (weights @ positives)[:, None]
        lost = weights @ self.wins  # by each patient's negative tiles
        value = divided((lost * weights).sum(-1), (misses * hits)[:, 0])
        by_positive = divided(divided(weights @ self.wins.T, misses) - positives * value[:, None], hits)
        by_negative = divided(divided(lost, hits) - negatives * value[:, None], misses)
        return Drawn(value=value, influence=by_positive + by_negative, scale="share")


def tile_parts(truth: ArrayLike, score: ArrayLike, patients: ArrayLike, threshold: float) -> TileParts:
    """Sum up what each patient adds to the scores.

    Parameters
    ----------
    truth
        `[n]`, true for the positive class.
    score
        `[n]`, probability of the positive class, 0 to 1.
    patients
        `[n]`, whose tile it is.
    threshold
        A tile is called positive when its score reaches this.

    Returns
    -------
    TileParts
        The sums.

    Raises
    ------
    ValueError
        The three are not of one length, or a score is not between 0 and 1.
    """
    positive, values, owners = np.asarray(truth).astype(bool), np.asarray(score, np.float64), np.asarray(patients)
    if not positive.shape == values.shape == owners.shape or values.ndim != 1:
        raise ValueError(f"truth {positive.shape}, score {values.shape} and patients {owners.shape} must be alike")
    names, numbers = np.unique(owners, return_inverse=True)
    count, at = len(names), numbers * BINS + bin_of(values, BINS, (0.0, 1.0))
    cells = numbers * 4 + positive * 2 + (values >= threshold)
    return TileParts(
        confusion=np.bincount(cells, minlength=count * 4).reshape(count, 2, 2).astype(np.float64),
        wins=_wins(positive, values, numbers, count),
        squares=by_patient(owners, np.square(values - positive)),
        gaps=np.asarray(np.bincount(at, values - positive, count * BINS), np.float64).reshape(count, BINS),
    )


def mean_scores(parts: Sequence[TileParts], weights: Floats) -> dict[str, Drawn]:
    """Return the mean of each score over several predictions of the same tiles, as of iterated cross-validation.

    Parameters
    ----------
    parts
        Of each prediction.
    weights
        `[rows, patients]`.

    Returns
    -------
    dict[str, Drawn]
        By score, see `TileParts.scores`.
    """
    total = parts[0].scores(weights)
    for part in parts[1:]:  # one after the other: each holds an influence for each row and patient
        total = {name: total[name] + score for name, score in part.scores(weights).items()}
    return {name: score.over(len(parts)) for name, score in total.items()}


def jaccard_scores(matrices: Floats, weights: Floats) -> tuple[list[Drawn], Drawn]:
    """Return the Jaccard coefficient of each class, and their mean over the classes that have one.

    Parameters
    ----------
    matrices
        `[patients, n, n]`, each patient's confusion matrix of pixels.
    weights
        `[rows, patients]`.

    Returns
    -------
    tuple[list[Drawn], Drawn]
        One for each class, and the mean.
    """
    both = np.diagonal(matrices, axis1=1, axis2=2)
    either = matrices.sum(1) + matrices.sum(2) - both
    each = [ratio(intersection, union, weights) for intersection, union in zip(both.T, either.T, strict=True)]
    values, influences = np.stack([drawn.value for drawn in each]), np.stack([drawn.influence for drawn in each])
    defined = np.isfinite(values).sum(0).astype(np.float64)
    mean, influence = divided(np.nansum(values, 0), defined), divided(np.nansum(influences, 0), defined[:, None])
    return each, Drawn(value=mean, influence=influence, scale="share")


def clustered_delong(first: TileParts, second: TileParts) -> float:
    """Return the two-sided p-value of equal areas under two ROC curves of the same tiles of patients.

    DeLong's test (1988, doi:10.2307/2531595) takes tiles for independent; this is its form for clusters (Obuchowski
    1997, doi:10.2307/2533958). It takes the difference for normal, and so wants many patients.

    Parameters
    ----------
    first, second
        Of the two networks.

    Returns
    -------
    float
        NaN where an area is undefined, fewer than two patients have a class, or the difference does not vary.
    """
    by_class = first.confusion.sum(-1)
    sizes = np.array([(by_class[:, 1] > 0).sum(), (by_class[:, 0] > 0).sum(), len(by_class)])
    if sizes.min() < 2:
        return float("nan")
    (first_moves, first_area), (second_moves, second_area) = _components(first), _components(second)
    moves = first_moves - second_moves
    sums = np.array([(moves[0] ** 2).sum(), (moves[1] ** 2).sum(), 2 * (moves[0] * moves[1]).sum()])
    variance = float((sums * sizes / (sizes - 1)).sum())
    return float(2 * ndtr(-abs(first_area - second_area) / np.sqrt(variance))) if variance > _ROUNDING else np.nan


def _components(parts: TileParts) -> tuple[Floats, float]:
    """Return by how much each patient's positive and negative tiles move the area, `[2, patients]`, and the area."""
    negatives, positives = parts.confusion.sum(-1).T
    misses, hits = negatives.sum(), positives.sum()
    area = float(parts.wins.sum() / (hits * misses))
    of_positives = (parts.wins.sum(1) / misses - positives * area) / hits
    return np.stack([of_positives, (parts.wins.sum(0) / hits - negatives * area) / misses]), area


def _wins(positive: NDArray[np.bool_], values: Floats, numbers: NDArray[np.intp], patients: int) -> Floats:
    """Count for each two patients the pairs of tiles that are in the right order, see `TileParts`."""
    order = np.argsort(values, kind="stable")
    positive, values, numbers = positive[order], values[order], numbers[order]
    hits, owners = values[positive], numbers[positive]
    wins = np.zeros((patients, patients))
    for patient in range(patients):
        misses = values[~positive & (numbers == patient)]
        if len(misses) and len(hits):
            below = np.searchsorted(misses, hits, "left") + np.searchsorted(misses, hits, "right")
            wins[:, patient] = np.bincount(owners, below / 2, patients)
    return wins
