"""Nuclei that touch are divided, crumbs are dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from vitrail.nuclei.scales import WORKING_MPP

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Plane = NDArray[np.float32]
    Mask = NDArray[np.bool_]
    Labels = NDArray[np.int32]

SMALLEST_UM2 = 6.0
"""A lymphocyte cut at its cap; what is smaller are crumbs of nuclei and dirt."""

LARGEST_HOLE_UM2 = 40.0
"""Pale chromatin and nucleoli; larger holes are rings of cells around a gland or a vessel."""

_EIGHT = np.ones((3, 3), np.int8)


def divide(mask: Mask, relief: Plane, *, prominence: float = 0.0, least: float = 0.0) -> Labels:
    """Divide what is nuclear into nuclei by a watershed from the maxima of a relief (Vincent and Soille 1991).

    Parameters
    ----------
    mask
        `[h, w]`, what is nuclear, at 0.5 um per pixel.
    relief
        `[h, w]`, highest in the middle of each nucleus.
    prominence
        How far a maximum stands above the pass to a higher one (h-maxima, doi:10.1007/978-3-662-05088-0); 0 lets
        every maximum count.
    least
        Maxima that are lower are no seeds.

    Returns
    -------
    NDArray[np.int32]
        `[h, w]`, 0 none; each nucleus is connected and has at least 6 square micrometres. Numbers may be missing.
    """
    peaks = reconstruction(relief - prominence, relief) if prominence else relief
    seeds, _ = ndimage.label(local_maxima(peaks) & mask & (relief >= least), _EIGHT)
    labels: Labels = watershed(-relief, seeds, mask=mask)
    large = np.bincount(labels.ravel()) >= SMALLEST_UM2 / WORKING_MPP**2
    large[0] = False
    return np.where(large[labels], labels, 0).astype(np.int32)


def fill_holes(mask: Mask) -> Mask:
    """Fill the holes of nuclei, but none larger than 40 square micrometres.

    Parameters
    ----------
    mask
        `[h, w]`, at 0.5 um per pixel.

    Returns
    -------
    NDArray[np.bool_]
        `[h, w]`.
    """
    pieces, _ = ndimage.label(~mask)
    small = np.bincount(pieces.ravel()) < LARGEST_HOLE_UM2 / WORKING_MPP**2
    small[0] = False
    filled: Mask = mask | small[pieces]
    return filled
