"""Correlation of maps, and how such coefficients are distributed."""

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
    NDArray[np.float64]
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
    """Sort values into equal bins; the last bin holds its upper edge, too.

    Parameters
    ----------
    values
        `[n]`.
    bins
        How many.
    between
        The lowest and the highest edge.

    Returns
    -------
    NDArray[np.int64]
        `[n]`, the number of each value's bin.

    Raises
    ------
    ValueError
        A value is NaN or outside.
    """
    numbers, (low, high) = np.asarray(values, np.float64), between
    if not ((numbers >= low) & (numbers <= high)).all():
        raise ValueError(f"a value is not between {low:g} and {high:g}")
    at = np.searchsorted(np.linspace(low, high, bins + 1), numbers, side="right") - 1
    return np.minimum(at, bins - 1).astype(np.int64)


def histogram(values: ArrayLike, bins: int = 30, between: tuple[float, float] = (-1.0, 1.0)) -> NDArray[np.int64]:
    """Count values in equal bins; NaN is left out.

    Parameters
    ----------
    values, bins, between
        As in `bin_of`.

    Returns
    -------
    NDArray[np.int64]
        `[bins]`.

    Raises
    ------
    ValueError
        A value is outside.
    """
    numbers = np.asarray(values, np.float64)
    return np.bincount(bin_of(numbers[~np.isnan(numbers)], bins, between), minlength=bins).astype(np.int64)


def mode(values: ArrayLike, bins: int = 30, between: tuple[float, float] = (-1.0, 1.0)) -> float:
    """Return the centre of the fullest of equal bins, which is what the paper calls a mode correlation.

    It jumps from bin to bin as single tiles come and go, so that no bootstrap gives it an interval that covers what it
    promises.

    Parameters
    ----------
    values, bins, between
        As in `bin_of`; NaN is left out.

    Returns
    -------
    float
        Of bins that are equally full the lowest; NaN without values.
    """
    counts = histogram(values, bins, between)
    edges = np.linspace(*between, bins + 1)
    fullest = int(counts.argmax())
    return float((edges[fullest] + edges[fullest + 1]) / 2) if counts.any() else float("nan")
