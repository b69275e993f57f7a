"""Correlation of maps, the mode of a distribution, and intervals by drawing patients again.

Tiles of one patient resemble each other, so the patient is what is drawn. What a statistic needs of a patient is
often a sum over the patient's tiles (a count, a histogram, a confusion matrix); a resample is then a weighted sum
over patients, and thousands of them are one matrix product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

_ROUNDING = 1e-12
_CHUNK = 250


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


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
    if a.shape != b.shape or a.ndim < 2:  # noqa: PLR2004 - h, w
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

    Of bins that are equally full the lowest is taken. NaN is left out; without values the mode is NaN.
    """
    return float(fullest(histogram(values, bins, between), between))


def fullest(counts: ArrayLike, between: tuple[float, float] = (-1.0, 1.0)) -> Floats:
    """Return the mode of histograms `[..., bins]`, as `mode` does of values; `[...]`, NaN where all bins are empty."""
    full = np.asarray(counts)
    edges = np.linspace(*between, full.shape[-1] + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    result: Floats = np.where(full.any(-1), centres[full.argmax(-1)], np.nan)[()]
    return result


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


def bootstrap(parts: ArrayLike, statistic: Callable[[Any], ArrayLike], seed: int, resamples: int = 2000) -> Interval:
    """Return the 95 % percentile bootstrap interval of a statistic over patients.

    Source: Efron 1979, doi:10.1214/aos/1176344552.

    Parameters
    ----------
    parts
        `[patients, ...]`, what each patient adds: what `by_patient` returns.
    statistic
        Maps sums of parts, `[resamples, ...]`, to `[resamples]`.
    seed
        The same seed draws the same patients, so that statistics of one cohort are compared on the same resamples.
    resamples
        How many.

    Returns
    -------
    2.5th and 97.5th percentile of the resamples that have the statistic. NaN for fewer than two patients, who tell
    nothing about how patients differ.
    """
    given = np.asarray(parts, np.float64)
    if len(given) < 2:  # noqa: PLR2004 - see above
        return Interval(np.nan, np.nan)
    counts = draws(len(given), resamples, seed)
    chunks = (counts[start : start + _CHUNK] for start in range(0, resamples, _CHUNK))
    return percentiles(np.concatenate([np.asarray(statistic(np.tensordot(chunk, given, 1))) for chunk in chunks]))


def percentiles(values: ArrayLike) -> Interval:
    """Return the 2.5th and the 97.5th percentile of what is not NaN."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    low, high = np.quantile(known, (0.025, 0.975)) if len(known) else (np.nan, np.nan)
    return Interval(float(low), float(high))
