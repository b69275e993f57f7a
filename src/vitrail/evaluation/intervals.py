"""Statistics with their intervals, as `metrics.json` holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitrail.metrics.bootstrap import interval, p_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from vitrail.metrics.bootstrap import Drawn

    Floats = NDArray[np.float64]


def with_intervals(statistics: Mapping[str, Drawn], weights: Floats) -> dict[str, Any]:
    """Return statistics as numbers, and by the same names their 95 % intervals over patients as `interval`."""
    numbers = {name: float(drawn) for name, drawn in statistics.items()}
    return {**numbers, "interval": {name: list(interval(drawn, weights)) for name, drawn in statistics.items()}}


def compared(first: Drawn, second: Drawn, weights: Floats) -> dict[str, Any]:
    """Return the first less the second on the same resamples: `difference`, its `interval`, and `p`."""
    gap = first - second
    return {"difference": float(gap), "interval": list(interval(gap, weights)), "p": p_value(gap, weights)}
