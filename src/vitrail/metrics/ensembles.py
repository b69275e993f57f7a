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
    NDArray[np.float64] | None
        `[n]`, probability of the positive class; None where a class is absent from what it is fitted on.
    """
    features, truth = fitted_on
    if len(np.unique(truth)) < 2 or not len(probabilities):
        return None
    model = LogisticRegression().fit(features, truth)
    return np.asarray(model.predict_proba(probabilities)[:, 1], np.float64)


def cross_stacked(probabilities: Floats, truth: Flags, patients: ArrayLike, iterations: int, seed: int) -> list[Floats]:
    """Fit and apply by iterated 2-fold cross-validation, folds by patient and drawn anew each iteration.

    Folds are drawn again until both hold both classes.

    Parameters
    ----------
    probabilities
        `[n, networks]`.
    truth, patients
        `[n]`.
    iterations
        How many.
    seed
        Draws the folds.

    Returns
    -------
    list[NDArray[np.float64]]
        `[n]` for each iteration: of each tile the probability by the model that was fitted on the other fold. Nothing
        where the patients cannot be divided so that both folds hold both classes.
    """
    names, numbers = np.unique(np.asarray(patients), return_inverse=True)
    results = []
    for iteration in range(iterations):
        generator = np.random.default_rng([seed, iteration, len(names)])
        for _ in range(_ATTEMPTS):
            first = np.isin(numbers, generator.permutation(len(names))[: (len(names) + 1) // 2])
            if all(len(np.unique(truth[fold])) > 1 for fold in (first, ~first)):
                break
        else:
            return []
        result = np.empty(len(truth))
        for fold in (first, ~first):
            applied = stacked((probabilities[~fold], truth[~fold]), probabilities[fold])
            if applied is not None:
                result[fold] = applied
        results.append(result)
    return results
