"""Two networks as one: voting and stacking (the paper's ensembles, and an honest variant of the second).

Paper: "The first ensemble model simply averaged the predictions of both networks, which is also called voting. The
second ensemble model was a logistic regression model, which was trained on the predictions for the test data using
iterated 2-fold cross-validation."
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.linear_model import LogisticRegression

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

_ATTEMPTS = 100


def voting(probabilities: ArrayLike) -> Floats:
    """Return the mean of probabilities `[n, networks]`, `[n]`."""
    mean: Floats = np.asarray(probabilities, np.float64).mean(axis=1)
    return mean


def stacked(fitted_on: tuple[Floats, Flags], probabilities: Floats) -> Floats | None:
    """Fit a logistic regression on some tiles and apply it to others.

    Parameters
    ----------
    fitted_on
        Probabilities `[m, networks]` and truth `[m]`.
    probabilities
        `[n, networks]`.

    Returns
    -------
    `[n]`, probability of the positive class; None where a class is absent from what it is fitted on.
    """
    features, truth = fitted_on
    if len(np.unique(truth)) < 2 or not len(probabilities):
        return None
    model = LogisticRegression().fit(features, truth)
    return np.asarray(model.predict_proba(probabilities)[:, 1], np.float64)


def cross_stacked(
    probabilities: Floats, truth: Flags, patients: ArrayLike, iterations: tuple[int, int]
) -> list[Floats]:
    """Fit and apply by iterated 2-fold cross-validation, folds by patient and drawn anew each iteration.

    Folds are drawn again until both hold both classes.

    Parameters
    ----------
    probabilities
        `[n, networks]`.
    truth, patients
        `[n]`.
    iterations
        How many, and the seed.

    Returns
    -------
    `[n]` for each iteration: of each tile the probability by the model that was fitted on the other fold. Nothing where
    the patients cannot be divided so that both folds hold both classes.
    """
    count, seed = iterations
    keys, numbers = np.unique(np.asarray(patients), return_inverse=True)
    found = []
    for iteration in range(count):
        generator = np.random.default_rng([seed, iteration, len(keys)])
        fold = next(_folds(generator, numbers, truth), None)
        if fold is None:
            return []
        found.append(_both_ways(probabilities, truth, fold))
    return found


def _folds(generator: np.random.Generator, numbers: NDArray[np.intp], truth: Flags) -> Iterator[Flags]:
    """Draw halves of the patients, and yield which tiles are in the first where both have both classes."""
    patients = int(numbers.max(initial=-1)) + 1
    for _ in range(_ATTEMPTS):
        first = np.isin(numbers, generator.permutation(patients)[: (patients + 1) // 2])
        if all(len(np.unique(truth[part])) > 1 for part in (first, ~first)):
            yield first


def _both_ways(probabilities: Floats, truth: Flags, fold: Flags) -> Floats:
    out = np.empty(len(truth))
    for part in (fold, ~fold):
        applied = stacked((probabilities[~part], truth[~part]), probabilities[part])
        if applied is not None:
            out[part] = applied
    return out
