"""From pixels that look like tissue to pieces of tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Plane = NDArray[np.float32]
    Mask = NDArray[np.bool_]

_HALF = 0.5
"""A border lies where a blurred edge is half as dense as what lies behind it."""

_LARGEST_CRUMB = 0.05
"""Share of the picture that no crumb has, so that the only piece of a tiny slide stays."""

_SQUARE = np.ones((3, 3), np.bool_)


def fill_gaps(mask: Mask, radius_px: float, max_hole_px: float) -> Mask:
    """Bridge gaps narrower than twice a radius, and fill holes smaller than an area that do not touch the edge."""
    closed = _closed(mask, radius_px)
    return closed | _small_pieces(~closed, max_hole_px, spare_edge=True)


def drop_crumbs(mask: Mask, min_piece_px: float) -> Mask:
    """Leave out pieces smaller than an area, or than a twentieth of the picture if that is less."""
    return mask & ~_small_pieces(mask, min(min_piece_px, _LARGEST_CRUMB * mask.size), spare_edge=False)


def trim_rim(mask: Mask, density: Plane) -> Mask:
    """Take away outermost pixels that are less than half as dense as the tissue next to them."""
    plateau = ndimage.maximum_filter(ndimage.uniform_filter(density, 3), 5)
    rim = mask & ~ndimage.binary_erosion(mask, _SQUARE, border_value=1)
    return mask & ~(rim & (density < _HALF * plateau))


def _closed(mask: Mask, radius_px: float) -> Mask:
    """Close with a disk; nothing is bridged to the picture's edge."""
    reach = int(radius_px + _HALF)
    if reach < 1:
        return mask
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    padded = np.pad(mask, 2 * reach)
    closed = ndimage.binary_closing(padded, x * x + y * y <= radius_px**2 + _HALF)
    return np.asarray(closed[2 * reach : -2 * reach, 2 * reach : -2 * reach], dtype=np.bool_)


def _small_pieces(mask: Mask, limit_px: float, *, spare_edge: bool) -> Mask:
    """Return the pieces of fewer pixels than a limit; on demand without those that touch the picture's edge."""
    pieces, _ = ndimage.label(mask)
    small = np.bincount(pieces.ravel()) < limit_px
    small[0] = False
    if spare_edge:
        for edge in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):
            small[edge] = False
    return np.asarray(small[pieces], dtype=np.bool_)
