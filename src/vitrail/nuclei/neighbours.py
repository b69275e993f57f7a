"""What is measured of a nucleus among others: distances, densities, pleomorphism, common direction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from vitrail.quality.tissue import Tissue

    Floats = NDArray[np.float64]

NEAR_UM, FAR_UM = 25.0, 50.0
"""Radii of the discs around a nucleus."""

_FEWEST = 3
"""Nuclei that a spread or a common direction is stated of."""

_CHUNK = 20_000
"""Nuclei whose pairs are in memory at once: some million pairs, 24 bytes each."""

_UM2_PER_MM2 = 1e6


def neighbours(
    table: pd.DataFrame,
    *,
    extent_um: tuple[float, float, float, float] | None = None,
    tissue: Tissue | None = None,
) -> pd.DataFrame:
    """Measure every nucleus among those around it.

    Parameters
    ----------
    table
        The nuclei of one image or slide, all of them: `x_um`, `y_um`, `area_um2`, `orientation`, as `measure` returns
        them.
    extent_um
        Left, top, right and bottom edge of what was looked at; nuclei beyond it are unknown, not absent, so that
        densities are by the part of a disc that lies within. None takes all discs whole.
    tissue
        The tissue of the slide, in whose frame `x_um` and `y_um` then are.

    Returns
    -------
    pd.DataFrame
        One row a nucleus, by the index of `table`: `nearest_um`, `density_25um`, `density_50um`, `anisokaryosis_50um`,
        `orientation_coherence_50um`, and with a tissue `edge_um`; NaN where undefined. `features.FEATURES` says what
        they are.
    """
    points = table[["x_um", "y_um"]].to_numpy(np.float64)
    area, angle = (table[name].to_numpy(np.float64) for name in ("area_um2", "orientation"))
    parts = [_around(points, area, angle, slice(at, at + _CHUNK)) for at in range(0, len(points), _CHUNK)]
    sums = np.concatenate([np.empty((0, 6)), *parts])
    nearest, near, far, mean_area, square_area, coherence = sums.T
    edges = (-np.inf, -np.inf, np.inf, np.inf) if extent_um is None else extent_um
    number = far + 1
    few = number < _FEWEST
    spread = np.sqrt(np.maximum(square_area - mean_area**2, 0) * number / np.maximum(number - 1, 1)) / mean_area
    columns = {"nearest_um": nearest}
    for name, radius, count in (("density_25um", NEAR_UM, near), ("density_50um", FAR_UM, far)):
        columns[name] = count / disc_areas(points, radius, edges) * _UM2_PER_MM2
    columns["anisokaryosis_50um"] = np.where(few, np.nan, spread)
    columns["orientation_coherence_50um"] = np.where(few, np.nan, coherence)
    if tissue is not None:
        columns["edge_um"] = edge_distances(points, tissue)
    return pd.DataFrame(columns, index=table.index)


def _around(points: Floats, area: Floats, angle: Floats, part: slice) -> Floats:
    """Sum over the neighbours of some nuclei: `[n, 6]`.

    Distance to the nearest; numbers within both radii; mean area and mean squared area of all within the larger one,
    itself among them; mean cosine of twice the angle between each two of them.
    """
    tree, own = cKDTree(points), points[part]
    # the nearest of all is the nucleus itself, or another one at the very same place
    nearest = np.asarray(tree.query(own, [2])[0])[:, 0]  # infinite where there is no other
    pairs = cKDTree(own).sparse_distance_matrix(tree, FAR_UM, output_type="ndarray")
    first, second = pairs["i"], pairs["j"]
    near = np.bincount(first[pairs["v"] <= NEAR_UM], minlength=len(own)) - 1.0

    def total(values: Floats) -> Floats:
        return np.asarray(np.bincount(first, values[second], minlength=len(own)), np.float64)

    number = total(np.ones(len(points)))
    cosine, sine = total(np.cos(2 * angle)), total(np.sin(2 * angle))
    # the squared length of a sum of unit vectors is their number and the cosines of all ordered pairs
    coherence = (cosine**2 + sine**2 - number) / np.maximum(number * (number - 1), 1)
    nearest[np.isinf(nearest)] = np.nan
    return np.stack([nearest, near, number - 1, total(area) / number, total(area**2) / number, coherence], axis=1)


def disc_areas(points: ArrayLike, radius: float, edges: tuple[float, float, float, float]) -> Floats:
    """Return the area of those parts of discs that lie in a rectangle.

    Parameters
    ----------
    points
        `[n, 2]`, centres.
    radius
        Of the discs.
    edges
        Left, top, right and bottom of the rectangle; may be infinite.

    Returns
    -------
    NDArray[np.float64]
        `[n]`.
    """
    x, y = np.asarray(points, np.float64).reshape(-1, 2).T
    left, top, right, bottom = edges
    low_x, high_x = (np.clip((edge - x) / radius, -1, 1) for edge in (left, right))
    low_y, high_y = (np.clip((edge - y) / radius, -1, 1) for edge in (top, bottom))
    below = _unit_disc(high_x, high_y) - _unit_disc(low_x, high_y)
    return np.asarray((below - _unit_disc(high_x, low_y) + _unit_disc(low_x, low_y)) * radius**2)


def _unit_disc(x: Floats, y: Floats) -> Floats:
    """Return the area of the unit disc left of `x` and above `y`, both from -1 to 1.

    It is the integral over t from -1 to x of the chord's part below y: of min(y, s) + s where that is positive, with
    s = sqrt(1 - t^2). With c = sqrt(1 - y^2), that is y + s for |t| < c; beyond, 2 s for y > 0, and 0 for y < 0.
    """

    def chords(t: Floats) -> Floats:  # integral of s from 0 to t
        return np.asarray((t * np.sqrt(np.maximum(1 - t * t, 0)) + np.arcsin(t)) / 2)

    reach = np.sqrt(np.maximum(1 - y * y, 0))
    middle = np.clip(x, -reach, reach)
    cut = y * (middle + reach) + chords(middle) - chords(-reach)
    outer = chords(np.minimum(x, -reach)) - chords(np.full_like(x, -1.0)) + chords(np.maximum(x, reach)) - chords(reach)
    return np.asarray(cut + np.where(y > 0, 2 * outer, 0))


def edge_distances(points: ArrayLike, tissue: Tissue) -> Floats:
    """Return how far points are from the nearest glass.

    The border of the slide is none of the tissue: it goes on, unseen.

    Parameters
    ----------
    points
        `[n, 2]`, x and y in micrometres from the slide's top left corner.
    tissue
        Of the slide.

    Returns
    -------
    NDArray[np.float64]
        `[n]`, in micrometres, to within half a pixel of the mask; 0 on glass, NaN on a slide without glass.
    """
    if tissue.mask.all():
        return np.full(len(np.asarray(points)), np.nan)
    cell_um = tissue.um_per_px
    distance = np.asarray(ndimage.distance_transform_edt(tissue.mask))
    column, row = (
        np.clip(axis / cell_um, 0, most - 1).astype(np.intp)
        for axis, most in zip(np.asarray(points, np.float64).reshape(-1, 2).T, tissue.mask.shape[::-1], strict=True)
    )
    # from the middle of a cell of tissue to the edge, not to the middle, of the nearest cell of glass
    return np.asarray(np.maximum(distance[row, column] - 0.5, 0) * cell_um)
