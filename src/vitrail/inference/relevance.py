"""What a slide's map of explanations comes to on its tiles, and at its nuclei."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from vitrail.inference.outputs import MAP_PX, tile_positions

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


def tile_relevance(stored: ClassMap, tiles: pd.DataFrame) -> NDArray[np.float64]:
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


def nuclei_relevance(stored: ClassMap, nuclei: pd.DataFrame) -> NDArray[np.float64]:
    """Look a map of explanations up at the centres of nuclei.

    Parameters
    ----------
    stored
        The map.
    nuclei
        With `x_um` and `y_um` from the slide's top left corner; neighbours in the table are best neighbours on the
        slide, for the map is read around all of them.

    Returns
    -------
    NDArray[np.float64]
        `[nuclei, methods]`; NaN where nothing was looked at, and beyond the map.

    Raises
    ------
    ExchangeError
        The map cannot be read.
    """
    result = np.full((len(nuclei), len(stored.header.channels)), math.nan)
    column, row = (np.floor(nuclei[f"{axis}_um"].to_numpy(np.float64) / stored.header.mpp) for axis in "xy")
    width, height = stored.header.size
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    if inside.any():
        y, x = row[inside].astype(np.intp), column[inside].astype(np.intp)
        part = stored.read(slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1))
        result[inside] = part[y - y.min(), x - x.min()]
    return result
