"""How far two measurements of the same thing agree: bias, limits of agreement, correlation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vitrail.metrics.bootstrap import Drawn, ratio
from vitrail.metrics.correlation import by_patient
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
        """Return `bias`, `lower` and `upper` (limits of agreement) of x less y, and `pearson`, their correlation.

        Source: Bland & Altman 1986, doi:10.1016/S0140-6736(86)90837-8.

        Parameters
        ----------
        weights
            `[rows, patients]`.
        """
        x, y, xx, yy, xy = (ratio(part, self.sums[:, 0], weights, "plain") for part in self.sums.T[1:])
        vx, vy, cxy = _spread(xx, x, x), _spread(yy, y, y), _spread(xy, x, y)
        bias, spread = x - y, _root(_difference(vx, vy, cxy), weights @ self.sums[:, 0])
        return {
            "bias": bias,
            "lower": Drawn(
                value=bias.value - REACH * spread.value, influence=bias.influence - REACH * spread.influence
            ),
            "upper": Drawn(
                value=bias.value + REACH * spread.value, influence=bias.influence + REACH * spread.influence
            ),
            "pearson": _correlation(vx, vy, cxy),
        }


def pair_parts(x: ArrayLike, y: ArrayLike, patients: ArrayLike) -> PairParts:
    """Sum up pairs of measurements `[n]` by patient."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return PairParts(sums=by_patient(patients, np.column_stack([np.ones_like(a), a, b, a * a, b * b, a * b])))


def _spread(product: Drawn, first: Drawn, second: Drawn) -> Drawn:
    """Return the covariance from the mean of products and the means."""
    moved = first.value[:, None] * second.influence + second.value[:, None] * first.influence
    return Drawn(value=product.value - first.value * second.value, influence=product.influence - moved)


def _difference(vx: Drawn, vy: Drawn, cxy: Drawn) -> Drawn:
    """Return the variance of x less y."""
    return Drawn(value=vx.value + vy.value - 2 * cxy.value, influence=vx.influence + vy.influence - 2 * cxy.influence)


def _root(variance: Drawn, count: Floats) -> Drawn:
    """Return the standard deviation of `count` pairs from their mean square deviation; NaN of one pair."""
    known = np.maximum(variance.value, 0)
    known = np.where(known > _ROUNDING**2, known, 0)
    value = np.sqrt(divided(known * count, np.maximum(count - 1, 0)))
    return Drawn(value=value, influence=np.nan_to_num(divided(variance.influence * value[:, None], 2 * known[:, None])))


def _correlation(vx: Drawn, vy: Drawn, cxy: Drawn) -> Drawn:
    """Return Pearson's coefficient; NaN where one of the two does not vary."""
    varies = (vx.value > _ROUNDING) & (vy.value > _ROUNDING)
    root = np.sqrt(np.where(varies, vx.value * vy.value, 0))
    value = np.clip(divided(cxy.value, root), -1, 1)
    shrunk = sum(divided(one.influence, np.where(varies, one.value, 0)[:, None]) for one in (vx, vy))
    influence = divided(cxy.influence, root[:, None]) - value[:, None] * shrunk / 2
    return Drawn(value=value, influence=np.asarray(influence), scale="correlation")
