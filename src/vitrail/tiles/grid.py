"""The grid of square, non-overlapping tiles on a slide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitrail.errors import SlideError
from vitrail.geometry import Region

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitrail.slides.slide import Slide

_MOST_TILES = 10_000_000
"""Of a grid: what is stored of each takes some hundred bytes."""

_SLACK = 1e-6  # tiles; a slide of exactly five tiles must not lose one to rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class TileGrid:
    """Tiles side by side from the slide's top left corner.

    Attributes
    ----------
    side
        Side of a tile in level-0 pixels; may be a fraction.
    rows, columns
        How many tiles there are down and across.
    """

    side: float
    rows: int
    columns: int

    def strip(self, row: int, column: int, count: int) -> Region:
        """Return the region of so many tiles of a row, from a column on."""
        return Region(x=column * self.side, y=row * self.side, width=count * self.side, height=self.side)


def inner_grid(slide: Slide, side_um: float) -> TileGrid:
    """Return the grid of the tiles that lie wholly on the slide.

    Parameters
    ----------
    slide
        The slide.
    side_um
        Side of a tile.

    Returns
    -------
    TileGrid
        Without rows or columns where the slide is smaller than a tile.

    Raises
    ------
    SlideError
        It has more tiles than can be held.
    """
    return _grid(slide, side_um, lambda length: math.floor(length + _SLACK))


def covering_grid(slide: Slide, side_um: float) -> TileGrid:
    """Return the grid that covers the slide.

    Parameters
    ----------
    slide, side_um
        As in `inner_grid`.

    Returns
    -------
    TileGrid
        The last row and column may reach beyond the slide.

    Raises
    ------
    SlideError
        It has more tiles than can be held.
    """
    return _grid(slide, side_um, lambda length: math.ceil(length - _SLACK))


def _grid(slide: Slide, side_um: float, count: Callable[[float], int]) -> TileGrid:
    side = side_um / slide.mpp
    rows, columns = count(slide.region.height / side), count(slide.region.width / side)
    if rows * columns > _MOST_TILES:
        problem = f"has {columns:,} x {rows:,} tiles of {side_um:g} um, more than {_MOST_TILES:,}"
        raise SlideError(slide.path, problem, "Take larger tiles, or check its um per pixel")
    return TileGrid(side=side, rows=rows, columns=columns)
