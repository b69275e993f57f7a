"""Masks: the share of rectangles, from one integral image, connected pieces by their size, values at points.

Morphology here and beside it is scipy's. scikit-image's, which mostly wraps that, found the same pieces, but on a mask
of 6 million pixels took 1.5 times as long to drop small ones (0.11 s), 4.3 times to close with a disk (1.16 s, and 204
MB instead of 12), 3.6 times for the second moments of 6,000 pieces (2.1 s); it would bring three packages of 35 MB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]

EIGHT = np.ones((3, 3), np.bool_)
"""Neighbours of a pixel, across its corners, too."""


class MaskSums:
    """Counts of a mask's pixels in rectangles whose edges may cut pixels.

    Between the corners of pixels an integral image (Crow 1984, Comput Graph 18:207) is bilinear, so that interpolating
    it is exact.

    Parameters
    ----------
    mask
        `[rows, columns]`.
    """

    def __init__(self, mask: Mask) -> None:
        self._corners = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
        np.cumsum(mask, axis=0, out=self._corners[1:, 1:])
        np.cumsum(self._corners[1:, 1:], axis=1, out=self._corners[1:, 1:])

    def above_left(self, row: Floats, column: Floats) -> Floats:
        """Count the pixels above and left of points.

        Parameters
        ----------
        row, column
            Positions in pixels from the mask's top left corner; the shapes broadcast. Beyond the mask nothing counts.

        Returns
        -------
        NDArray[np.float64]
            One count for each point.
        """
        rows, columns = self._corners.shape[0] - 1, self._corners.shape[1] - 1
        row, column = np.clip(row, 0, rows), np.clip(column, 0, columns)
        top, left = np.minimum(row.astype(np.intp), rows - 1), np.minimum(column.astype(np.intp), columns - 1)
        down, right = row - top, column - left
        upper = self._corners[top, left] * (1 - right) + self._corners[top, left + 1] * right
        lower = self._corners[top + 1, left] * (1 - right) + self._corners[top + 1, left + 1] * right
        return np.asarray(upper * (1 - down) + lower * down, dtype=np.float64)

    def inside(self, top: Floats, left: Floats, bottom: Floats, right: Floats) -> Floats:
        """Count the pixels in rectangles, those on an edge by the part inside.

        Parameters
        ----------
        top, left, bottom, right
            `[n]`: edges in pixels from the mask's top left corner.

        Returns
        -------
        NDArray[np.float64]
            `[n]`.
        """
        lower = self.above_left(bottom, right) - self.above_left(top, right)
        return lower + (self.above_left(top, left) - self.above_left(bottom, left))


def drop_small_pieces(mask: Mask, least_px: float, *, diagonal: bool = False, keep_edge: bool = False) -> Mask:
    """Leave out connected pieces of fewer pixels than asked for.

    Parameters
    ----------
    mask
        `[rows, columns]`.
    least_px
        Pixels of the smallest piece that stays.
    diagonal
        Whether pixels that share only a corner are connected.
    keep_edge
        Whether pieces stay that touch the edge of the mask, whatever their size.

    Returns
    -------
    NDArray[np.bool_]
        `[rows, columns]`.
    """
    pieces, _ = ndimage.label(mask, EIGHT if diagonal else None)
    large = np.bincount(pieces.ravel()) >= least_px
    if keep_edge:
        for edge in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):
            large[edge] = True
    large[0] = False  # what is no piece
    return np.asarray(large[pieces], dtype=np.bool_)


def looked_up(mask: Mask, cell: tuple[float, float], points: tuple[Floats, Floats]) -> Mask:
    """Return the values of a mask at the points of a grid.

    Parameters
    ----------
    mask
        `[rows, columns]`, from the slide's top left corner.
    cell
        Height and width of its cells in level-0 pixels.
    points
        y `[h]` and x `[w]` in level-0 pixels; beyond the mask its last row and column go on.

    Returns
    -------
    NDArray[np.bool_]
        `[h, w]`.
    """
    rows, columns = (
        np.minimum(axis / side, most - 1).astype(np.intp)
        for axis, side, most in zip(points, cell, mask.shape, strict=True)
    )
    values: Mask = mask[rows][:, columns]
    return values
