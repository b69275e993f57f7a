"""A slide's explanations on their way to disk: blended from windows, cut to its tiles, a row of tiles at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.inference.outputs import MAP_PX
from vitrail.interop.class_map import MapHeader
from vitrail.interop.ome_tiff import ClassMapWriter
from vitrail.metrics.correlation import pearson
from vitrail.metrics.seam_index import SeamIndex
from vitrail.quality.areas import looked_up

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.inference.context import SlideContext
    from vitrail.inference.windows import Windows
    from vitrail.interop.class_map import Channel

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]

_RANKED = 2**15
"""Pixels of a slide whose ranks are correlated, at most: about so many, evenly spread."""


def write_explained(
    path: Path,
    strips: Iterable[Path],
    occupied: NDArray[np.bool_],
    windows: Windows,
    context: SlideContext,
    channels: Mapping[str, Channel],
) -> dict[str, Any]:
    """Write what explains a slide's tiles as an OME-TIFF, and measure whether methods agree and borders show.

    Parameters
    ----------
    path
        The file.
    strips
        What `blend_slide` yielded, over all tiles of the grid.
    occupied
        Which of them are explained, `[rows, columns]`; of the others the map holds nothing.
    windows
        That were blended.
    context
        The slide's tiles and tissue.
    channels
        How viewers show each method's map, by the method's name.

    Returns
    -------
    dict[str, Any]
        `mpp` of the map; by method `seam_index` at the borders of `tiles` and of `windows` and, to compare, in the
        `middles` of tiles, where no border is: between few cells a map is interpolated, and its bends count, too. None
        where the map is flat or has no border. `agreement` of the first two methods, see `Paired.agreement`, None with
        one; with more than two also `agreements`, of any two, by `<method>_<method>`.

    Raises
    ------
    ExchangeError
        The file cannot be written.
    """
    slide, cell = context.slide, context.grid.side / MAP_PX
    width, height = (max(1, round(length / cell)) for length in (slide.region.width, slide.region.height))
    header = MapHeader(
        size=(width, height),
        mpp=cell * slide.mpp,
        channels=tuple(channels.values()),
        depth="float32",
        title="Explanations",
    )
    every = max(1, int(occupied.sum()) * MAP_PX**2 // _RANKED)
    pairs = [Paired(context=context, every=every, columns=pair) for pair in combinations(range(len(channels)), 2)]
    borders = {
        "tiles": (MAP_PX, 0),
        "middles": (MAP_PX, MAP_PX // 2),
        "windows": (windows.stride, windows.start(1) % windows.stride),
    }
    seams = {
        method: {name: SeamIndex(period=period, first=first) for name, (period, first) in borders.items()}
        for method in channels
    }
    with ClassMapWriter(path, header) as writer:
        for row, (blended, here) in enumerate(zip(_tile_rows(strips), occupied, strict=True)):
            canvas = blended.reshape(MAP_PX, -1, MAP_PX, len(channels))
            canvas[:, ~here] = np.nan
            left = max(min(MAP_PX, height - row * MAP_PX), 0)  # a last sliver may be less than half a pixel
            strip = blended[:left, :width]
            writer.write_rows(strip)
            for number, of_method in enumerate(seams.values()):
                for seam in of_method.values():
                    seam.add(strip[..., number : number + 1])
            for paired in pairs if here.any() else ():
                paired.add(strip, canvas[:, here].transpose(1, 3, 0, 2), row)
    agreements = [paired.agreement() for paired in pairs]
    result: dict[str, Any] = {"mpp": header.mpp, "agreement": agreements[0] if agreements else None}
    result["seam_index"] = {
        method: {name: seam.value if math.isfinite(seam.value) else None for name, seam in of_method.items()}
        for method, of_method in seams.items()
    }
    if len(agreements) > 1:
        names = [f"{first}_{second}" for first, second in combinations(channels, 2)]
        result["agreements"] = dict(zip(names, agreements, strict=True))
    return result


def _tile_rows(strips: Iterable[Path]) -> Iterator[Floats]:
    """Yield the map a row of tiles at a time, `[MAP_PX, width, methods]`; one strip more is in memory."""
    held: list[Floats] = []
    for path in strips:
        rows = np.concatenate([*held, np.load(path)])
        whole = len(rows) // MAP_PX * MAP_PX
        for top in range(0, whole, MAP_PX):
            yield rows[top : top + MAP_PX]
        held = [rows[whole:]]


@dataclass(slots=True, kw_only=True)
class Paired:
    """How far two maps agree over a slide's tissue without artefacts, while their strips pass by.

    Attributes
    ----------
    context
        The slide's tiles and tissue.
    every
        How many pixels of tissue stand behind each one whose rank counts.
    columns
        Which two of the methods.
    tiles
        Pearson's coefficients of tiles, `[n]` each.
    """

    context: SlideContext
    every: int
    columns: tuple[int, int] = (0, 1)
    tiles: list[Doubles] = field(default_factory=list)
    _count: int = 0
    _sums: Doubles = field(default_factory=lambda: np.zeros(2))
    _products: Doubles = field(default_factory=lambda: np.zeros((2, 2)))
    _ranked: list[Doubles] = field(default_factory=list)

    def add(self, strip: Floats, maps: Floats, row: int) -> None:
        """Count a row of tiles.

        Parameters
        ----------
        strip
            Their maps side by side, `[h, width, methods]`.
        maps
            The same one by one, `[n, methods, h, w]`.
        row
            Its number.
        """
        cell, strip = self.context.grid.side / MAP_PX, strip[..., self.columns]
        y, x = (np.arange(length, dtype=np.float64) + 0.5 for length in strip.shape[:2])
        points = (y + row * MAP_PX) * cell, x * cell
        tissue = looked_up(self.context.clean.mask, self.context.tissue_cell, points)
        values = strip[tissue & np.isfinite(strip).all(2)].astype(np.float64)
        first = -self._count % self.every
        self._ranked.append(values[first :: self.every])
        self._count += len(values)
        self._sums += values.sum(0)
        self._products += values.T @ values
        self.tiles.append(pearson(*(maps[:, column] for column in self.columns)))

    def agreement(self) -> dict[str, Any]:
        """Return Pearson's and Spearman's coefficient over all pixels, and the mean of Pearson's in each tile.

        Null is what is undefined, as where a map is constant. Ranks are of `ranked` of the `pixels`, evenly spread.
        """
        from scipy.stats import spearmanr  # noqa: PLC0415 - it takes a second to import

        ranked, each = np.concatenate([np.empty((0, 2)), *self._ranked]), np.concatenate([np.empty(0), *self.tiles])
        defined = each[np.isfinite(each)]
        varied = len(ranked) > 1 and bool((np.ptp(ranked, axis=0) > 0).all())
        covariance = self._products - np.outer(self._sums, self._sums) / max(self._count, 1)
        scale = float(np.sqrt(np.prod(np.diag(covariance).clip(0))))
        return {
            "pearson": float(covariance[0, 1]) / scale if scale > 0 else None,
            "spearman": float(spearmanr(ranked[:, 0], ranked[:, 1]).statistic) if varied else None,
            "pixels": self._count,
            "ranked": len(ranked),
            "tile_pearson": float(defined.mean()) if len(defined) else None,
            "tiles": len(defined),
        }
