"""Correlation of maps, the mode of a distribution, sums by patient, and how often patients are drawn again.

Tiles of one patient resemble each other, so the patient is what is drawn. What a statistic needs of a patient is
often a sum over the patient's tiles (a count, a confusion matrix); a resample is then a weighted sum over patients, and
thousands of them are one matrix product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

_ROUNDING = 1e-12


def pearson(first: ArrayLike, second: ArrayLike) -> Floats:
    """Return Pearson's correlation coefficient of each pair of maps.

    Parameters
    ----------
    first, second
        `[..., h, w]`, of one shape.

    Returns
    -------
    `[...]`, NaN where one of the two maps is constant (but for rounding): its correlation is undefined, not 0.

    Raises
    ------
    ValueError
        The shapes differ, or a value is not finite.
    """
    a, b = (np.asarray(values, np.float64) for values in (first, second))
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(f"maps have shapes {a.shape} and {b.shape}; they must be [..., h, w], and the same")
    result: Floats = np.clip((_unit(a) * _unit(b)).sum((-2, -1)), -1, 1)
    return result


def _unit(maps: Floats) -> Floats:
    """Return maps of mean 0 and length 1; NaN for constant ones."""
    if not np.isfinite(maps).all():
        raise ValueError("a map holds values that are not finite")
    highest = np.abs(maps).max((-2, -1), keepdims=True)
    constant = np.ptp(maps, (-2, -1), keepdims=True) <= _ROUNDING * highest
    scaled = maps / np.where(constant, np.nan, highest)  # before squares, which would underflow for weak maps
    centred = scaled - scaled.mean((-2, -1), keepdims=True)
    unit: Floats = centred / np.sqrt(np.square(centred).sum((-2, -1), keepdims=True))
    return unit


def bin_of(values: ArrayLike, bins: int = 30, between: tuple[float, float] = (-1.0, 1.0)) -> NDArray[np.int64]:
    """Return the number of the equal bin that each value is in; the last bin holds its upper edge, too.

    Raises
    ------
    ValueError
        A value is NaN or outside.
    """
    given, (low, high) = np.asarray(values, np.float64), between
    if not ((given >= low) & (given <= high)).all():
        raise ValueError(f"a value is not between {low:g} and {high:g}")
    found = np.searchsorted(np.linspace(low, high, bins + 1), given, side="right") - 1
    return np.minimum(found, bins - 1).astype(np.int64)


def histogram(values: ArrayLike, bins: int = 30, between: tuple[float, float] = (-1.0, 1.0)) -> NDArray[np.int64]:
    """Count values in equal bins, `[bins]`; NaN is left out. Raises ValueError for values outside."""
    given = np.asarray(values, np.float64)
    return np.bincount(bin_of(given[~np.isnan(given)], bins, between), minlength=bins).astype(np.int64)


def mode(values: ArrayLike, bins: int = 30, between: tuple[float, float] = (-1.0, 1.0)) -> float:
    """Return the centre of the fullest of equal bins, which is what the paper calls a mode correlation.

    Of bins that are equally full the lowest is taken. NaN is left out; without values the mode is NaN. It jumps from
    bin to bin as single tiles come and go, so that no bootstrap gives it an interval that covers what it promises.
    """
    counts = histogram(values, bins, between)
    edges = np.linspace(*between, bins + 1)
    fullest = int(counts.argmax())
    return float((edges[fullest] + edges[fullest + 1]) / 2) if counts.any() else float("nan")


def by_patient(patients: ArrayLike, parts: ArrayLike) -> Floats:
    """Add up what belongs to the same patient.

    Parameters
    ----------
    patients
        `[n]`, identifiers.
    parts
        `[n, ...]`, what each element adds.

    Returns
    -------
    `[patients, ...]`, in sorted order of the identifiers.
    """
    keys, numbers = np.unique(np.asarray(patients), return_inverse=True)
    added = np.asarray(parts)
    sums = np.zeros((len(keys), *added.shape[1:]))
    np.add.at(sums, numbers, added)
    return sums


def draws(patients: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """Draw as many patients as there are, with replacement, again and again.

    Returns
    -------
    `[resamples, patients]`, how often each was drawn. Columns taken by each tile's patient are weights for statistics
    that are no sums, such as `scores.auc`.
    """
    generator = np.random.default_rng([seed, patients, resamples])
    return generator.multinomial(patients, np.full(patients, 1 / max(patients, 1)), size=resamples)
