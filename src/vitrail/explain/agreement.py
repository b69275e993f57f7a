"""How far two kinds of maps agree: Pearson's correlation tile by tile, and its distribution over a cohort.

Maps of two methods differ in resolution. Here, and only here, they are brought to one grid: the coarser map is
enlarged bilinearly to the finer one's grid. This is what the paper does, which resizes its maps to the tile; going on
from the finer grid to the tile itself would cost more and change little. Averaging the finer map down would throw away
the detail that HR-CAM is made for, and call two maps equal that only agree about regions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.explain.saliency import interpolation
from vitrail.measures.stats import bin_of, bootstrap, by_patient, fullest, pearson

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.measures.stats import Interval

    Floats = NDArray[np.float64]
    Values = NDArray[np.floating[Any]]

_BINS = 30
_CHUNK = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Agreement:
    """How far two methods agree on a cohort.

    Attributes
    ----------
    correlations
        Pearson's coefficient of each tile, `[tiles]`; NaN where one of the maps is constant.
    n
        Tiles that have one.
    constant
        Tiles that have none. They are left out of everything else.
    mean, mode
        Of the coefficients; the mode is the centre of the fullest of 30 equal bins from -1 to 1. NaN without any.
    mean_interval, mode_interval
        95 % bootstrap intervals over patients.
    """

    correlations: Floats
    n: int
    constant: int
    mean: float
    mode: float
    mean_interval: Interval
    mode_interval: Interval

    def summary(self) -> dict[str, Any]:
        """Return the numbers as JSON; what is undefined is null."""
        return {
            "mode": _known(self.mode),
            "mean": _known(self.mean),
            "interval": [_known(end) for end in self.mean_interval],
            "mode_interval": [_known(end) for end in self.mode_interval],
            "n": self.n,
            "constant": self.constant,
        }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def correlate(first: Values, second: Values, *, relu: bool = False) -> Floats:
    """Return Pearson's coefficient of each pair of maps.

    Parameters
    ----------
    first, second
        `[n, h, w]` and `[n, h', w']`, over the same part of each image.
    relu
        Set what speaks against the target to 0 first, at each map's own resolution.

    Returns
    -------
    `[n]`, NaN where one of the two maps is constant.

    Raises
    ------
    ValueError
        The numbers of maps differ, or a value is not finite.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} maps cannot be paired with {len(second)}")
    pairs = ((first[at : at + _CHUNK], second[at : at + _CHUNK]) for at in range(0, len(first), _CHUNK))
    return np.concatenate([np.empty(0), *(_chunk(a, b, relu=relu) for a, b in pairs)])


def _chunk(first: Values, second: Values, *, relu: bool) -> Floats:
    rows, columns = (max(sides) for sides in zip(first.shape[1:], second.shape[1:], strict=True))
    a, b = (np.maximum(maps, 0) if relu else maps for maps in (first, second))
    return pearson(_enlarged(a, rows, columns), _enlarged(b, rows, columns))


def _enlarged(maps: Values, rows: int, columns: int) -> Floats:
    """Interpolate in float64, so that a constant map stays constant as far as `pearson` can tell."""
    height, width = maps.shape[1:]
    vertical, horizontal = (interpolation(*sides) for sides in ((height, rows), (width, columns)))
    enlarged: Floats = vertical @ maps.astype(np.float64) @ horizontal.T
    return enlarged


def agreement(correlations: Floats, patients: NDArray[Any], seed: int, resamples: int = 2000) -> Agreement:
    """Sum up the coefficients of a cohort.

    Parameters
    ----------
    correlations
        What `correlate` returns, `[tiles]`.
    patients
        Each tile's patient, `[tiles]`.
    seed, resamples
        See `bootstrap`.
    """
    known = ~np.isnan(correlations)
    values = correlations[known]
    parts = by_patient(np.asarray(patients)[known], _parts(values))
    total = parts.sum(0)[None]
    return Agreement(
        correlations=correlations,
        n=len(values),
        constant=int((~known).sum()),
        mean=float(_mean(total)[0]),
        mode=float(_mode(total)[0]),
        mean_interval=bootstrap(parts, _mean, seed, resamples),
        mode_interval=bootstrap(parts, _mode, seed, resamples),
    )


def _parts(values: Floats) -> Floats:
    """Return what each coefficient adds to the sums that mean and mode are made of: its bin, one, and itself."""
    return np.column_stack([np.eye(_BINS)[bin_of(values, _BINS)], np.ones(len(values)), values])


def _mode(sums: Floats) -> Floats:
    return fullest(sums[:, :-2])


def _mean(sums: Floats) -> Floats:
    mean: Floats = sums[:, -1] / np.where(sums[:, -2] > 0, sums[:, -2], np.nan)
    return mean
