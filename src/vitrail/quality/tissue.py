"""Tissue and glass: where a slide has anything to look at.

Empty glass is what lets the light through unchanged: bright, and flat but for the camera's noise. Its colour, the fall
of the light towards the slide's edges and the noise are measured on each slide (see `background.find_glass`). Tissue
is what absorbs more than glass can, in optical density above that glass, so that grey or tinted glass and dim lamps
cancel out (Beer and Lambert's law); or what has a texture that noise cannot have. Each threshold is the larger of what
the noise demands and a share of the slide's own typical stain, so that pale and over-stained sections are judged alike.
The border is then drawn where the density is half of what lies behind it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from vitrail.core.shown import Shown
from vitrail.quality.areas import EIGHT, MaskSums, drop_small_pieces
from vitrail.quality.background import find_glass, local_std, optical_density
from vitrail.settings.schema import TissueSettings
from vitrail.slides.slide import read_region

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.geometry import Region
    from vitrail.slides.slide import Slide


@dataclass(frozen=True, slots=True, kw_only=True)
class TissueThresholds:
    """What was measured on a slide to tell tissue from glass.

    Attributes
    ----------
    glass
        Red, green and blue of empty glass in the middle of the light, 0 to 255; None where the slide shows none, and
        all but its scan borders is tissue.
    glass_share
        Share of the slide, without scan borders, that was measured as glass.
    fall
        Range of the light over the slide, in optical density.
    noise
        Standard deviation of the glass's density.
    stain
        Typical (median) density of what absorbs.
    density, texture
        Least density, and least local standard deviation of it, of tissue.
    """

    glass: tuple[float, float, float] | None
    glass_share: float
    fall: float
    noise: float
    stain: float
    density: float
    texture: float


@dataclass(frozen=True, kw_only=True)  # no slots: the sums stay once computed
class Tissue(Shown):
    """The tissue of a slide.

    Attributes
    ----------
    mask
        `[h, w]`, True where there is tissue.
    region
        What the mask covers: the whole slide.
    um_per_px
        Width of a pixel of the mask.
    thresholds
        What was found on the slide.
    """

    mask: NDArray[np.bool_]
    region: Region
    um_per_px: float
    thresholds: TissueThresholds

    def __repr__(self) -> str:
        height, width = self.mask.shape
        grid = f"{height} x {width} pixels of {self.um_per_px:.3g} um"
        return f"<Tissue: {self.area_mm2:.3g} mm2, {self.mask.mean():.0%} of the slide, {grid}>"

    @property
    def area_mm2(self) -> float:
        """Area of the tissue."""
        mpp = self.um_per_px * self.mask.shape[1] / self.region.width
        return float(int(np.count_nonzero(self.mask)) * self._px_area * mpp * mpp / 1e6)

    @property
    def cell(self) -> tuple[float, float]:
        """Height and width of a pixel of the mask in level-0 pixels."""
        height, width = self.mask.shape
        return self.region.height / height, self.region.width / width

    def share(self, region: Region) -> float:
        """Return the tissue share of a region; what lies beyond the slide is not tissue."""
        return float(self.shares(np.array([[region.x, region.y, region.width, region.height]]))[0])

    def shares(self, boxes: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the tissue share of many regions at once; fractions of pixels count as such.

        Parameters
        ----------
        boxes
            `[n, 4]`: x, y, width and height in level-0 pixels; positive extents.

        Returns
        -------
        NDArray[np.float64]
            `[n]`, from 0 to 1.
        """
        x, y, width, height = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).T
        inside = self._sums.inside(self._row(y), self._column(x), self._row(y + height), self._column(x + width))
        return np.clip(inside / (width * height / self._px_area), 0.0, 1.0)

    def cover(self, region: Region, size: tuple[int, int]) -> NDArray[np.float64]:
        """Return the tissue share of every pixel of a picture of a region.

        Parameters
        ----------
        region
            Any region, on or off the slide.
        size
            Width and height of the picture in pixels.

        Returns
        -------
        NDArray[np.float64]
            `[height, width]`, from 0 to 1; at least a half is tissue.

        Raises
        ------
        ValueError
            If the size is not positive.
        """
        if min(size) < 1:
            raise ValueError(f"a size needs at least one pixel, not {size[0]} x {size[1]}")
        columns = self._column(np.linspace(region.x, region.right, size[0] + 1))
        rows = self._row(np.linspace(region.y, region.bottom, size[1] + 1))
        inside = np.diff(np.diff(self._sums.above_left(rows[:, None], columns[None, :]), axis=0), axis=1)
        picture_px = region.width / size[0] * region.height / size[1] / self._px_area
        return np.clip(inside / picture_px, 0.0, 1.0)

    @cached_property
    def _sums(self) -> MaskSums:
        return MaskSums(self.mask)

    @property
    def _px_area(self) -> float:
        """Area of a mask pixel in square level-0 pixels."""
        return self.region.width * self.region.height / self.mask.size

    def _column(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where level-0 positions lie among the mask's columns."""
        return np.asarray((x - self.region.x) / self.region.width * self.mask.shape[1])

    def _row(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where level-0 positions lie among the mask's rows."""
        return np.asarray((y - self.region.y) / self.region.height * self.mask.shape[0])


_MOST_PX = 6_000_000
"""Pixels of the largest mask (about 0.5 GB while it is made); a larger slide gets larger pixels."""

_TEXTURE_SHARE = 0.3
"""Of the density threshold: walls a pixel wide and as dense as the threshold have this deviation in their square."""

_LARGEST_CRUMB = 0.05
"""Share of the picture that no crumb has, so that the only piece of a tiny slide stays."""


def find_tissue(slide: Slide, settings: TissueSettings | None = None) -> Tissue:
    """Find the tissue of a slide, from a low-resolution picture of it.

    Parameters
    ----------
    slide
        The slide.
    settings
        Thresholds to impose, and how those left empty are found; by default those of `TissueSettings`.

    Returns
    -------
    Tissue
        The mask, and what was found on the way to it.

    Raises
    ------
    SlideError
        If the file cannot be decoded.
    """
    settings = settings or TissueSettings()
    width_um, height_um = slide.region.width * slide.mpp, slide.region.height * slide.mpp
    px_um = max(settings.um_per_px, math.sqrt(width_um * height_um / _MOST_PX))
    size = max(1, round(width_um / px_um)), max(1, round(height_um / px_um))
    um_per_px = width_um / size[0]
    mask, thresholds = tissue_mask(read_region(slide, slide.region, size), um_per_px, settings)
    return Tissue(mask=mask, region=slide.region, um_per_px=um_per_px, thresholds=thresholds)


def tissue_mask(
    rgb: NDArray[np.uint8], um_per_px: float, settings: TissueSettings
) -> tuple[NDArray[np.bool_], TissueThresholds]:
    """Find the tissue in a low-resolution picture of a slide.

    Parameters
    ----------
    rgb
        `[h, w, 3]`, 0 to 255.
    um_per_px
        Width of a pixel; 4 to 16 um, and best what `settings.um_per_px` says.
    settings
        Thresholds to impose, and how those left empty are found.

    Returns
    -------
    tuple[NDArray[np.bool_], TissueThresholds]
        The mask `[h, w]`, and what was found.
    """
    density = optical_density(rgb)
    spread = local_std(density.mean(axis=-1))
    glass = find_glass(rgb, density, spread, settings.glass)
    stain, excess = 0.0, density[..., 0]
    if glass.colour is not None:
        excess = glass.excess(density)
        absorbing = excess[~glass.border & (excess > settings.noise_factor * glass.noise)]
        stain = float(np.median(absorbing)) if absorbing.size else 0.0
    # each threshold lies above the noise, and above a share of the slide's own stain
    least = settings.stain_share * stain
    thresholds = TissueThresholds(
        glass=glass.rgb,
        glass_share=glass.share,
        fall=float(np.ptp(glass.shade)),
        noise=glass.noise,
        stain=stain,
        density=settings.density or max(settings.noise_factor * glass.noise, least),
        texture=settings.texture or max(settings.noise_factor * glass.spread, _TEXTURE_SHARE * least),
    )
    if glass.colour is None:
        mask = ~glass.border
    else:
        mask = (excess >= thresholds.density) | (ndimage.minimum_filter(spread, 3) >= thresholds.texture)
        excess[glass.border] = 0
        px_um2 = um_per_px**2
        mask = fill_gaps(mask & ~glass.border, settings.close_um / um_per_px, settings.max_hole_um2 / px_um2)
        mask = trim_rim(mask, excess)
    return drop_crumbs(mask, settings.min_piece_um2 / um_per_px**2), thresholds


def fill_gaps(mask: NDArray[np.bool_], radius_px: float, max_hole_px: float) -> NDArray[np.bool_]:
    """Bridge gaps narrower than twice a radius, and fill holes smaller than an area that do not touch the edge.

    Parameters
    ----------
    mask
        `[h, w]`.
    radius_px
        Of the disk that the mask is closed with; nothing is bridged to the picture's edge.
    max_hole_px
        Area of the smallest hole that stays.

    Returns
    -------
    NDArray[np.bool_]
        `[h, w]`.
    """
    reach = int(radius_px + 0.5)
    if reach >= 1:
        y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
        disk = x * x + y * y <= radius_px**2 + 0.5
        closed = ndimage.binary_closing(np.pad(mask, 2 * reach), disk)
        mask = np.asarray(closed[2 * reach : -2 * reach, 2 * reach : -2 * reach], dtype=np.bool_)
    return ~drop_small_pieces(~mask, max_hole_px, keep_edge=True)


def drop_crumbs(mask: NDArray[np.bool_], min_piece_px: float) -> NDArray[np.bool_]:
    """Leave out pieces smaller than an area, or than a twentieth of the picture if that is less."""
    return drop_small_pieces(mask, min(min_piece_px, _LARGEST_CRUMB * mask.size))


def trim_rim(mask: NDArray[np.bool_], density: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Take away outermost pixels that are less than half as dense as the tissue next to them.

    The border of what is blurred lies where it is half as dense as what lies behind it.

    Parameters
    ----------
    mask
        `[h, w]`.
    density
        `[h, w]`: optical density above that of glass.

    Returns
    -------
    NDArray[np.bool_]
        `[h, w]`.
    """
    plateau = ndimage.maximum_filter(ndimage.uniform_filter(density, 3), 5)
    rim = mask & ~ndimage.binary_erosion(mask, EIGHT, border_value=1)
    return mask & ~(rim & (density < 0.5 * plateau))
