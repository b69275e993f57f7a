"""Nuclei without a network: hematoxylin, a threshold that follows the surroundings, seeds, watershed.

Hematoxylin is what colour deconvolution leaves of it (Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291): it
absorbs red most, which eosin hardly does. A pixel is nuclear where that is more than the mean of its surroundings by a
share of their spread (Niblack 1986), and at least by what tissue without nuclei does not reach; the image's own
threshold of Otsu (1979, doi:10.1109/TSMC.1979.4310076) takes part. Seeds are maxima of the distance from the border,
weighted by darkness. Its constants were chosen on the fields with odd numbers of CPM-15.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from vitrail.nuclei.scales import WORKING_MPP, check_scale, segment_at
from vitrail.nuclei.watershed import divide, fill_holes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Plane = NDArray[np.float32]

CLASSICAL_MARGIN_UM = 40.0
"""Half the surroundings that a threshold follows."""

_DENSITY = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)
_HEMATOXYLIN = np.array([1.88, -0.07, -0.5], np.float32)
"""Of red, green and blue density: the row of the inverse stain matrix, its blue moved towards what separates best."""

_SURROUNDINGS_UM, _SPREADS, _LEAST, _FAINTEST = 40.0, 0.4, 0.06, 0.1
"""Side of the surroundings; excess over their mean, in spreads and at least; the least hematoxylin of a nucleus."""

_OTSU, _BELOW_OTSU = 0.3, 0.88
"""Weight of the image's threshold, and by how much it is lowered: it is too high for pale nuclei."""

_BIN = 0.005
_DARKNESS, _PROMINENCE_PX = 0.6, 1.0
_PLUS = ndimage.generate_binary_structure(2, 1)


def segment_classical(image: NDArray[np.uint8], mpp: float) -> NDArray[np.int32]:
    """Segment the nuclei of an H&E image without a network.

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


def hematoxylin(image: NDArray[np.uint8]) -> Plane:
    """Return how much hematoxylin lies on each pixel, in optical density; what has other colours is about 0.

    Parameters
    ----------
    image
        `[h, w, 3]`, RGB.

    Returns
    -------
    NDArray[np.float32]
        `[h, w]`.
    """
    stain: Plane = _DENSITY[image] @ _HEMATOXYLIN
    return stain


def nuclear_mask(stain: Plane) -> tuple[Mask, Plane]:
    """Tell what is nuclear, before holes are filled and crumbs are dropped.

    Parameters
    ----------
    stain
        `[h, w]`, hematoxylin at 0.5 um per pixel.

    Returns
    -------
    tuple[NDArray[np.bool_], NDArray[np.float32]]
        `[h, w]` each: the mask, and the threshold of each pixel.
    """
    smooth = ndimage.gaussian_filter(stain, 1.0, truncate=3)
    mean, square = _surroundings(stain), _surroundings(stain * stain)
    excess = np.maximum(_SPREADS * np.sqrt(np.maximum(square - mean * mean, 0)), _LEAST)
    local = np.maximum(mean + excess, _FAINTEST)
    otsu = float(threshold_otsu(np.round(smooth / _BIN).astype(np.int16))) * _BIN  # one value is a histogram, too
    threshold = (1 - _OTSU) * local + _OTSU * _BELOW_OTSU * otsu
    # dark tissue of one colour has a high mean and a higher threshold of Otsu, and still no nuclei
    threshold = np.maximum(threshold, np.maximum(mean + _LEAST / 2, _FAINTEST / 2)).astype(np.float32)
    return smooth > threshold, threshold


def _segment(image: NDArray[np.uint8]) -> NDArray[np.int32]:
    stain = hematoxylin(image)
    mask, threshold = nuclear_mask(stain)
    mask = ndimage.binary_opening(fill_holes(mask), _PLUS)
    depth = ndimage.distance_transform_edt(mask).astype(np.float32)
    darkness = np.clip((ndimage.gaussian_filter(stain, 3.0, truncate=3) - threshold) / 0.3, -1, 1.5)
    relief = ndimage.gaussian_filter(depth, 1.0, truncate=3) * (1 + _DARKNESS * darkness)
    return divide(mask, relief.astype(np.float32), prominence=_PROMINENCE_PX)


def _surroundings(plane: Plane) -> Plane:
    """Average a plane over its surroundings: three boxes are nearly a Gaussian (Wells 1986)."""
    side = 2 * round(_SURROUNDINGS_UM / WORKING_MPP / 2) + 1
    for _ in range(3):
        plane = ndimage.uniform_filter(plane, side)
    return plane
