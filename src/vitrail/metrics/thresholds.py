"""Thresholds chosen on validation data: Youden's, and that of a wished sensitivity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vitrail.metrics.scores import roc_curve

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def youden(truth: ArrayLike, score: ArrayLike) -> float:
    """Return the threshold at which sensitivity plus specificity is highest (Youden 1950), of equals the highest.

    Parameters
    ----------
    truth
        `[n]`, true for the positive class.
    score
        `[n]`; an element is called positive when its score reaches the threshold.

    Returns
    -------
    float
        One of the scores; NaN where a class is absent.
    """
    false, true, thresholds = roc_curve(truth, score)
    gain = (true - false)[1:]  # without the threshold that nothing reaches
    return float(thresholds[1:][np.argmax(gain)]) if len(gain) and np.isfinite(gain).all() else float("nan")


def for_sensitivity(truth: ArrayLike, score: ArrayLike, wished: float) -> float:
    """Return the highest threshold with at least the wished sensitivity.

    Parameters
    ----------
    truth, score
        As in `youden`.
    wished
        Above 0 and up to 1.

    Returns
    -------
    float
        One of the scores; NaN without positives.
    """
    _, true, thresholds = roc_curve(truth, score)
    reached = true >= wished - 1e-12  # a share of whole tiles, but for rounding
    return float(thresholds[np.argmax(reached)]) if reached.any() else float("nan")
