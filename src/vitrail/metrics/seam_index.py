"""Do the borders of windows show in a map? The jump across them, over the jump one pixel beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


@dataclass(slots=True, kw_only=True)
class SeamIndex:
    """Collects the seam index of a map that arrives in strips.

    The index is the mean absolute jump of all channels across the borders, divided by the mean absolute jump between
    the neighbours one pixel before and behind each border. 1 is seamless. Where a neighbour is NaN, nothing is counted.

    Attributes
    ----------
    period
        Pixels between two borders, along both axes.
    first
        The first border lies between the pixels `first - 1` and `first`.
    """

    period: int
    first: int = 0
    _across: float = field(default=0.0, init=False)
    _beside: float = field(default=0.0, init=False)
    _row: int = field(default=0, init=False)
    _last_rows: list[NDArray[np.float64]] = field(default_factory=list, init=False)

    def add(self, strip: Floats) -> None:
        """Add the next rows of the map, `[h, width, channels]`."""
        for column in range(2, strip.shape[1] - 1):
            if (column - self.first) % self.period == 0:
                self._count(strip[:, column - 2 : column + 2].swapaxes(0, 1).astype(np.float64))
        for row in strip:
            self._last_rows = [*self._last_rows[-3:], row.astype(np.float64)]
            self._row += 1
            if self._row >= 4 and (self._row - 2 - self.first) % self.period == 0:
                self._count(np.stack(self._last_rows))

    @property
    def value(self) -> float:
        """The index; NaN where the map is flat beside all borders or has none."""
        return self._across / self._beside if self._beside else float("nan")

    def _count(self, four: NDArray[np.float64]) -> None:
        """Count the jumps between four neighbouring lines, `[4, n, channels]`, the border in their middle."""
        jumps = np.abs(np.diff(four, axis=0))
        before, across, behind = np.where(np.isfinite(jumps).all(0), jumps, 0).sum((1, 2))
        self._across += float(across)
        self._beside += float(before + behind) / 2
