"""Scale an image by pixel coverage.

Scaling is separable: weights for the rows, weights for the columns. A reduced pixel is the mean of the area it covers,
fractions of pixels included; an enlarged one is interpolated linearly between pixel centres. At scale 1 the two rules
agree, so nothing jumps where one takes over from the other.

Fractions are exact as long as a pixel is taken for a square of one colour. A pixel that is itself a mean of smaller
ones, of which only the mean is left, is better taken for a curve: `means_resample` lays a parabola through each pixel's
mean and its neighbours' (piecewise parabolic reconstruction: Colella and Woodward 1984,
doi 10.1016/0021-9991(84)90143-8, without their limiter) and integrates that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Box = tuple[float, float, float, float]
    Floats = NDArray[np.float32]

_SLACK_PX = 1e-6
_BLOCK = 8
"""Result rows or columns computed at once, by a small dense matrix; more waste work on zeros, fewer on calls."""


def area_resample(
    image: NDArray[np.uint8] | NDArray[np.floating], box: Box, size: tuple[int, int]
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
    return _resample(image, box, size, means=False)


def means_resample(
    image: NDArray[np.uint8] | NDArray[np.floating], box: Box, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Scale a box of an image whose pixels are themselves means of smaller ones to a size.

    As `area_resample`, and the same where the edges of all result pixels are whole numbers; elsewhere nearer to what
    the smaller pixels would have given. It looks one pixel beyond the box.

    Raises
    ------
    ValueError
        If the box is empty or leaves the image, or the size is not positive.
    """
    return _resample(image, box, size, means=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """What a span of an axis is scaled to, and how."""

    length: int  # of the image
    span: tuple[float, float]
    count: int  # of the result
    means: bool

    @property
    def gain(self) -> float:
        """What the weights of a result pixel sum to: its length in image pixels, or 1 if that is shorter."""
        return max(1.0, (self.span[1] - self.span[0]) / self.count)


def _resample(
    image: NDArray[np.uint8] | NDArray[np.floating], box: Box, size: tuple[int, int], *, means: bool
) -> NDArray[np.uint8]:
    height, width, channels = image.shape
    left, top, right, bottom = box
    _check_span((left, right), width, size[0])
    _check_span((top, bottom), height, size[1])
    if image.dtype == np.uint8 and _is_crop(box, size):
        return np.array(image[round(top) : round(bottom), round(left) : round(right)], dtype=np.uint8)
    rows = _Axis(length=height, span=(top, bottom), count=size[1], means=means)
    columns = _Axis(length=width, span=(left, right), count=size[0], means=means)
    scaled = _scale_columns(_scale_rows(image.reshape(height, width * channels), rows), columns, channels)
    return _to_uint8(scaled, rows.gain * columns.gain).reshape(*size[::-1], channels)


def _check_span(span: tuple[float, float], length: int, count: int) -> None:
    if count < 1:
        raise ValueError(f"a size needs at least one pixel, not {count}")
    if not (-_SLACK_PX <= span[0] < span[1] <= length + _SLACK_PX):
        raise ValueError(f"the span {span} is empty or leaves an image of {length} pixels")


def _is_crop(box: Box, size: tuple[int, int]) -> bool:
    """Tell whether the box lies on whole pixels and keeps its scale."""
    whole = all(edge == round(edge) for edge in box)
    return whole and (box[2] - box[0], box[3] - box[1]) == size


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blocks:
    """The weights of one axis as small dense matrices, for all channels of interleaved pixels at once.

    Each makes `_BLOCK` result pixels, the last one perhaps some too many.
    """

    starts: NDArray[np.intp]  # first image pixel of each block of result pixels
    matrices: Floats  # [blocks, image pixels x channels, result pixels x channels]


@lru_cache(maxsize=128)
def _blocks(axis: _Axis, channels: int) -> _Blocks:
    """Return an axis's weights; tiles of a grid ask for the same few again and again."""
    weights, columns = _weights(axis)
    count = axis.count
    blocks, inner = np.divmod(np.arange(count), _BLOCK)
    heads = np.arange(0, count, _BLOCK)
    starts = np.minimum.reduceat(columns.min(axis=1), heads)
    wide = int((np.maximum.reduceat(columns.max(axis=1), heads) - starts).max()) + 1
    starts = np.minimum(starts, max(0, axis.length - wide))
    dense = np.zeros((len(heads), wide, _BLOCK), np.float32)
    np.add.at(dense, (blocks[:, None], columns - starts[blocks][:, None], inner[:, None]), weights)
    matrices = np.zeros((len(heads), wide, channels, _BLOCK, channels), np.float32)
    for channel in range(channels):
        matrices[:, :, channel, :, channel] = dense
    return _Blocks(starts=starts, matrices=matrices.reshape(len(heads), wide * channels, _BLOCK * channels))


def _scale_rows(image: NDArray[np.uint8] | NDArray[np.floating], axis: _Axis) -> Floats:
    """Apply an axis's weights to the rows of an image, [h, w]; few become floats at once, and stay near the CPU."""
    blocks = _blocks(axis, 1)
    wide = blocks.matrices.shape[1]
    band = np.empty((min(wide, axis.length), image.shape[1]), np.float32)
    result = np.empty((len(blocks.starts) * _BLOCK, image.shape[1]), np.float32)
    for number, (start, matrix) in enumerate(zip(blocks.starts.tolist(), blocks.matrices, strict=True)):
        band[...] = image[start : start + wide]
        np.matmul(matrix[: len(band)].T, band, out=result[number * _BLOCK : (number + 1) * _BLOCK])
    return result[: axis.count]


def _scale_columns(image: Floats, axis: _Axis, channels: int) -> Floats:
    """Apply an axis's weights to the pixels of each row, [h, w x c], where they lie; turning the image costs more."""
    blocks = _blocks(axis, channels)
    wide, out = blocks.matrices.shape[1:]
    result = np.empty((len(image), len(blocks.starts) * out), np.float32)
    for number, (start, matrix) in enumerate(zip(blocks.starts.tolist(), blocks.matrices, strict=True)):
        at = start * channels
        np.matmul(image[:, at : at + wide], matrix, out=result[:, number * out : (number + 1) * out])
    return result[:, : axis.count * channels]


def _weights(axis: _Axis) -> tuple[Floats, NDArray[np.intp]]:
    """Return weights and places of the image pixels that each result pixel is made of, [count, k] each."""
    if (axis.span[1] - axis.span[0]) / axis.count <= 1.0:
        weights, columns = _interpolation(axis)
    else:
        weights, columns = _coverage(axis)
    return weights.astype(np.float32), np.clip(columns, 0, axis.length - 1)


def _coverage(axis: _Axis) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Weigh every pixel by the length of it that a result pixel covers.

    The weights are left unscaled: at whole factors they are 1, and the sums stay free of rounding.
    """
    edges = np.linspace(axis.span[0], axis.span[1], axis.count + 1)
    first = np.floor(edges[:-1]).astype(np.intp) - axis.means
    most = int((np.ceil(edges[1:]) - first).max()) + axis.means
    columns = first[:, None] + np.arange(most)
    covered = np.minimum(columns + 1, edges[1:, None]) - np.maximum(columns, edges[:-1, None])
    weights = np.maximum(covered, 0.0)
    if axis.means:
        _bend(weights, edges[1:], first, 1.0)
        _bend(weights, edges[:-1], first, -1.0)
    return weights, columns


def _bend(weights: NDArray[np.float64], edges: NDArray[np.float64], first: NDArray[np.intp], sign: float) -> None:
    """Add, at one edge of each result pixel, what a curve over three pixels encloses more than a step does.

    The integral of an image up to an edge is known wherever the edge lies between two pixels: it is the sum of all
    before. In between it is interpolated by the cubic through the four nearest such places.
    """
    whole = np.floor(edges)
    t = edges - whole
    before, after = t * (t - 1) * (t - 2) / 6, (t + 1) * t * (t - 1) / 6
    rows, at = np.arange(len(edges)), whole.astype(np.intp) - first
    bent = t > 0  # an edge between pixels has no pixel of its own, and may be the last
    for offset, part in ((-1, before), (0, -before - after), (1, after)):
        weights[rows[bent], at[bent] + offset] += sign * part[bent]


def _interpolation(axis: _Axis) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Weigh the two pixels whose centres lie around the centre of a result pixel; the image's edge is repeated."""
    centres = axis.span[0] + (np.arange(axis.count) + 0.5) * ((axis.span[1] - axis.span[0]) / axis.count) - 0.5
    first = np.floor(centres).astype(np.intp)
    fraction = centres - first
    return np.stack([1.0 - fraction, fraction], axis=1), first[:, None] + np.arange(2)


def _to_uint8(sums: Floats, gain: float) -> NDArray[np.uint8]:
    sums /= np.float32(gain)
    sums += np.float32(0.5)
    return np.clip(sums, 0, 255, out=sums).astype(np.uint8)
