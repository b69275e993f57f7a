"""What a slide's map of explanations comes to on its tiles, and at points."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from vitrail.inference.outputs import MAP_PX, tile_positions
from vitrail.interop.class_map import TILE_PX

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from vitrail.interop.class_map import ClassMap


def relevance_columns(stored: ClassMap | None) -> dict[str, str]:
    """Name columns for the relevance by each method.

    Parameters
    ----------
    stored
        A map of explanations; None has no methods.

    Returns
    -------
    dict[str, str]
        From the column to what other programs call it, such as `Relevance: Grad-CAM`.
    """
    methods = [] if stored is None else stored.header.channels
    return {f"relevance_{number}": f"Relevance: {method.name}" for number, method in enumerate(methods)}


def relevance_of_tiles(stored: ClassMap, tiles: pd.DataFrame) -> NDArray[np.float64]:
    """Average a map of explanations over tiles, a row of tiles at a time.

    Parameters
    ----------
    stored
        The map, of `MAP_PX` pixels along a tile.
    tiles
        With `x`, `y` and `side`, in level-0 pixels.

    Returns
    -------
    NDArray[np.float64]
        `[tiles, methods]`, in the methods' own units; NaN where nothing was looked at.

    Raises
    ------
    ExchangeError
        The map cannot be read.
    """
    rows, columns = tile_positions(tiles)
    (width, height), methods = stored.header.size, len(stored.header.channels)
    result = np.full((len(tiles), methods), math.nan)
    across = max(-(-width // MAP_PX), int(columns.max(initial=-1)) + 1)
    for row in np.unique(rows[(rows >= 0) & (rows * MAP_PX < height)]).tolist():
        strip = stored.read(slice(row * MAP_PX, (row + 1) * MAP_PX))
        padded = np.full((len(strip), across * MAP_PX, methods), np.nan, np.float64)
        padded[:, :width] = strip
        cells = padded.reshape(len(strip), across, MAP_PX, methods)
        seen = np.isfinite(cells)
        count, total = seen.sum((0, 2)), np.where(seen, cells, 0.0).sum((0, 2))
        means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        here = (rows == row) & (columns >= 0)
        result[here] = means[columns[here]]
    return result


def relevance_at(stored: ClassMap, points_um: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what a slide's map of explanations holds at points.

    Parameters
    ----------
    stored
        The map.
    points_um
        `[n, 2]`, x and y.

    Returns
    -------
    NDArray[np.float64]
        `[n, methods]`; NaN where the map holds nothing, and beyond it.

    Raises
    ------
    ExchangeError
        The map cannot be read.
    """
    columns, rows = np.floor(points_um / stored.header.mpp).astype(np.int64).T
    values = np.full((len(points_um), len(stored.header.channels)), np.nan)
    width, height = stored.header.size
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    for top in range(0, height, TILE_PX):
        here = np.flatnonzero(inside & (rows >= top) & (rows < top + TILE_PX))
        if len(here):
            values[here] = stored.read(slice(top, top + TILE_PX))[rows[here] - top, columns[here]]
    return values
