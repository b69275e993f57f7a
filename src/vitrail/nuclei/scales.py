"""At which scale nuclei are looked for, and how an image and its labels get there and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vitrail.errors import NucleiError
from vitrail.slides.readers.resample import area_resample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from vitrail.geometry import Region
    from vitrail.slides.slide import Slide

    Image = NDArray[np.uint8]
    Labels = NDArray[np.int32]

WORKING_MPP = 0.5
"""Micrometres per pixel at which engines look: a lymphocyte is 14 pixels wide, and finer pixels take longer."""

COARSEST_MPP = 0.6
"""Beyond it the borders between neighbours are gone."""

_SAME = 0.02
"""Scales that differ by less are one: over the width of a nucleus it is a third of a pixel."""


def check_scale(where: str | Path, mpp: float) -> None:
    """Refuse what is too coarse for nuclei.

    Parameters
    ----------
    where
        The slide, for the error.
    mpp
        Micrometres per pixel at its finest.

    Raises
    ------
    NucleiError
        If they are more than 0.6.
    """
    if mpp > COARSEST_MPP:
        problem = f"{mpp:.2g} um per pixel are too coarse for nuclei, which need {COARSEST_MPP} or finer"
        raise NucleiError(where, problem, "Scan it at 20x or more, or leave nuclei out")


def size_at(slide: Slide, region: Region, mpp: float) -> tuple[int, int]:
    """Return the width and height in pixels of a region of a slide at a scale; at least one pixel each."""
    scale = slide.mpp / mpp
    return max(1, round(region.width * scale)), max(1, round(region.height * scale))


def segment_at(image: Image, mpp: float, scale_um: float, segment: Callable[[Image], ArrayLike]) -> Labels:
    """Segment an image at a scale, and bring the labels back to the image's own pixels.

    Parameters
    ----------
    image
        `[h, w, 3]`, RGB.
    mpp
        Its micrometres per pixel.
    scale_um
        Those that `segment` wants.
    segment
        From an image to labels, 0 none, of the same height and width.

    Returns
    -------
    NDArray[np.int32]
        `[h, w]`, labels 1 to n without gaps.
    """
    height, width = image.shape[:2]
    if abs(mpp / scale_um - 1) < _SAME:
        return consecutive(segment(image))
    size = max(1, round(width * mpp / scale_um)), max(1, round(height * mpp / scale_um))
    labels = np.asarray(segment(area_resample(image, (0, 0, width, height), size)))
    rows, columns = (
        ((np.arange(length) + 0.5) * (other / length)).astype(np.intp)
        for length, other in zip((height, width), labels.shape, strict=True)
    )
    return consecutive(labels[np.ix_(rows, columns)])


def consecutive(labels: ArrayLike) -> Labels:
    """Number labels from 1 to n without gaps, in their own order; 0 stays 0.

    Parameters
    ----------
    labels
        `[h, w]`, whole numbers, none negative.

    Returns
    -------
    NDArray[np.int32]
        `[h, w]`.
    """
    array = np.asarray(labels)
    numbers, of_pixel = np.unique(array, return_inverse=True)
    lead = int(len(numbers) == 0 or numbers[0] != 0)  # where every pixel is of some nucleus no 0 is among them
    return (of_pixel.reshape(array.shape) + lead).astype(np.int32)
