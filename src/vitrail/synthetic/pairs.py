"""Pairs of tiles: the same tile with a cause and without it, of which all else is equal, byte by byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vitrail.slides.readers.resample import area_resample
from vitrail.synthetic.draw import Scene, compose, draw_region, pixel_box
from vitrail.synthetic.spec import without_cause

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.geometry import Region
    from vitrail.synthetic.fields import Mask
    from vitrail.synthetic.spec import SlideSpec


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TilePair:
    """A tile with a cause and without it.

    Attributes
    ----------
    present, absent
        Bytes `[height, width, 3]`.
    """

    present: NDArray[np.uint8]
    absent: NDArray[np.uint8]

    @property
    def differs(self) -> Mask:
        """Which pixels differ, `[height, width]`."""
        return np.asarray((self.present != self.absent).any(axis=2))


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidePair:
    """A slide with a cause and without it, decided but not drawn.

    Attributes
    ----------
    present, absent
        The two.
    """

    present: Scene
    absent: Scene

    def tile(self, region: Region, size: tuple[int, int]) -> TilePair:
        """Draw a tile of both.

        Parameters
        ----------
        region
            Where it lies.
        size
            Its width and height, in pixels.

        Returns
        -------
        TilePair
            As `read_region` would read it from slides that JPEG has not compressed.
        """
        return TilePair(present=draw_tile(self.present, region, size), absent=draw_tile(self.absent, region, size))


def slide_pair(slide: SlideSpec | Scene, cause: str) -> SlidePair:
    """Compose a slide and the same without a cause.

    Parameters
    ----------
    slide
        With the cause; a scene saves composing it again for each cause.
    cause
        One of `CAUSES`, or a shortcut that the slide has.

    Returns
    -------
    SlidePair
        Of it tiles can be drawn.

    Raises
    ------
    SettingsError
        There is no such cause, or the slide does not have it.
    """
    present = slide if isinstance(slide, Scene) else compose(slide)
    return SlidePair(present=present, absent=compose(without_cause(present.spec, cause)))


def draw_tile(scene: Scene, region: Region, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw a region of a slide at a size, by pixel coverage.

    Parameters
    ----------
    scene
        The slide.
    region
        Where the tile lies; fractions of pixels are welcome.
    size
        Width and height, in pixels.

    Returns
    -------
    NDArray[np.uint8]
        `[height, width, 3]`.
    """
    left, top, _, _ = pixel_box(region)
    moved = region.shifted(-left, -top)
    return area_resample(draw_region(scene, region), (moved.x, moved.y, moved.right, moved.bottom), size)
