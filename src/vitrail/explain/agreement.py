"""How far two kinds of maps agree, tile by tile, over a cohort, and beyond what maps of any two tiles share.

Maps of two methods differ in resolution. Here, and only here, they are brought to one grid: for Pearson's coefficient,
as the paper does, to the tile's own pixels, interpolated as `Saliency.upsample` does, each value at the place that its
cell looks at. On the cells of a coarse map the few at the tile's border would count for far more than the area they
cover. Spearman's coefficient and the intersection of the strongest places need ranks, which no product of small
matrices gives: for these `GRID` x `GRID` points of the tile, the centres of equal squares, are enough.

Maps that all resemble one pattern agree without saying anything of a tile. What chance gives is therefore the same
statistic with the second map taken from another tile, `other_tiles`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

from vitrail.metrics.bootstrap import Interval, estimate
from vitrail.metrics.correlation import mode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.explain.saliency import Frame

    Floats = NDArray[np.float64]
    Ranks = NDArray[np.int16]
    Values = NDArray[np.floating[Any]]

GRID = 32
"""Points along each side of a tile at which maps are ranked: 3 to 7 pixels apart, finer than the cells of most maps."""

TOP = 0.1
"""The share of a tile that counts as a map's strongest places."""

_WIDEST = 2.0  # no two coefficients differ by more, as the interval over two or three patients may claim
_OTHERS = 0x07E5  # keeps draws of the same seed apart
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


def correlate(
    first: Values,
    second: Values,
    frames: tuple[Frame, Frame],
    *,
    relu: bool = False,
    others: NDArray[np.int64] | None = None,
) -> Floats:
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
    others
        Which of the second maps each of the first is compared with, `[n]`; None takes that of the same tile.

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
    partners = np.arange(len(second)) if others is None else others
    parts = (slice(at, at + _CHUNK) for at in range(0, len(first), _CHUNK))
    units = ((a.unit(first[part], relu=relu), b.unit(second[partners[part]], relu=relu)) for part in parts)
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


def other_tiles(n: int, seed: int) -> NDArray[np.int64]:
    """Draw for each tile another one, so that each is drawn once: the next one of a ring in random order.

    Parameters
    ----------
    n
        Tiles; a single one has no other but itself.
    seed
        Draws the ring.

    Returns
    -------
    NDArray[np.int64]
        `[n]`.
    """
    ring = np.random.default_rng([seed, _OTHERS]).permutation(n)
    others = np.empty(n, np.int64)
    others[ring] = np.roll(ring, -1)
    return others


def rank_points(maps: Values, frame: Frame) -> Ranks:
    """Rank each map's values at `GRID` x `GRID` points of its tile.

    Parameters
    ----------
    maps
        `[n, h, w]`.
    frame
        Where they lie on their tiles.

    Returns
    -------
    NDArray[np.int16]
        `[n, GRID * GRID]`, twice the rank, 2 for the lowest value; equal values share the mean of their ranks.
    """
    rows, columns = frame.matrices((maps.shape[1], maps.shape[2]), (GRID, GRID))
    ranks = np.empty((len(maps), GRID * GRID), np.int16)  # 2 kB a map, so that all kinds of a cohort fit into memory
    for at in range(0, len(maps), _CHUNK):
        part = np.asarray(maps[at : at + _CHUNK], np.float64)
        highest = np.abs(part).max((1, 2), keepdims=True)
        points = rows @ (part / np.where(highest > 0, highest, 1)) @ columns.T
        # in single precision, where points beyond the outermost cells tie whatever the order of the sums
        values = points.astype(np.float32).reshape(len(part), -1)
        ranks[at : at + _CHUNK] = (2 * rankdata(values, axis=1)).astype(np.int16)
    return ranks


def rank_agreement(first: Ranks, second: Ranks) -> tuple[Floats, Floats]:
    """Compare maps by the ranks of their points.

    Parameters
    ----------
    first, second
        What `rank_points` returns, `[n, points]` each.

    Returns
    -------
    tuple[NDArray[np.float64], NDArray[np.float64]]
        `[n]` each: Spearman's coefficient; and the share of the one map's strongest places, `TOP` of the points, that
        are among the other's. Where points tie for the last of them, each counts in part. NaN where a map is constant.
    """
    statistics = np.full((2, len(first)), np.nan)
    for at in range(0, len(first), _CHUNK):
        a, b = (each[at : at + _CHUNK].astype(np.float64) for each in (first, second))
        varying = (np.ptp(a, 1) > 0) & (np.ptp(b, 1) > 0)
        a, b = a[varying], b[varying]
        mean = a.shape[1] + 1  # twice the mean rank
        products = [((x - mean) * (y - mean)).sum(1) for x, y in ((a, b), (a, a), (b, b))]
        shared = (_strongest(a) * _strongest(b)).sum(1) / _strongest(a).sum(1)
        statistics[:, at : at + _CHUNK][:, varying] = products[0] / np.sqrt(products[1] * products[2]), shared
    spearman, top = statistics
    return np.clip(spearman, -1, 1), top


def _strongest(ranks: Floats) -> Floats:
    """Return how far each point is among the `TOP` highest of its map, 0 to 1; each map's add up to their number."""
    count = max(round(TOP * ranks.shape[1]), 1)
    last = np.partition(ranks, -count, axis=1)[:, -count, None]
    higher, tied = ranks > last, ranks == last
    part = (count - higher.sum(1, keepdims=True)) / tied.sum(1, keepdims=True)
    strongest: Floats = higher + tied * part
    return strongest


def beyond_others(values: Floats, null: Floats, patients: NDArray[Any], seed: int) -> dict[str, Any]:
    """Return by how much maps of one tile agree beyond maps of two tiles.

    The interval is over the patients of the first maps. Simulated with 3 to 50 patients, whose maps follow a common
    pattern more or less, it covers 0.95 to 1: the patients of the second maps add noise that it sees, too.

    Parameters
    ----------
    values
        A statistic of each tile's two maps, `[n]`, NaN where undefined.
    null
        The same with the second map of another tile, `[n]`, see `other_tiles`.
    patients
        Each tile's patient, `[n]`.
    seed
        See `estimate`.

    Returns
    -------
    dict[str, Any]
        As JSON, null for what is undefined: the mean `value` and the mean `null`, of the tiles that have both, and
        `beyond`, their difference, as `[mean, low, high]` with its 95 % interval over patients.
    """
    defined = ~np.isnan(values) & ~np.isnan(null)
    value, chance, owners = values[defined], null[defined], np.asarray(patients)[defined]
    means = [float(each.mean()) if defined.any() else None for each in (value, chance)]
    beyond = [end if end is None else float(np.clip(end, -_WIDEST, _WIDEST)) for end in estimate(
        value - chance, 1, owners, seed
    ).json]  # fmt: skip
    return {"value": means[0], "null": means[1], "beyond": beyond}


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
