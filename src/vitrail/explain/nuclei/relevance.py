"""How much of a map lies on each nucleus, and whether the map is fine enough to point at one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from vitrail.explain.saliency import Frame

    Values = NDArray[np.floating[Any]]
    Labels = NDArray[np.int32]

COLUMNS = ("label", "mass", "expected", "mean", "rank")


def relevance(values: Values, labels: Labels, *, signed: bool = True) -> pd.DataFrame:
    """Measure a map on each nucleus of its tile.

    Parameters
    ----------
    values
        The map at the resolution of the labels, `[h, w]`: what `Saliency.upsample(labels.shape)` returns.
    labels
        The nuclei, `[h, w]`: 1 to n, 0 none.
    signed
        Whether the map has a zero, see `Saliency`; one that has none counts from its lowest value.

    Returns
    -------
    pd.DataFrame
        One row a nucleus, 1 to n: `label`; `mass`, the share of the map's positive part that lies on it (Arras et al.
        2022, arXiv:2003.07258), NaN where the map has none; `expected`, its share of the tile's area, which a map that
        is everywhere the same has; `mean` of the map, signed; and `rank` of the mean among the tile's nuclei, 0 to 1:
        the share of them below it, half of those that are equal to it, itself included, counted. Numbers without a
        pixel have NaN, and mass 0.

    Raises
    ------
    ValueError
        Map and labels differ in size.
    """
    if values.shape != labels.shape:
        raise ValueError(f"a map of {values.shape} does not fit labels of {labels.shape}: upsample it to their size")
    count = int(labels.max(initial=0))
    numbers, flat = np.arange(1, count + 1), labels.ravel()
    level = values.astype(np.float64)
    positive = np.maximum(level if signed else level - level.min(initial=np.inf), 0)
    total = positive.sum()
    pixels = np.bincount(flat, minlength=count + 1)[1:]
    sums = np.bincount(flat, positive.ravel(), count + 1)[1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(flat, level.ravel(), count + 1)[1:] / pixels
    there = pixels > 0
    rank = np.full(count, np.nan)
    if there.any():
        rank[there] = (rankdata(mean[there]) - 0.5) / there.sum()
    mass = sums / total if total > 0 else np.full(count, np.nan)
    columns = (numbers, mass, pixels / max(labels.size, 1), mean, rank)
    return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))


def cell_size_um(frame: Frame, cells: tuple[int, int], side_um: float, stride_px: int | None = None) -> float:
    """Return how far apart the places are that a map can tell.

    Parameters
    ----------
    frame
        Where its cells lie on the tile.
    cells
        Height and width of the map.
    side_um
        Side of the tile.
    stride_px
        Pixels between two cells of the network's own map, see `own_stride_px`. A dense map repeats the same look at
        closer places: it has more cells, but each sees as much as before. None takes the map for the network's own.

    Returns
    -------
    float
        Micrometres: the larger side of a cell, or of the network's own cell.
    """
    sides = [
        max(span / count, stride_px or 0) * side_um / image
        for span, count, image in zip(frame.span_px, cells, frame.image_px, strict=True)
    ]
    return float(max(sides))


def own_stride_px(layers: Sequence[str], described: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the stride of the finest layer that a map comes from, in the network as it was trained.

    Parameters
    ----------
    layers
        Of the map: `Saliency.layers`.
    described
        Names and strides of the network's layers, finest first: an entry of `layers` in the explanations' summary.

    Returns
    -------
    int | None
        Pixels. The encoder's last maps, which Grad-CAM explains, are those of the coarsest layer; None of maps of
        pixels, and where nothing is described.
    """
    strides = {str(layer["name"]): int(layer["stride"]) for layer in described}
    if not strides or "pixels" in layers:
        return None
    coarsest = max(strides.values())
    return min(strides.get(name, coarsest) for name in layers)


def nucleus_size_um(labels: Labels, mpp: float) -> float:
    """Return the median diameter of nuclei, that of circles of their areas, in micrometres; NaN where there are none.

    Parameters
    ----------
    labels
        `[h, w]`: 1 to n, 0 none.
    mpp
        Micrometres per pixel.

    Returns
    -------
    float
        The diameter.
    """
    areas = np.bincount(labels.ravel())[1:]
    areas = areas[areas > 0]
    return float(2 * np.sqrt(np.median(areas) / np.pi) * mpp) if len(areas) else float("nan")


def too_coarse(cell_um: float, nucleus_um: float) -> bool:
    """Tell whether a map is too coarse to point at a nucleus.

    It is where a cell is wider than a nucleus: what it says then belongs to the nucleus and its neighbours alike. Of
    such maps only differences between places as large as a cell mean something.

    Parameters
    ----------
    cell_um
        What `cell_size_um` returns.
    nucleus_um
        What `nucleus_size_um` returns.

    Returns
    -------
    bool
        True where the cell is wider.
    """
    return cell_um > nucleus_um
