"""Logistic regression to convergence: what the dense layer of HR-CAM is over a frozen network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import fmin_l_bfgs_b
from scipy.special import expit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_GRADIENT = 1e-7
_ITERATIONS = 20_000


def logistic_regression(features: Floats, positive: NDArray[np.bool_], l2: float) -> tuple[Floats, float]:
    """Minimise mean cross-entropy + `l2 / 2` times the squared weights of the standardised features.

    The problem is strictly convex, so there is one solution, and no seed, rate or number of epochs to choose. It is
    solved with L-BFGS in float64. scikit-learn's `C` is `1 / (n l2)`; as there, the bias bears no penalty.

    Parameters
    ----------
    features
        `[n, c]`. A feature that does not vary gets the weight 0.
    positive
        `[n]`.
    l2
        Strength of the penalty; it does not depend on `n`.

    Returns
    -------
    Weights `[c]` and bias for the features as given: the logit of one row is `weights . row + bias`.

    Raises
    ------
    ValueError
        A class is missing, a feature is not finite, or `l2` is not positive.
    """
    _check(features, positive, l2)
    mean, std = features.mean(0), features.std(0)
    std[std <= np.finfo(np.float32).eps * np.abs(mean)] = np.inf  # does not vary but by rounding
    standard = (features - mean) / std
    weights, bias = _solve(standard, np.where(positive, 1.0, -1.0), l2)
    return weights / std, float(bias - (weights / std) @ mean)


def _check(features: Floats, positive: NDArray[np.bool_], l2: float) -> None:
    if not np.isfinite(features).all():
        raise ValueError("a feature is not finite")
    if positive.shape != features.shape[:1] or len(set(positive.tolist())) != 2:
        raise ValueError(f"needs {len(features)} labels of both classes")
    if not l2 > 0:
        raise ValueError(f"l2 is {l2}; without a penalty classes that can be told apart have no solution")


def _solve(features: Floats, sign: Floats, l2: float) -> tuple[Floats, float]:
    count, width = features.shape

    def loss(parameters: Floats) -> tuple[float, Floats]:
        weights, bias = parameters[:-1], parameters[-1]
        margin = sign * (features @ weights + bias)
        slope = -sign * expit(-margin) / count
        value = np.logaddexp(0, -margin).mean() + l2 / 2 * weights @ weights
        return float(value), np.append(features.T @ slope + l2 * weights, slope.sum())

    found, _, _ = fmin_l_bfgs_b(
        loss, np.zeros(width + 1), m=20, factr=0.0, pgtol=_GRADIENT, maxiter=_ITERATIONS, maxfun=2 * _ITERATIONS
    )
    steepest = float(np.abs(loss(found)[1]).max())
    if steepest > 100 * _GRADIENT:  # a line search may stop at the limit of float64, short of the aim
        raise ArithmeticError(f"no convergence: a gradient of {steepest:.1e} is left")
    return found[:-1], float(found[-1])
