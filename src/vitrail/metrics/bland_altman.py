"""How far two measurements of the same thing agree: bias, limits of agreement, correlation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vitrail.metrics.bootstrap import Drawn, by_patient, ratio
from vitrail.metrics.scores import divided

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

REACH = 1.96
"""Standard deviations of the differences from the bias to the limits of agreement."""

_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairParts:
    """What each patient adds to the agreement of two measurements.

    Attributes
    ----------
    sums
        `[patients, 6]`: pairs, and over these sums of x, y, x squared, y squared and x times y.
    """

    sums: Floats

    def scores(self, weights: Floats) -> dict[str, Drawn]:
        """Measure bias, limits of agreement and correlation.

        Source: Bland & Altman 1986, doi:10.1016/S0140-6736(86)90837-8.

        Parameters
        ----------
        weights
            `[rows, patients]`, see `vitrail.metrics.bootstrap`.

        Returns
        -------
        dict[str, Drawn]
            `bias`, `lower` and `upper` (limits of agreement) of x less y, and `pearson`, their correlation; NaN where
            one of the two does not vary. Limits are NaN of one pair.
        """
        x, y, xx, yy, xy = (ratio(part, self.sums[:, 0], weights, "plain") for part in self.sums.T[1:])
        vx, vy, cxy = _covariance(xx, x, x), _covariance(yy, y, y), _covariance(xy, x, y)
        bias = x - y
        variance = np.maximum(vx.value + vy.value - 2 * cxy.value, 0)  # of the differences
        variance = np.where(variance > _ROUNDING**2, variance, 0)
        moved = vx.influence + vy.influence - 2 * cxy.influence
        count = weights @ self.sums[:, 0]
        spread = np.sqrt(divided(variance * count, np.maximum(count - 1, 0)))  # n - 1: an unbiased variance
        influence = np.nan_to_num(divided(moved * spread[:, None], 2 * variance[:, None]))
        limits = {
            name: Drawn(value=bias.value + sign * REACH * spread, influence=bias.influence + sign * REACH * influence)
            for name, sign in (("lower", -1), ("upper", 1))
        }
        varies = (vx.value > _ROUNDING) & (vy.value > _ROUNDING)
        root = np.sqrt(np.where(varies, vx.value * vy.value, 0))
        pearson = np.clip(divided(cxy.value, root), -1, 1)
        shrunk = sum(divided(v.influence, np.where(varies, v.value, 0)[:, None]) for v in (vx, vy))
        slopes = np.asarray(divided(cxy.influence, root[:, None]) - pearson[:, None] * shrunk / 2)
        return {"bias": bias, **limits, "pearson": Drawn(value=pearson, influence=slopes, scale="correlation")}


def pair_parts(x: ArrayLike, y: ArrayLike, patients: ArrayLike) -> PairParts:
    """Sum up pairs of measurements by patient.

    Parameters
    ----------
    x, y
        The measurements, `[n]`.
    patients
        Whose they are, `[n]`.

    Returns
    -------
    PairParts
        The sums.
    """
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return PairParts(sums=by_patient(patients, np.column_stack([np.ones_like(a), a, b, a * a, b * b, a * b])))


def _covariance(product: Drawn, first: Drawn, second: Drawn) -> Drawn:
    """Return the covariance from the mean of products and the means."""
    moved = first.value[:, None] * second.influence + second.value[:, None] * first.influence
    return Drawn(value=product.value - first.value * second.value, influence=product.influence - moved)
