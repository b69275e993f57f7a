"""Predictions as an ensemble leaves them: spreads, counted confidence of pixels, and tiles out of fold."""

from __future__ import annotations

import numpy as np

from vitrail.classes import CLASSES


def with_ensemble(predictions, seed=0, flips=0.0):
    """Return predictions with the columns of an ensemble; the less sure a tile, the larger its spread.

    A share `flips` of the labels is turned around, whatever the networks say.
    """
    rng = np.random.default_rng(seed)
    p, n = predictions[["classifier", "segmenter"]].to_numpy(float), len(predictions)
    spread = np.clip(0.5 * p * (1 - p) + rng.normal(0, 0.03, p.shape), 0.001, None)
    counts = np.stack(predictions["pixels"]).reshape(n, len(CLASSES), len(CLASSES))
    total, right = counts.sum((1, 2)), np.trace(counts, axis1=1, axis2=2)
    middle = (np.arange(20) + 0.5) / 20
    confidence = np.zeros((n, 2, 20), np.int64)
    for tile in range(n):
        share = middle**4 * (middle > 0.25)
        own = rng.multinomial(total[tile], share / share.sum())
        chance = np.clip(middle * right[tile] / max(total[tile], 1) * 1.05, 0, 1)
        confidence[tile] = own, rng.binomial(own, chance)
    swap = rng.random(n) < flips
    other = predictions["label"].map({"tumor": "non_tumor", "non_tumor": "tumor"})
    return predictions.assign(
        classifier_spread=spread[:, 0],
        segmenter_spread=spread[:, 1],
        out_of_fold=True,
        confidence=list(confidence.reshape(n, 40)),
        label=predictions["label"].where(~swap, other),
    )
