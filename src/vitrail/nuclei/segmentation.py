"""Nuclei in an image: the engine that comes with Vitrail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scipy import ndimage

from vitrail.nuclei.network import look
from vitrail.nuclei.scales import WORKING_MPP, check_scale, segment_at
from vitrail.nuclei.watershed import divide, fill_holes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MARGIN_UM = 32.0
"""The network sees 30 um far, most of it much less."""

_NUCLEAR, _SMOOTHING_UM, _PROMINENCE, _SHALLOWEST = 0.3, 1.0, 0.1, 0.12
"""Probability of a nuclear pixel; smoothing of the depth; how far the middle of a nucleus stands above its passes to
others, and its least depth. Chosen on the fields with odd numbers of CPM-15."""


def segment_nuclei(image: NDArray[np.uint8], mpp: float) -> NDArray[np.int32]:
    """Segment the nuclei of an H&E image.

    A small network tells for each pixel at 0.5 um whether it belongs to a nucleus and how deep inside it lies; a
    watershed from the deepest points divides nuclei that touch.

    Parameters
    ----------
    image
        `[h, w, 3]`, RGB.
    mpp
        Its micrometres per pixel, at most 0.6.

    Returns
    -------
    NDArray[np.int32]
        `[h, w]`, 0 none, 1 to n the nuclei, each connected.

    Raises
    ------
    NucleiError
        The image is too coarse.
    """
    check_scale("image", mpp)
    return segment_at(image, mpp, WORKING_MPP, _segment)


def _segment(image: NDArray[np.uint8]) -> NDArray[np.int32]:
    probability, depth = look(image)
    smooth = ndimage.gaussian_filter(depth, _SMOOTHING_UM / WORKING_MPP, truncate=3)
    return divide(fill_holes(probability > _NUCLEAR), smooth, prominence=_PROMINENCE, least=_SHALLOWEST)
