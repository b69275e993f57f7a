"""From outlines to class masks: every pixel of a tile is exactly one of four classes.

The paper: "we added a background class for white background pixels and a fourth class for not annotated tissue".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vitrail.classes import CLASSES, LABELS, TissueClass
from vitrail.slides.raster import rasterize

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.geometry import Region
    from vitrail.slides.annotations import Annotations

UNANNOTATED = 255
"""Value of a pixel in no outline, before its colour tells background from other tissue."""


def annotated(annotations: Annotations, region: Region, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw the outlines in a region; where they overlap, tumor wins.

    Parameters
    ----------
    annotations
        A slide's outlines.
    region
        The place to draw.
    size
        Width and height of the result in pixels.

    Returns
    -------
    `[height, width]`: `TUMOR`, `NON_TUMOR` or `UNANNOTATED`.
    """
    labels = np.full(size[::-1], UNANNOTATED, np.uint8)
    labels[rasterize(annotations.non_tumor, region, size)] = TissueClass.NON_TUMOR
    labels[rasterize(annotations.tumor, region, size)] = TissueClass.TUMOR
    return labels


def is_white(image: NDArray[np.uint8], white: int) -> NDArray[np.bool_]:
    """Tell which pixels of `[..., 3]` are empty glass: all three channels reach `white`."""
    red, green, blue = (image[..., channel] >= white for channel in range(3))  # a minimum over 3 is 10 times slower
    result: NDArray[np.bool_] = red & green & blue
    return result


def complete_mask(labels: NDArray[np.uint8], image: NDArray[np.uint8], white: int) -> NDArray[np.uint8]:
    """Turn unannotated pixels into background where the image is white, and into other tissue elsewhere."""
    rest = np.where(is_white(image, white), np.uint8(TissueClass.BACKGROUND), np.uint8(TissueClass.OTHER))
    return np.where(labels == UNANNOTATED, rest, labels)


def shares(masks: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the share of each class in masks `[n, h, w]`, as `[n, 4]`."""
    return np.stack([(masks == label).mean(axis=(1, 2)) for label in CLASSES], axis=1)


def label_shares(strip: NDArray[np.uint8], side_px: int) -> NDArray[np.float64]:
    """Return the shares of tumor and non-tumor of each tile of a row of tiles.

    Parameters
    ----------
    strip
        `[side_px, columns * side_px]`, as `annotated` draws it.
    side_px
        Side of a tile in pixels.

    Returns
    -------
    `[columns, 2]`, in the order of `LABELS`.
    """
    tiles = strip.reshape(side_px, -1, side_px)
    return np.stack([(tiles == label).mean(axis=(0, 2)) for label in LABELS], axis=1)
