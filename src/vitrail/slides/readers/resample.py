"""Scale an image by pixel coverage.

Scaling is separable: weights for the rows, weights for the columns. A reduced pixel is the mean of the area it covers,
fractions of pixels included; an enlarged one is interpolated linearly between pixel centres. At scale 1 the two rules
agree, so nothing jumps where one takes over from the other.

Fractions are exact as long as a pixel is taken for a square of one colour. A pixel that is itself a mean of smaller
ones, of which only the mean is left, is better taken for a curve: a parabola is laid through each pixel's mean and its
neighbours' (piecewise parabolic reconstruction: Colella and Woodward 1984, doi 10.1016/0021-9991(84)90143-8, without
their limiter) and integrated.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_SLACK_PX = 1e-6
_BLOCK = 8
"""Result rows or columns computed at once, by a small dense matrix; more waste work on zeros, fewer on calls."""

_BAND = 1 << 18
"""Values of an image that become floats at once: a megabyte of them."""

_FLOAT = 4
"""Bytes."""


def area_resample(
    image: NDArray[np.uint8] | NDArray[np.floating],
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    *,
    of_means: bool = False,
) -> NDArray[np.uint8]:
    """Scale a box of an image to a size.

    Sums run in 32-bit floats: before rounding they are within 1e-3 grey levels of the exact mean, and exact wherever
    the box and the factor are whole numbers. Halves are rounded up.

    Parameters
    ----------
    image
        `[h, w, c]`, values 0 to 255.
    box
        Left, top, right and bottom edge in pixels of `image`; fractions are welcome.
    size
        Width and height of the result, in pixels.
    of_means
        Whether the image's pixels are themselves means of smaller ones. The result is the same where the edges of all
        its pixels are whole numbers, and elsewhere nearer to what the smaller pixels would have given. It takes one
        pixel beyond the box into account.

    Returns
    -------
    NDArray[np.uint8]
        `[height, width, c]`.

    Raises
    ------
    ValueError
        If the box is empty or leaves the image, or the size is not positive.
    """
    height, width, channels = image.shape
    left, top, right, bottom = box
    for span, length, count in (((left, right), width, size[0]), ((top, bottom), height, size[1])):
        if count < 1:
            raise ValueError(f"a size needs at least one pixel, not {count}")
        if not (-_SLACK_PX <= span[0] < span[1] <= length + _SLACK_PX):
            raise ValueError(f"the span {span} is empty or leaves an image of {length} pixels")
    unscaled = right - left == size[0] and bottom - top == size[1]
    if unscaled and image.dtype == np.uint8 and all(edge == round(edge) for edge in box):
        return np.array(image[round(top) : round(bottom), round(left) : round(right)], dtype=np.uint8)

    # Rows: few become floats at once, and stay near the CPU.
    flat = image.reshape(height, width * channels)
    starts, matrices, runs = _blocks(height, (top, bottom), size[1], 1, _BAND // flat.shape[1], of_means=of_means)
    wide, line = matrices.shape[1], flat.shape[1] * _FLOAT
    rows = np.empty((len(starts), _BLOCK, flat.shape[1]), np.float32)
    for first, last, step in runs:
        band = flat[starts[first] : starts[last - 1] + wide].astype(np.float32)
        windows = np.ndarray((last - first, wide, flat.shape[1]), np.float32, band, 0, (step * line, line, _FLOAT))
        np.matmul(matrices[first:last].transpose(0, 2, 1), windows, out=rows[first:last])
    rows = rows.reshape(-1, flat.shape[1])[: size[1]]

    # Columns: the pixels of each row are weighed where they lie, all channels at once; turning the image costs more.
    starts, matrices, runs = _blocks(width, (left, right), size[0], channels, width, of_means=of_means)
    inner, outer = matrices.shape[1:]
    sums = np.empty((size[1], len(starts), outer), np.float32)
    for first, last, step in runs:
        begin, strides = int(starts[first]) * channels * _FLOAT, (step * channels * _FLOAT, line, _FLOAT)
        windows = np.ndarray((last - first, size[1], inner), np.float32, rows, begin, strides)
        np.matmul(windows, matrices[first:last], out=sums[:, first:last].transpose(1, 0, 2))
    sums = sums.reshape(size[1], -1)[:, : size[0] * channels]

    # A pixel's weights sum to the image pixels that it is made of, or to 1 where it is enlarged.
    gain = max(1.0, (bottom - top) / size[1]) * max(1.0, (right - left) / size[0])
    sums /= np.float32(gain)
    sums += np.float32(0.5)
    if of_means or image.dtype != np.uint8:  # a curve may overshoot
        np.clip(sums, 0, 255, out=sums)
    return sums.astype(np.uint8).reshape(size[1], size[0], channels)


@lru_cache(maxsize=128)
def _blocks(
    length: int, span: tuple[float, float], count: int, channels: int, most: int, *, of_means: bool
) -> tuple[NDArray[np.intp], Floats, list[tuple[int, int, int]]]:
    """Return an axis's weights as small dense matrices; tiles of a grid ask for the same few again and again.

    Each makes `_BLOCK` result pixels, the last one perhaps some too many. The first image pixel of each, and
    [blocks, image pixels x channels, result pixels x channels] for all channels of interleaved pixels at once. And
    which of them lie at one distance from each other, so that one call multiplies them: first, last, and distance, as
    long as they begin within `most` image pixels. Every call lets other threads have Python, which takes longer than
    a product.
    """
    weights, columns = _weights(span, count, of_means=of_means)
    columns = np.clip(columns, 0, length - 1)
    blocks, within = np.divmod(np.arange(count), _BLOCK)
    heads = np.arange(0, count, _BLOCK)
    starts = np.minimum.reduceat(columns.min(axis=1), heads)
    wide = int((np.maximum.reduceat(columns.max(axis=1), heads) - starts).max()) + 1
    starts = np.minimum(starts, max(0, length - wide))
    dense = np.zeros((len(heads), wide, _BLOCK), np.float32)
    at = blocks[:, None], columns - starts[blocks][:, None], within[:, None]
    np.add.at(dense, at, weights.astype(np.float32))
    matrices = np.zeros((len(heads), wide, channels, _BLOCK, channels), np.float32)
    for channel in range(channels):
        matrices[:, :, channel, :, channel] = dense
    runs, first, count = list[tuple[int, int, int]](), 0, len(starts)
    steps = [*np.diff(starts).tolist(), -1]
    for last in range(1, count + 1):
        if last == count or steps[last - 1] != steps[first] or starts[last] - starts[first] >= most:
            runs.append((first, last, steps[first]))
            first = last
    return starts, matrices.reshape(len(heads), wide * channels, _BLOCK * channels), runs


def _weights(span: tuple[float, float], count: int, *, of_means: bool) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return weights and places of the image pixels that each result pixel is made of, [count, k] each."""
    start, stop = span
    if (stop - start) / count <= 1.0:
        # The two pixels whose centres lie around the centre of a result pixel; the image's edge is repeated.
        centres = start + (np.arange(count) + 0.5) * ((stop - start) / count) - 0.5
        first = np.floor(centres).astype(np.intp)
        fraction = centres - first
        return np.stack([1.0 - fraction, fraction], axis=1), first[:, None] + np.arange(2)

    # Every pixel is weighed by the length of it that a result pixel covers. The weights are left unscaled: at whole
    # factors they are 1, and the sums stay free of rounding.
    edges = np.linspace(start, stop, count + 1)
    first = np.floor(edges[:-1]).astype(np.intp) - of_means
    most = int((np.ceil(edges[1:]) - first).max()) + of_means
    columns = first[:, None] + np.arange(most)
    weights = np.maximum(np.minimum(columns + 1, edges[1:, None]) - np.maximum(columns, edges[:-1, None]), 0.0)
    if not of_means:
        return weights, columns

    # What a curve over three pixels encloses at each edge more than a step does. The integral of an image up to an
    # edge is known wherever the edge lies between two pixels: it is the sum of all before. In between it is
    # interpolated by the cubic through the four nearest such places.
    for ends, sign in ((edges[1:], 1.0), (edges[:-1], -1.0)):
        pixel = np.floor(ends)
        t = ends - pixel
        before, after = t * (t - 1) * (t - 2) / 6, (t + 1) * t * (t - 1) / 6
        rows, at = np.arange(count), pixel.astype(np.intp) - first
        bent = t > 0  # an edge between pixels has no pixel of its own, and may be the last
        for offset, change in ((-1, before), (0, -before - after), (1, after)):
            weights[rows[bent], at[bent] + offset] += sign * change[bent]
    return weights, columns
