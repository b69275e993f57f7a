"""How far two kinds of maps agree: Pearson's correlation tile by tile, and its distribution over a cohort.

Maps of two methods differ in resolution. Here, and only here, they are brought to one grid, as the paper does: to the
tile's own pixels, interpolated as `Saliency.upsample` does, each value at the place that its cell looks at. On the
cells of a coarse map the few at the tile's border would count for far more than the area they cover.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.metrics.bootstrap import Interval, estimate
from vitrail.metrics.correlation import mode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.explain.saliency import Frame

    Floats = NDArray[np.float64]
    Values = NDArray[np.floating[Any]]

_CHUNK = 64
_ROUNDING = 1e-12  # of a map's highest value: one that varies by less is constant


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
    mean_interval
        Its 95 % interval over patients; the mode has none, see `mode`.
    """

    correlations: Floats
    n: int
    constant: int
    mean: float
    mode: float
    mean_interval: Interval

    def summary(self) -> dict[str, Any]:
        """Return the numbers as JSON; what is undefined is null."""
        return {
            "mode": _or_null(self.mode),
            "mean": _or_null(self.mean),
            "interval": [_or_null(end) for end in self.mean_interval],
            "n": self.n,
            "constant": self.constant,
        }


def _or_null(value: float) -> float | None:
    return None if np.isnan(value) else value


def correlate(first: Values, second: Values, frames: tuple[Frame, Frame], *, relu: bool = False) -> Floats:
    """Return Pearson's coefficient of each pair of maps over the pixels of their tile.

    No map is enlarged for it. Enlarging is linear: `rows @ map @ columns.T`. So sums over pixels of products of two
    enlarged maps are sums over the cells of the two, weighted by small matrices such as `rows_1.T @ rows_2`.

    Parameters
    ----------
    first, second
        `[n, h, w]` and `[n, h', w']`.
    frames
        Where the maps of either kind lie on their tiles.
    relu
        Set what speaks against the target to 0 first, at each map's own resolution.

    Returns
    -------
    NDArray[np.float64]
        `[n]`, NaN where one of the two maps is constant.

    Raises
    ------
    ValueError
        The numbers of maps differ, or a value is not finite, or the frames are of images of different sizes.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} maps cannot be paired with {len(second)}")
    if frames[0].image_px != frames[1].image_px:
        raise ValueError(f"images of {frames[0].image_px} and {frames[1].image_px} pixels cannot be compared")
    a, b = (_Enlarging.of(maps, frame) for maps, frame in zip((first, second), frames, strict=True))
    parts = (slice(at, at + _CHUNK) for at in range(0, len(first), _CHUNK))
    units = ((a.unit(first[part], relu=relu), b.unit(second[part], relu=relu)) for part in parts)
    return np.concatenate([np.empty(0), *(np.clip(a.products(unit, b, other), -1, 1) for unit, other in units)])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Enlarging:
    """How the maps of one kind are enlarged to the tile, `rows @ map[cells] @ columns.T`.

    Attributes
    ----------
    cells
        The part of a map that the tile's pixels are made of: some cells may lie beyond the tile.
    rows, columns
        `[pixels, cells]` each.
    """

    cells: tuple[slice, slice, slice]
    rows: Floats
    columns: Floats

    @classmethod
    def of(cls, maps: Values, frame: Frame) -> _Enlarging:
        both = frame.matrices((maps.shape[1], maps.shape[2]), frame.image_px)
        used = [np.flatnonzero(matrix.any(0)) for matrix in both]
        high, wide = (slice(int(each[0]), int(each[-1]) + 1) for each in used)
        return cls(cells=(slice(None), high, wide), rows=both[0][:, high], columns=both[1][:, wide])

    def unit(self, maps: Values, *, relu: bool) -> Floats:
        """Return maps whose enlargement has mean 0 and mean square 1, `[n, *cells]`; NaN for constant ones."""
        if not np.isfinite(maps).all():
            raise ValueError("a map holds values that are not finite")
        inside = np.asarray(np.maximum(maps, 0) if relu else maps, np.float64)[self.cells]
        highest = np.abs(inside).max((1, 2), keepdims=True)
        scaled = inside / np.where(highest > 0, highest, 1)  # before squares, which would underflow for weak maps
        mean = self.rows.mean(0) @ scaled @ self.columns.mean(0)
        centred = scaled - mean[:, None, None]  # all rows of both matrices add up to 1
        square = self.products(centred, self, centred)
        unit: Floats = centred / np.sqrt(np.where(square > _ROUNDING**2, square, np.nan))[:, None, None]
        return unit

    def products(self, maps: Floats, other: _Enlarging, others: Floats) -> Floats:
        """Return the mean over pixels of the product of each two maps once enlarged, `[n]`."""
        rows, columns = self.rows.T @ other.rows / len(self.rows), self.columns.T @ other.columns / len(self.columns)
        means: Floats = (maps * (rows @ others @ columns.T)).sum((1, 2))
        return means


def agreement(correlations: Floats, patients: NDArray[Any], seed: int) -> Agreement:
    """Sum up the coefficients of a cohort.

    Parameters
    ----------
    correlations
        What `correlate` returns, `[tiles]`.
    patients
        Each tile's patient, `[tiles]`.
    seed
        See `estimate`.

    Returns
    -------
    Agreement
        Over all tiles whose maps both vary.
    """
    defined = ~np.isnan(correlations)
    values = correlations[defined]
    mean, low, high = estimate(values, 1, np.asarray(patients)[defined], seed, "correlation")
    return Agreement(
        correlations=correlations,
        n=len(values),
        constant=int((~defined).sum()),
        mean=mean,
        mode=mode(values),
        mean_interval=Interval(low, high),
    )
