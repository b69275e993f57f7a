"""Cells as Voronoi regions of jittered hexagonal grids: centres bear the nuclei, borders the membranes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from vitrail.synthetic.fields import Mask, Plane, Window, enlarge

if TYPE_CHECKING:
    from vitrail.synthetic.spec import SlideSpec

_ROW = np.sqrt(0.75)
_MARGIN = 3
_COARSE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """What a pixel knows of the cells around it, one value for each of n pixels.

    Attributes
    ----------
    centre_um
        Distance from the centre of its own cell.
    border_um
        Distance to the next centre less the distance to its own: 0 on the border, about a diameter at the centre.
    tint
        A random number of its cell, 0 to 1.
    """

    centre_um: Plane
    border_um: Plane
    tint: Plane


@dataclass(frozen=True, slots=True, kw_only=True)
class CellGrid:
    """Centres of cells all over the slide.

    Attributes
    ----------
    points
        `[rows, columns, 2]`: x and y of the centres, level-0 pixels; three rows and columns lie outside on every side.
    pitch
        Distance of neighbouring centres before they were jittered.
    mpp
        Micrometres per level-0 pixel.
    """

    points: Plane
    pitch: float
    mpp: float

    @classmethod
    def draw(cls, spec: SlideSpec, room: int, pitch_um: float, jitter: float) -> Self:
        """Draw a grid for a slide; `room` numbers its random generator, `jitter` is in pitches."""
        pitch = pitch_um / spec.mpp
        rows, columns = (int(np.ceil(spec.side_px / p)) + 2 * _MARGIN for p in (pitch * _ROW, pitch))
        noise = spec.rng(3, room).uniform(-jitter, jitter, (rows, columns, 2)).astype(np.float32)
        row, column = np.mgrid[:rows, :columns].astype(np.float32) - _MARGIN
        x = (column + 0.5 * (row % 2) + 0.25 + noise[..., 0]) * pitch
        y = (row + 0.5 + noise[..., 1]) * pitch * _ROW
        return cls(points=np.stack([x, y], axis=-1).astype(np.float32), pitch=pitch, mpp=spec.mpp)

    def within(self, side: int) -> tuple[Plane, Plane]:
        """Return x and y of the centres that lie on the slide."""
        x, y = self.points.reshape(-1, 2).T
        inside = (x >= 0) & (y >= 0) & (x < side) & (y < side)
        return x[inside], y[inside]

    def around(self, window: Window, mask: Mask) -> Cells:
        """Return the cells at the masked pixels of a window, in the order of `mask.ravel()`.

        Distances are worked out at every other pixel and interpolated.
        """
        # every other pixel, and those beside them, so that interpolation finds its neighbours
        near = np.pad(mask[::2, ::2] | mask[1::2, ::2] | mask[::2, 1::2] | mask[1::2, 1::2], 1)
        near = near[1:-1] | near[:-2] | near[2:]
        near = near[:, 1:-1] | near[:, :-2] | near[:, 2:]
        rows, columns = np.nonzero(near)
        values = self._nearest(window.x + _COARSE * columns + 0.5, window.y + _COARSE * rows + 0.5)
        planes = np.zeros((3, *near.shape), np.float32)
        planes[:, rows, columns] = values
        index, frame = np.flatnonzero(mask), Window(x=0, y=0, side=window.side)
        centre, border = (enlarge(plane, frame, _COARSE).ravel()[index] * self.mpp for plane in planes[:2])
        tint = planes[2].repeat(_COARSE, axis=0).repeat(_COARSE, axis=1).ravel()[index]
        return Cells(centre_um=centre, border_um=border, tint=tint)

    def at(self, x: Plane, y: Plane) -> Cells:
        """Return the cells at n level-0 positions."""
        centre, border, tint = self._nearest(x, y)
        return Cells(centre_um=centre * self.mpp, border_um=border * self.mpp, tint=tint)

    def _nearest(self, x: Plane, y: Plane) -> tuple[Plane, Plane, Plane]:
        """Search the 3 x 3 surrounding centres for the two nearest.

        Returns
        -------
        tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
            Distance to the nearest, by how much the next is farther, and a number of the cell from 0 to 1.
        """
        x, y = x.astype(np.float32), y.astype(np.float32)
        row = np.floor(y / np.float32(self.pitch * _ROW)).astype(np.int32)
        first = np.full(x.shape, np.inf, np.float32)
        second = first.copy()
        owner = np.zeros(x.shape, np.int32)
        rows, columns = self.points.shape[:2]
        for down in (-1, 0, 1):
            line = row + down
            column = np.floor(x / np.float32(self.pitch) - 0.5 * (line & 1) + 0.25).astype(np.int32)
            start = np.clip(line + _MARGIN, 0, rows - 1) * columns
            for right in (-1, 0, 1):
                index = start + np.clip(column + right + _MARGIN, 0, columns - 1)
                centre_x, centre_y = self.points.reshape(-1, 2)[index].T
                square = (centre_x - x) ** 2 + (centre_y - y) ** 2
                np.minimum(second, np.maximum(first, square), out=second)
                np.copyto(owner, index, where=square < first)
                np.minimum(first, square, out=first)
        # mix the bits of the cell's number, so that neighbours have no pattern
        mixed = owner.astype(np.uint32) * np.uint32(2654435761)
        mixed ^= mixed >> np.uint32(15)
        mixed *= np.uint32(2246822519)
        tint = ((mixed >> np.uint32(8)) / np.float32(1 << 24)).astype(np.float32)
        near = np.sqrt(first)
        return near, np.sqrt(second) - near, tint
