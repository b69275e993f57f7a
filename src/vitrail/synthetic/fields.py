"""Smooth random fields and textures, without matrix products, so that no number of threads can change a pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from vitrail.synthetic.spec import LAYOUT_STEP

Plane: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]

TEXTURE_PX = 1024
"""Side of the periodic textures; a power of two, so that wrapping is a bit mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A square of level-0 pixels being drawn; it may reach beyond the slide.

    Attributes
    ----------
    x, y
        Left and top, level-0 pixels.
    side
        Width and height.
    """

    x: int
    y: int
    side: int

    def columns(self) -> Plane:
        """Return the level-0 x of each column of pixels."""
        return np.arange(self.x, self.x + self.side, dtype=np.float32)

    def rows(self) -> Plane:
        """Return the level-0 y of each row of pixels."""
        return np.arange(self.y, self.y + self.side, dtype=np.float32)


def smooth_noise(rng: np.random.Generator, side: int, scale: float) -> Plane:
    """Draw a smooth field of mean 0 and standard deviation 1 (cubic B-splines on a random grid).

    Parameters
    ----------
    rng
        Source of the grid.
    side
        Width and height of the field in pixels.
    scale
        Distance of the grid's nodes in pixels: about half a wavelength.

    Returns
    -------
    NDArray[np.float32]
        `[side, side]`.
    """
    nodes = int(np.ceil(side / scale)) + 4
    grid = rng.standard_normal((nodes, nodes)).astype(np.float32)
    position = np.arange(side, dtype=np.float32) / np.float32(scale)
    field = _spline(_spline(grid, position).T, position).T
    return np.asarray((field - field.mean()) / (field.std() + 1e-6), dtype=np.float32)


def _spline(nodes: Plane, position: Plane) -> Plane:
    """Interpolate rows of nodes with cubic B-splines."""
    first = position.astype(np.int32)
    t = (position - first)[:, None]
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    return np.asarray(sum(w / 6 * nodes[first + k] for k, w in enumerate(weights)), dtype=np.float32)


def enlarge(field: Plane, window: Window, step: int = LAYOUT_STEP) -> Plane:
    """Interpolate a coarse field bilinearly at every pixel of a window.

    Parameters
    ----------
    field
        Values at the centres of squares of `step` pixels; the window's origin is counted from the field's.
    window
        The pixels; outside the field its edge is repeated.
    step
        Pixels for each value of the field.

    Returns
    -------
    NDArray[np.float32]
        `[side, side]` of the window.
    """
    top, down = _between(window.y, window.side, field.shape[0], step)
    left, right = _between(window.x, window.side, field.shape[1], step)
    part = field[:, left[0] : left[-1] + 2]
    part = part[top] + down[:, None] * (part[np.minimum(top + 1, field.shape[0] - 1)] - part[top])
    near = left - left[0]
    step_right = np.diff(part, axis=1, append=part[:, -1:])
    result = np.take(part, near, axis=1, mode="clip")
    slope = np.take(step_right, near, axis=1, mode="clip")
    slope *= right
    result += slope
    return np.asarray(result, dtype=np.float32)


def _between(origin: int, count: int, length: int, step: int) -> tuple[NDArray[np.intp], Plane]:
    position = np.clip((np.arange(origin, origin + count) + 0.5) / step - 0.5, 0, length - 1)
    first = position.astype(np.intp)
    return first, (position - first).astype(np.float32)


def sample(field: NDArray[np.generic], x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.generic]:
    """Return the values of a layout field at level-0 positions (nearest pixel)."""
    last = field.shape[0] - 1
    row = np.clip(y / LAYOUT_STEP, 0, last).astype(np.intp)
    column = np.clip(x / LAYOUT_STEP, 0, last).astype(np.intp)
    return np.asarray(field[row, column])


def periodic_noise(rng: np.random.Generator, sigma_y: float, sigma_x: float) -> Plane:
    """Draw a texture of mean 0 and standard deviation 1 that repeats without a seam.

    Parameters
    ----------
    rng
        Source of the noise.
    sigma_y, sigma_x
        Standard deviations of the Gaussian filter in pixels; unequal for fibres.

    Returns
    -------
    NDArray[np.float32]
        `[TEXTURE_PX, TEXTURE_PX]`.
    """
    noise = rng.standard_normal((TEXTURE_PX, TEXTURE_PX)).astype(np.float32)
    down, right = fft.fftfreq(TEXTURE_PX)[:, None] * sigma_y, fft.rfftfreq(TEXTURE_PX) * sigma_x
    gain = np.exp(-2 * np.pi**2 * (down**2 + right**2)).astype(np.float32)  # a Gaussian is a Gaussian there too
    smooth = fft.irfft2(fft.rfft2(noise) * gain)
    return np.asarray((smooth - smooth.mean()) / smooth.std(), dtype=np.float32)


def look_up(texture: Plane, v: Plane, u: Plane) -> Plane:
    """Return a periodic texture at positions in texture pixels (nearest)."""
    wrap = TEXTURE_PX - 1
    index = (np.floor(v).astype(np.int32) & wrap) * TEXTURE_PX
    index += np.floor(u).astype(np.int32) & wrap
    return np.asarray(texture.ravel()[index], dtype=np.float32)


def blend(low: float, high: float, value: Plane) -> Plane:
    """Rise smoothly from 0 at `low` to 1 at `high` (either may be the larger)."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


def around(plane: Plane, centre: tuple[float, float], reach_px: int) -> tuple[Plane, NDArray[np.float64]]:
    """Return the part of a plane within a square around a point, and the distance of each of its pixels to the point.

    Parameters
    ----------
    plane
        `[side, side]`.
    centre
        Row and column, on the plane or off it.
    reach_px
        Half the width of the square.

    Returns
    -------
    tuple[NDArray[np.float32], NDArray[np.float64]]
        A view of the plane, to be written to, and distances in pixels; empty where the square lies off the plane.
    """
    row, column = int(centre[0]), int(centre[1])
    top, left = max(row - reach_px, 0), max(column - reach_px, 0)
    part = plane[top : max(row + reach_px + 1, 0), left : max(column + reach_px + 1, 0)]
    dy = np.arange(top, top + part.shape[0])[:, None] - centre[0]
    dx = np.arange(left, left + part.shape[1]) - centre[1]
    return part, np.hypot(dy, dx)
