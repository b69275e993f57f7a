"""A slide's explanations on their way to disk: its tiles' maps side by side, a row of tiles at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import spearmanr

from vitrail.inference.context import looked_up
from vitrail.inference.outputs import MAP_PX
from vitrail.inference.sliding import maps_beside
from vitrail.interop.class_map import Channel, MapHeader
from vitrail.interop.ome_tiff import ClassMapWriter
from vitrail.metrics.correlation import pearson

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from vitrail.inference.context import SlideContext

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]
    Whole = NDArray[np.integer[Any]]

CHANNELS = {
    "gradcam": Channel(name="Grad-CAM", rgb=(230, 97, 1)),
    "hrcam": Channel(name="HR-CAM", rgb=(94, 60, 153)),
}
"""How viewers show a method's map."""

_RANKED = 2**15
"""Pixels of a slide whose ranks are correlated, at most: about so many, evenly spread."""


def write_explained(
    path: Path, blocks: Sequence[Path], tiles: pd.DataFrame, given: tuple[SlideContext, tuple[str, ...]]
) -> dict[str, Any]:
    """Write the maps of a slide's tiles side by side as an OME-TIFF, and say how far two methods agree.

    Parameters
    ----------
    path
        The file.
    blocks
        What `classify_slide` yielded.
    tiles
        The tiles, row by row.
    given
        The slide's tiles and tissue, and the methods by key.

    Returns
    -------
    `mpp` of the map, and `agreement`, see `Paired.agreement`; None with one method.

    Raises
    ------
    ExchangeError
        The file cannot be written.
    """
    ground, methods = given
    header = header_of(ground, methods)
    paired = Paired(ground=ground, every=max(1, len(tiles) * MAP_PX**2 // _RANKED))
    with ClassMapWriter(path, header) as writer:
        for row, (columns, maps) in enumerate(_rows(blocks, tiles, ground.grid.rows)):
            strip = _strip(columns, maps, header, row)
            writer.write_rows(strip)
            if len(methods) > 1 and len(maps):
                paired.add(strip, row)
                paired.tiles.append(pearson(maps[:, 0], maps[:, 1]))
    return {"mpp": header.mpp, "agreement": paired.agreement() if len(methods) > 1 else None}


def header_of(ground: SlideContext, methods: Sequence[str]) -> MapHeader:
    """Lay a map of `MAP_PX` pixels a tile over a slide."""
    slide, cell = ground.slide, ground.grid.side / MAP_PX
    width, height = (max(1, round(length / cell)) for length in (slide.region.width, slide.region.height))
    return MapHeader(
        size=(width, height),
        mpp=cell * slide.mpp,
        channels=tuple(CHANNELS[method] for method in methods),
        depth="float32",
        title="Explanations",
    )


def _rows(blocks: Sequence[Path], tiles: pd.DataFrame, count: int) -> Iterator[tuple[Whole, Floats]]:
    """Yield columns `[n]` and maps `[n, methods, h, w]` of each row of tiles; two blocks at most are in memory."""
    rows, columns = ((tiles[axis] / tiles["side"]).round().astype(np.intp).to_numpy() for axis in ("y", "x"))
    held: Floats = np.load(maps_beside(blocks[0]))[:0]
    waiting = iter(blocks)
    ends = np.searchsorted(rows, np.arange(count), side="right")
    begin = 0
    for end in ends.tolist():
        while len(held) < end - begin:
            held = np.concatenate([held, np.load(maps_beside(next(waiting)))])
        yield columns[begin:end], held[: end - begin]
        held, begin = held[end - begin :], end


def _strip(columns: Whole, maps: Floats, header: MapHeader, row: int) -> Floats:
    """Lay a row of tiles `[n, methods, h, w]` side by side, cut to the slide, `[h, width, methods]`; NaN elsewhere."""
    width, height = header.size
    canvas = np.full((MAP_PX, -(-width // MAP_PX), MAP_PX, len(header.channels)), np.nan, np.float32)
    inside = columns < canvas.shape[1]  # a last sliver of the slide may be less than half a pixel
    canvas[:, columns[inside]] = maps[inside].transpose(2, 0, 3, 1)
    left = max(min(MAP_PX, height - row * MAP_PX), 0)
    return canvas.reshape(MAP_PX, -1, len(header.channels))[:left, :width]


@dataclass(slots=True, kw_only=True)
class Paired:
    """How far two maps agree over a slide's tissue without artefacts, while their strips pass by.

    Attributes
    ----------
    ground
        The slide's tiles and tissue.
    every
        How many pixels of tissue stand behind each one whose rank counts.
    tiles
        Pearson's coefficients of tiles, `[n]` each.
    """

    ground: SlideContext
    every: int
    tiles: list[Doubles] = field(default_factory=list)
    _count: int = 0
    _sums: Doubles = field(default_factory=lambda: np.zeros(2))
    _products: Doubles = field(default_factory=lambda: np.zeros((2, 2)))
    _ranked: list[Doubles] = field(default_factory=list)

    def add(self, strip: Floats, row: int) -> None:
        """Count a row of tiles `[h, width, 2]`."""
        cell = self.ground.grid.side / MAP_PX
        rows, columns = (np.arange(length, dtype=np.float64) + 0.5 for length in strip.shape[:2])
        places = (rows + row * MAP_PX) * cell, columns * cell
        tissue = looked_up(self.ground.clean.mask, self.ground.tissue_cell, places)
        values = strip[tissue & np.isfinite(strip).all(2)].astype(np.float64)
        first = -self._count % self.every
        self._ranked.append(values[first :: self.every])
        self._count += len(values)
        self._sums += values.sum(0)
        self._products += values.T @ values

    def agreement(self) -> dict[str, Any]:
        """Return Pearson's and Spearman's coefficient over all pixels, and the mean of Pearson's in each tile.

        Null is what is undefined, as where a map is constant. Ranks are of `ranked` of the `pixels`, evenly spread.
        """
        ranked, each = np.concatenate([np.empty((0, 2)), *self._ranked]), np.concatenate([np.empty(0), *self.tiles])
        known = each[np.isfinite(each)]
        varied = len(ranked) > 1 and bool((np.ptp(ranked, axis=0) > 0).all())
        return {
            "pearson": self._pearson(),
            "spearman": float(spearmanr(ranked[:, 0], ranked[:, 1]).statistic) if varied else None,
            "pixels": self._count,
            "ranked": len(ranked),
            "tile_pearson": float(known.mean()) if len(known) else None,
            "tiles": len(known),
        }

    def _pearson(self) -> float | None:
        covariance = self._products - np.outer(self._sums, self._sums) / max(self._count, 1)
        both = float(np.sqrt(np.prod(np.diag(covariance).clip(0))))
        return float(covariance[0, 1]) / both if both > 0 else None
