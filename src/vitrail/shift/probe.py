"""Whether features tell where a slide comes from: a linear probe, cross-validated by patient, against permutations.

The probe is a logistic regression with a ridge penalty on the first principal components of the features, one class
against the rest, each class counting the same. Folds hold whole patients and are dealt without looking at labels, so
that the same folds serve every permutation, and the p-value is exact (Phipson and Smyth 2010,
doi:10.2202/1544-6115.1585).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Labels = NDArray[np.int64]

PERMUTATIONS = 499
"""Of the labels, for the null."""

_COMPONENTS, _FOLDS, _STEPS, _BLOCK = 12, 10, 8, 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """How well a probe tells classes apart.

    Attributes
    ----------
    balanced_accuracy
        Mean over classes of the share that is called right, in cross-validation.
    null_mean, null_high
        Mean and 95 % quantile of the same with permuted labels.
    p
        Share of all permutations, the true labels among them, that reach the balanced accuracy.
    permutations
        How many there were.
    """

    balanced_accuracy: float
    null_mean: float
    null_high: float
    p: float
    permutations: int


def probe(features: Floats, labels: Labels, patients: ArrayLike, permuted: Labels, seed: int) -> Probed:
    """Ask whether a linear probe tells classes apart better than chance.

    Parameters
    ----------
    features
        `[n, channels]`, one row a slide.
    labels
        `[n]`, classes from 0.
    patients
        `[n]`, whose slide it is; folds hold whole patients.
    permuted
        `[permutations, n]`, labels as they might have been.
    seed
        Of the folds.

    Returns
    -------
    Probed
        The balanced accuracy and its null.
    """
    inputs = _components(features)
    scores = _balanced_accuracies(inputs, np.vstack([labels[None], permuted]), np.asarray(patients), seed)
    reached = 1 + int((scores[1:] >= scores[0] - 1e-12).sum())
    return Probed(
        balanced_accuracy=float(scores[0]),
        null_mean=float(scores[1:].mean()),
        null_high=float(np.quantile(scores[1:], 0.95)),
        p=reached / len(scores),
        permutations=len(permuted),
    )


def over_patients(labels: Labels, patients: ArrayLike, seed: int) -> Labels:
    """Permute the labels of patients, all slides of a patient having one.

    Parameters
    ----------
    labels
        `[n]`, the same for all slides of a patient.
    patients
        `[n]`.
    seed
        Of the permutations.

    Returns
    -------
    NDArray[np.int64]
        `[PERMUTATIONS, n]`.
    """
    _, first, numbers = np.unique(np.asarray(patients), return_index=True, return_inverse=True)
    rng = np.random.default_rng([seed, len(first)])
    return np.stack([rng.permutation(labels[first])[numbers] for _ in range(PERMUTATIONS)])


def within_patients(labels: Labels, patients: ArrayLike, seed: int) -> Labels:
    """Exchange two classes in all rows of a patient, or in none, by chance.

    Parameters
    ----------
    labels
        `[n]`, 0 or 1.
    patients
        `[n]`.
    seed
        Of the permutations.

    Returns
    -------
    NDArray[np.int64]
        `[PERMUTATIONS, n]`.
    """
    names, numbers = np.unique(np.asarray(patients), return_inverse=True)
    rng = np.random.default_rng([seed, len(names)])
    exchanged = rng.integers(0, 2, (PERMUTATIONS, len(names)))[:, numbers]
    return np.where(exchanged == 1, 1 - labels, labels)


def _components(features: Floats) -> Floats:
    """Return the first principal components of standardised features, each of variance 1, and a column of ones."""
    spread = features.std(0)
    known = features[:, spread > 1e-9]
    unit = (known - known.mean(0)) / known.std(0)
    left, sizes, _ = np.linalg.svd(unit, full_matrices=False)
    most = min(_COMPONENTS, max(1, len(features) // 6), int((sizes > 1e-9 * sizes.max(initial=0)).sum()))
    return np.column_stack([left[:, :most] * np.sqrt(len(features)), np.ones(len(features))])


def _balanced_accuracies(inputs: Floats, labels: Labels, patients: NDArray[np.str_], seed: int) -> Floats:
    """Cross-validate the probe for each row of labels `[b, n]`."""
    names, numbers = np.unique(patients, return_inverse=True)
    folds = np.random.default_rng([seed, 1]).permutation(len(names)) % min(_FOLDS, len(names))
    classes = int(labels.max()) + 1
    scores = []
    for block in np.array_split(labels, -(-len(labels) // _BLOCK)):
        decided = np.full((classes, *block.shape), -np.inf)
        for fold in range(int(folds.max()) + 1):
            tested = folds[numbers] == fold
            for kind in range(classes):
                truth = (block[:, ~tested] == kind).astype(np.float64)
                weights = _logistic(inputs[~tested], truth)
                there = truth.any(1)[:, None]  # a class that no other fold has is not guessed
                decided[kind][:, tested] = np.where(there, weights @ inputs[tested].T, -np.inf)
        called = decided.argmax(0)
        recalls = [_share(called == kind, block == kind) for kind in range(classes)]
        scores.append(np.mean(recalls, axis=0))
    return np.concatenate(scores)


def _share(right: NDArray[np.bool_], among: NDArray[np.bool_]) -> Floats:
    return np.asarray((right & among).sum(1) / np.maximum(among.sum(1), 1))


def _logistic(inputs: Floats, truth: Floats) -> Floats:
    """Fit a logistic regression for each row of `truth` `[b, n]` by Newton's method; both classes count the same."""
    size = inputs.shape[1]
    hits = truth.sum(1, keepdims=True)
    misses = truth.shape[1] - hits
    importance = np.where(truth > 0, 0.5 / np.maximum(hits, 1), 0.5 / np.maximum(misses, 1)) * truth.shape[1]
    penalty = np.diag([1.0] * (size - 1) + [1e-3])
    squares = (inputs[:, :, None] * inputs[:, None, :]).reshape(len(inputs), -1)
    weights = np.zeros((len(truth), size))
    for _ in range(_STEPS):
        probability = expit(np.clip(weights @ inputs.T, -20, 20))
        slope = (importance * (truth - probability)) @ inputs - weights @ penalty
        bend = (importance * probability * (1 - probability)) @ squares
        weights = weights + np.linalg.solve(bend.reshape(-1, size, size) + penalty, slope[..., None])[..., 0]
    return weights


def sites_of(patients: Sequence[str], sites: Sequence[str], fewest: int = 3) -> list[str]:
    """Return the sites that enough patients have, in alphabetical order; patients of two sites count for neither.

    Parameters
    ----------
    patients, sites
        Of each slide; an empty site is unknown.
    fewest
        Patients that a site has at least.

    Returns
    -------
    list[str]
        Fewer than two where there is nothing to probe.
    """
    own = one_site(patients, sites)
    counts = {site: sum(1 for each in own.values() if each == site) for site in sorted(set(own.values()))}
    return [site for site, count in counts.items() if count >= fewest]


def one_site(patients: Sequence[str], sites: Sequence[str]) -> dict[str, str]:
    """Return the site of each patient that has one, and one alone."""
    known: dict[str, set[str]] = {}
    for patient, site in zip(patients, sites, strict=True):
        if site:
            known.setdefault(patient, set()).add(site)
    return {patient: next(iter(own)) for patient, own in known.items() if len(own) == 1}
