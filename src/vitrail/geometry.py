"""A rectangle on a slide, and spans that are cut at the borders of tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A rectangle on a slide, in level-0 pixels.

    The origin is the top left corner of the slide's bounds, as in QuPath: outlines need no shift, whatever margin a
    scanner left around the scanned area. Lengths may be fractions of a pixel, so that a grid of 199.1 um tiles never
    drifts.

    Attributes
    ----------
    x, y
        Left and top edge.
    width, height
        Extent; positive.

    Raises
    ------
    ValueError
        An extent is not positive.
    """

    x: float
    y: float
    width: float
    height: float

    def __post_init__(self) -> None:
        if not (self.width > 0 and self.height > 0):
            raise ValueError(f"a region needs a positive extent, not {self.width} x {self.height}")

    @property
    def right(self) -> float:
        """Right edge."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """Bottom edge."""
        return self.y + self.height

    def scaled(self, factor: float) -> Region:
        """Return the same rectangle in a frame whose pixels are `1 / factor` times as large."""
        return Region(x=self.x * factor, y=self.y * factor, width=self.width * factor, height=self.height * factor)

    def shifted(self, dx: float, dy: float) -> Region:
        """Return the region moved right by `dx` and down by `dy`."""
        return Region(x=self.x + dx, y=self.y + dy, width=self.width, height=self.height)


def cut_at_tiles(start: int, stop: int, side_px: int, end: int) -> Iterator[tuple[int, slice, slice]]:
    """Cut a span of an axis of an image at the borders of the image's tiles.

    Parameters
    ----------
    start, stop
        The span in pixels; what lies before 0 and beyond `end` is left out.
    side_px
        Of a tile.
    end
        Length of the image.

    Yields
    ------
    tuple[int, slice, slice]
        A tile's number, where its pixels go in the span, and which of its own they are.
    """
    low, high = max(start, 0), min(stop, end)
    for number in range(low // side_px, -(-high // side_px)) if low < high else ():
        corner = number * side_px
        first, last = max(low, corner), min(high, corner + side_px)
        yield number, slice(first - start, last - start), slice(first - corner, last - corner)
