"""How far two kinds of maps agree: Pearson's correlation tile by tile, and its distribution over a cohort.

Maps of two methods differ in resolution. Here, and only here, they are brought to one grid: the coarser map is
enlarged bilinearly to the finer one's grid, each value at the place that its cell looks at. The paper resizes its maps
to the tile; going on from the finer grid to the tile itself would cost more and change little. Averaging the finer map
down would throw away the detail that HR-CAM is made for, and call two maps equal that only agree about regions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.explain.saliency import Frame
from vitrail.measures.patients import Interval, estimate
from vitrail.measures.stats import mode, pearson

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.explain.saliency import Size

    Floats = NDArray[np.float64]
    Values = NDArray[np.floating[Any]]

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
            "mode": _known(self.mode),
            "mean": _known(self.mean),
            "interval": [_known(end) for end in self.mean_interval],
            "n": self.n,
            "constant": self.constant,
        }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def correlate(
    first: Values, second: Values, *, relu: bool = False, frames: tuple[Frame, Frame] | None = None
) -> Floats:
    """Return Pearson's coefficient of each pair of maps.

    Parameters
    ----------
    first, second
        `[n, h, w]` and `[n, h', w']`.
    relu
        Set what speaks against the target to 0 first, at each map's own resolution.
    frames
        Where either map lies on the image. Without them both span it exactly.

    Returns
    -------
    `[n]`, NaN where one of the two maps is constant.

    Raises
    ------
    ValueError
        The numbers of maps differ, or a value is not finite, or the frames are of images of different sizes.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} maps cannot be paired with {len(second)}")
    cells = (first.shape[1], first.shape[2]), (second.shape[1], second.shape[2])
    onto = _onto(cells, frames or (_WHOLE, _WHOLE))
    parts = (slice(at, at + _CHUNK) for at in range(0, len(first), _CHUNK))
    pairs = (
        [_enlarged(maps[part], *each, relu=relu) for maps, each in zip((first, second), onto, strict=True)]
        for part in parts
    )
    return np.concatenate([np.empty(0), *(pearson(a, b) for a, b in pairs)])


_WHOLE = Frame(image_px=(1, 1), span_px=(1, 1))


def _onto(cells: tuple[Size, Size], frames: tuple[Frame, Frame]) -> list[tuple[Floats, Floats]]:
    """Return each map's matrices to the places of the finer one's cells; those beyond the image are left out."""
    if frames[0].image_px != frames[1].image_px:
        raise ValueError(f"images of {frames[0].image_px} and {frames[1].image_px} pixels cannot be compared")
    centres = (frame.centres(have) for have, frame in zip(cells, frames, strict=True))
    sides = zip(*centres, frames[0].image_px, strict=True)
    rows, columns = (at[(at > 0) & (at < side)] for *both, side in sides for at in [max(both, key=len)])
    return [frame.onto(have, rows, columns) for have, frame in zip(cells, frames, strict=True)]


def _enlarged(maps: Values, rows: Floats, columns: Floats, *, relu: bool) -> Floats:
    """Interpolate in float64, so that a constant map stays constant as far as `pearson` can tell."""
    kept = np.maximum(maps, 0) if relu else maps
    enlarged: Floats = rows @ kept.astype(np.float64) @ columns.T
    return enlarged


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
    """
    known = ~np.isnan(correlations)
    values = correlations[known]
    mean, low, high = estimate(values, 1, np.asarray(patients)[known], seed, "correlation")
    return Agreement(
        correlations=correlations,
        n=len(values),
        constant=int((~known).sum()),
        mean=mean,
        mode=mode(values),
        mean_interval=Interval(low, high),
    )
