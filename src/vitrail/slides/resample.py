"""Scale an image by exact pixel coverage.

Scaling is separable: one sparse matrix of weights for the rows, one for the columns. A reduced pixel is the mean of
the area it covers, fractions of pixels included; an enlarged one is interpolated linearly between pixel centres. At
scale 1 the two rules agree, so nothing jumps where one takes over from the other.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SLACK_PX = 1e-6


def area_resample(
    image: NDArray[np.uint8] | NDArray[np.floating],
    box: tuple[float, float, float, float],
    size: tuple[int, int],
) -> NDArray[np.uint8]:
    """Scale a box of an image to a size.

    Sums run in 32-bit floats: before rounding they are within 1e-3 grey levels of the exact mean, and exact wherever
    the box and the factor are whole numbers. Halves are rounded up.

    Parameters
    ----------
    image
        [h, w, c], values 0 to 255.
    box
        Left, top, right and bottom edge in pixels of `image`; fractions are welcome.
    size
        Width and height of the result, in pixels.

    Returns
    -------
    NDArray
        [height, width, c].

    Raises
    ------
    ValueError
        If the box is empty or leaves the image, or the size is not positive.
    """
    height, width, _ = image.shape
    left, top, right, bottom = box
    _check_span((left, right), width, size[0])
    _check_span((top, bottom), height, size[1])
    if image.dtype == np.uint8 and _is_crop(box, size):
        return np.array(image[round(top) : round(bottom), round(left) : round(right)], dtype=np.uint8)
    scaled = _along_rows(_weights(height, (top, bottom), size[1]), image.astype(np.float32, copy=False))
    scaled = _along_rows(_weights(width, (left, right), size[0]), scaled.transpose(1, 0, 2)).transpose(1, 0, 2)
    return _to_uint8(scaled / np.float32(_gain((left, right), size[0]) * _gain((top, bottom), size[1])))


def _check_span(span: tuple[float, float], length: int, count: int) -> None:
    if count < 1:
        raise ValueError(f"a size needs at least one pixel, not {count}")
    if not (-_SLACK_PX <= span[0] < span[1] <= length + _SLACK_PX):
        raise ValueError(f"the span {span} is empty or leaves an image of {length} pixels")


def _is_crop(box: tuple[float, float, float, float], size: tuple[int, int]) -> bool:
    """Tell whether the box lies on whole pixels and keeps its scale."""
    whole = all(edge == round(edge) for edge in box)
    return whole and (box[2] - box[0], box[3] - box[1]) == size


def _gain(span: tuple[float, float], count: int) -> float:
    """Return what the weights of one result pixel sum to: its length in image pixels, or 1 if that is shorter."""
    return max(1.0, (span[1] - span[0]) / count)


@lru_cache(maxsize=256)
def _weights(length: int, span: tuple[float, float], count: int) -> csr_array:
    """Return the [count, length] weights of one axis; tiles of a grid ask for the same few again and again."""
    if (span[1] - span[0]) / count > 1.0:
        return _coverage(length, span, count)
    return _interpolation(length, span, count)


def _coverage(length: int, span: tuple[float, float], count: int) -> csr_array:
    """Weigh every pixel by the length of it that a result pixel covers.

    The weights are left unscaled: at whole factors they are 1, and the sums stay free of rounding.
    """
    edges = np.linspace(span[0], span[1], count + 1)
    first = np.floor(edges[:-1]).astype(np.intp)
    most = int((np.ceil(edges[1:]) - first).max())
    columns = first[:, None] + np.arange(most)
    covered = np.minimum(columns + 1, edges[1:, None]) - np.maximum(columns, edges[:-1, None])
    return _sparse(np.maximum(covered, 0.0), columns, length)


def _interpolation(length: int, span: tuple[float, float], count: int) -> csr_array:
    """Weigh the two pixels whose centres lie around the centre of a result pixel; the image's edge is repeated."""
    centres = span[0] + (np.arange(count) + 0.5) * ((span[1] - span[0]) / count) - 0.5
    first = np.floor(centres).astype(np.intp)
    fraction = centres - first
    return _sparse(np.stack([1.0 - fraction, fraction], axis=1), first[:, None] + np.arange(2), length)


def _sparse(weights: NDArray[np.float64], columns: NDArray[np.intp], length: int) -> csr_array:
    """Pack the [count, k] weights of neighbouring columns."""
    count, most = weights.shape
    indices = np.clip(columns, 0, length - 1).ravel()
    starts = np.arange(count + 1) * most
    return csr_array((weights.astype(np.float32).ravel(), indices, starts), shape=(count, length))


def _along_rows(weights: csr_array, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Apply the weights to the first axis of a [h, w, c] image."""
    height, width, channels = image.shape
    flat = np.ascontiguousarray(image).reshape(height, width * channels)
    return np.asarray(weights @ flat, dtype=np.float32).reshape(-1, width, channels)


def _to_uint8(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    rounded: NDArray[np.float32] = np.floor(values + np.float32(0.5))
    return rounded.clip(0, 255).astype(np.uint8)
