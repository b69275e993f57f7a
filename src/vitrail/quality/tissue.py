"""Tissue and glass: where a slide has anything to look at.

Empty glass is what lets the light through unchanged: bright, and flat but for the camera's noise. Its colour, the fall
of the light towards the slide's edges and the noise are measured on each slide (see `tissue_glass`). Tissue is what
absorbs more than glass can, in optical density above that glass, so that grey or tinted glass and dim lamps cancel out
(Beer and Lambert's law); or what has a texture that noise cannot have. Each threshold is the larger of what the noise
demands and a share of the slide's own typical stain, so that pale and over-stained sections are judged alike. The
border is then drawn where the density is half of what lies behind it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from vitrail.quality.background import find_glass, local_std, optical_density
from vitrail.quality.shape import drop_crumbs, fill_gaps, trim_rim
from vitrail.slides.slide import read_region

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.geometry import Region
    from vitrail.quality.background import Glass
    from vitrail.settings.schema import TissueSettings
    from vitrail.slides.slide import Slide


@dataclass(frozen=True, slots=True, kw_only=True)
class TissueThresholds:
    """What was found on a slide.

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


@dataclass(frozen=True, kw_only=True)  # no slots: the integral image is kept once computed
class Tissue:
    """The tissue of a slide.

    Attributes
    ----------
    mask
        [h, w], True where there is tissue.
    region
        The place that the mask covers: the whole slide.
    um_per_px
        Width of a pixel of the mask.
    thresholds
        What was found on the slide.
    """

    mask: NDArray[np.bool_]
    region: Region
    um_per_px: float
    thresholds: TissueThresholds

    @property
    def area_mm2(self) -> float:
        """Area of the tissue."""
        mpp = self.um_per_px * self.mask.shape[1] / self.region.width
        return float(int(np.count_nonzero(self.mask)) * self._px_area * mpp * mpp / 1e6)

    def share(self, region: Region) -> float:
        """Return the tissue share of a region; what lies beyond the slide is not tissue."""
        return float(self.shares(np.array([[region.x, region.y, region.width, region.height]]))[0])

    def shares(self, boxes: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the tissue share of many regions at once; fractions of pixels count as such.

        Parameters
        ----------
        boxes
            [n, 4]: x, y, width and height in level-0 pixels; positive extents.

        Returns
        -------
        NDArray
            [n], 0 to 1.
        """
        x, y, width, height = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).T
        columns, rows = self._column(np.stack([x, x + width])), self._row(np.stack([y, y + height]))
        total = self._sum(rows[1], columns[1]) - self._sum(rows[0], columns[1])
        total += self._sum(rows[0], columns[0]) - self._sum(rows[1], columns[0])
        shares: NDArray[np.float64] = np.clip(total / (width * height / self._px_area), 0.0, 1.0)
        return shares

    def cover(self, region: Region, size: tuple[int, int]) -> NDArray[np.float64]:
        """Return the tissue share of every pixel of a picture of a region.

        Parameters
        ----------
        region
            Any place, on or off the slide.
        size
            Width and height of the picture in pixels.

        Returns
        -------
        NDArray
            [height, width], 0 to 1; at least a half is tissue.

        Raises
        ------
        ValueError
            If the size is not positive.
        """
        if min(size) < 1:
            raise ValueError(f"a size needs at least one pixel, not {size[0]} x {size[1]}")
        columns = self._column(np.linspace(region.x, region.right, size[0] + 1))
        rows = self._row(np.linspace(region.y, region.bottom, size[1] + 1))
        sums = self._sum(rows[:, None], columns[None, :])
        pixel = region.width / size[0] * region.height / size[1] / self._px_area
        cover: NDArray[np.float64] = np.clip(np.diff(np.diff(sums, axis=0), axis=1) / pixel, 0.0, 1.0)
        return cover

    @cached_property
    def _integral(self) -> NDArray[np.int64]:
        """Number of tissue pixels above and left of every pixel corner, [h + 1, w + 1]."""
        sums = np.zeros((self.mask.shape[0] + 1, self.mask.shape[1] + 1), np.int64)
        np.cumsum(self.mask, axis=0, out=sums[1:, 1:])
        np.cumsum(sums[1:, 1:], axis=1, out=sums[1:, 1:])
        return sums

    def _column(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where level-0 positions lie among the mask's columns."""
        width = self.mask.shape[1]
        column: NDArray[np.float64] = np.clip((x - self.region.x) / self.region.width * width, 0.0, width)
        return column

    def _row(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where level-0 positions lie among the mask's rows."""
        height = self.mask.shape[0]
        row: NDArray[np.float64] = np.clip((y - self.region.y) / self.region.height * height, 0.0, height)
        return row

    @property
    def _px_area(self) -> float:
        """Area of a mask pixel in square level-0 pixels."""
        return self.region.width * self.region.height / self.mask.size

    def _sum(self, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Read the integral image between its corners; within a pixel it is bilinear, so this is exact."""
        top = np.minimum(rows.astype(np.intp), self.mask.shape[0] - 1)
        left = np.minimum(columns.astype(np.intp), self.mask.shape[1] - 1)
        down, right = rows - top, columns - left
        upper = self._integral[top, left] * (1 - right) + self._integral[top, left + 1] * right
        lower = self._integral[top + 1, left] * (1 - right) + self._integral[top + 1, left + 1] * right
        total: NDArray[np.float64] = upper * (1 - down) + lower * down
        return total


_MOST_PX = 6_000_000
"""Pixels of the largest mask (about 0.5 GB while it is made); a larger slide gets larger pixels."""

_TEXTURE_SHARE = 0.3
"""Of the density threshold: walls a pixel wide and as dense as the threshold have this deviation in their square."""


def find_tissue(slide: Slide, settings: TissueSettings) -> Tissue:
    """Find the tissue of a slide, from a low-resolution picture of it.

    Parameters
    ----------
    slide
        The slide.
    settings
        Thresholds to impose, and how those left empty are found.

    Raises
    ------
    SlideError
        If the file cannot be decoded.
    """
    size = _mask_size(slide, settings.um_per_px)
    um_per_px = slide.region.width * slide.mpp / size[0]
    mask, thresholds = tissue_mask(read_region(slide, slide.region, size), um_per_px, settings)
    return Tissue(mask=mask, region=slide.region, um_per_px=um_per_px, thresholds=thresholds)


def tissue_mask(
    rgb: NDArray[np.uint8], um_per_px: float, settings: TissueSettings
) -> tuple[NDArray[np.bool_], TissueThresholds]:
    """Find the tissue in a low-resolution picture of a slide.

    Parameters
    ----------
    rgb
        [h, w, 3], 0 to 255.
    um_per_px
        Width of a pixel; 4 to 16 um, and best what `settings.um_per_px` says.
    settings
        Thresholds to impose, and how those left empty are found.

    Returns
    -------
    The mask [h, w], and what was found.
    """
    density = optical_density(rgb)
    spread = local_std(density.mean(axis=-1))
    glass = find_glass(rgb, density, spread, settings.glass)
    if glass.colour is None:
        thresholds = _thresholds(glass, settings, 0.0)
        return drop_crumbs(~glass.border, settings.min_piece_um2 / um_per_px**2), thresholds
    excess = glass.excess(density)
    thresholds = _thresholds(glass, settings, _stain(excess[~glass.border], settings.noise_factor * glass.noise))
    mask = (excess >= thresholds.density) | (ndimage.minimum_filter(spread, 3) >= thresholds.texture)
    excess[glass.border] = 0
    return _shaped(mask & ~glass.border, excess, um_per_px, settings), thresholds


def _shaped(
    mask: NDArray[np.bool_], excess: NDArray[np.float32], um_per_px: float, settings: TissueSettings
) -> NDArray[np.bool_]:
    """Turn pixels that look like tissue into pieces of tissue with a sharp border."""
    filled = fill_gaps(mask, settings.close_um / um_per_px, settings.max_hole_um2 / um_per_px**2)
    return drop_crumbs(trim_rim(filled, excess), settings.min_piece_um2 / um_per_px**2)


def _thresholds(glass: Glass, settings: TissueSettings, stain: float) -> TissueThresholds:
    """Set each threshold above the noise, and above a share of the typical stain."""
    least = settings.stain_share * stain
    return TissueThresholds(
        glass=glass.rgb,
        glass_share=glass.share,
        fall=float(np.ptp(glass.shade)),
        noise=glass.noise,
        stain=stain,
        density=settings.density or max(settings.noise_factor * glass.noise, least),
        texture=settings.texture or max(settings.noise_factor * glass.spread, _TEXTURE_SHARE * least),
    )


def _stain(excess: NDArray[np.float32], floor: float) -> float:
    """Return the typical density of what noise does not explain; 0 where there is nothing."""
    absorbing = excess[excess > floor]
    return float(np.median(absorbing)) if absorbing.size else 0.0


def _mask_size(slide: Slide, um_per_px: float) -> tuple[int, int]:
    """Return width and height of the mask in pixels."""
    width, height = slide.region.width * slide.mpp, slide.region.height * slide.mpp
    um_per_px = max(um_per_px, math.sqrt(width * height / _MOST_PX))
    return max(1, round(width / um_per_px)), max(1, round(height / um_per_px))
