"""Cutting one slide: outlines, choice, pixels, masks. Runs in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vitrail.classes import CLASSES, TissueClass
from vitrail.errors import TileError
from vitrail.geometry import Region
from vitrail.slides.annotations import ClassNames, read_annotations
from vitrail.slides.slide import open_slide, read_region
from vitrail.tiles.grid import inner_grid
from vitrail.tiles.masks import annotated, complete_mask, shares
from vitrail.tiles.sampling import candidates, choose

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vitrail.settings.load import Settings
    from vitrail.slides.annotations import Annotations
    from vitrail.slides.cohort import CohortSlide
    from vitrail.slides.slide import Slide
    from vitrail.tiles.grid import TileGrid


@dataclass(frozen=True, slots=True, kw_only=True)
class TilePlan:
    """Which tiles of a slide are to be cut.

    Attributes
    ----------
    slide
        The slide.
    annotations
        Its outlines.
    rows
        The slide's rows of the tile table, the shares of classes still missing.
    whole
        `[n]`, which tiles are all of their label, so that nothing needs drawing.
    """

    slide: Slide
    annotations: Annotations
    rows: pd.DataFrame
    whole: NDArray[np.bool_]

    def with_shares(self, share: NDArray[np.float64]) -> pd.DataFrame:
        """Return the rows with the shares of each class, `[n, 4]`."""
        return self.rows.assign(**{label.key: share[:, label] for label in CLASSES})


@dataclass(frozen=True, slots=True, kw_only=True)
class CutTile:
    """One tile.

    Attributes
    ----------
    row
        Its place in the plan.
    image
        `[side_px, side_px, 3]`.
    mask
        `[side_px, side_px]`, values of `TissueClass`.
    """

    row: int
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSlide:
    """The tiles of one slide, in memory.

    Attributes
    ----------
    rows
        The slide's rows of the tile table.
    images
        `[n, side_px, side_px, 3]`.
    masks
        `[n, side_px, side_px]`.
    mpp
        um per level-0 pixel.
    warnings
        What was mended or left out on the way, a line each.
    """

    rows: pd.DataFrame
    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    mpp: float
    warnings: tuple[str, ...]


def class_names(settings: Settings) -> ClassNames:
    """Return the table of outline names of a study."""
    names = settings.annotations
    return ClassNames(tumor=names.tumor, non_tumor=names.non_tumor, ignore=names.ignore)


def open_cohort_slide(entry: CohortSlide, settings: Settings) -> Slide:
    """Open a slide of a cohort: `mpp` in slides.csv wins over the header, `slides.mpp` steps in where both are silent.

    Raises
    ------
    SlideError
        It cannot be opened, or its pixel size is nowhere given.
    """
    return open_slide(entry.slide, mpp=entry.mpp, fallback_mpp=settings.slides.mpp, reading=settings.slides.reading)


def plan_slide(entry: CohortSlide, settings: Settings) -> TilePlan:
    """Choose the tiles of one slide.

    Raises
    ------
    SlideError, AnnotationError
        The slide or its outlines cannot be read.
    TileError
        It yields no tile; the message says why.
    """
    slide = open_cohort_slide(entry, settings)
    annotations = read_annotations(entry.annotations, class_names(settings))
    rows, whole = _choose_rows(entry, annotations, inner_grid(slide, settings.tiles.side_um), settings)
    return TilePlan(slide=slide, annotations=annotations, rows=rows, whole=whole)


def cut_tiles(plan: TilePlan, settings: Settings) -> Iterator[CutTile]:
    """Yield the pixels and masks of the chosen tiles, one at a time, in an order that is kind to the slide's reader.

    Raises
    ------
    SlideError
        The slide cannot be decoded somewhere.
    """
    side_px, white, inside = settings.tiles.side_px, settings.tiles.white, settings.tiles.white_inside
    size, masks = (side_px, side_px), {name: np.full((side_px, side_px), label, np.uint8) for name, label in _VALUES}
    places = list(plan.rows[["x", "y", "side", "label"]].itertuples(index=False))
    for row in _reading_order(plan.rows):
        x, y, side, label = places[row]
        region = Region(x=x, y=y, width=side, height=side)
        image = read_region(plan.slide, region, size)
        mask = masks[label] if plan.whole[row] else annotated(plan.annotations, region, size)
        if inside == "background" or not plan.whole[row]:
            mask = complete_mask(mask, image, white, inside)
        yield CutTile(row=row, image=image, mask=mask)


def cut_slide(entry: CohortSlide, settings: Settings) -> CutSlide:
    """Cut one slide into its tiles, and hold them all in memory.

    Raises
    ------
    SlideError, AnnotationError
        The slide or its outlines cannot be read.
    TileError
        It yields no tile; the message says why.
    """
    plan = plan_slide(entry, settings)
    tiles = sorted(cut_tiles(plan, settings), key=lambda tile: tile.row)
    images, masks = np.stack([tile.image for tile in tiles]), np.stack([tile.mask for tile in tiles])
    rows = plan.with_shares(np.array([shares(mask) for mask in masks]))
    return CutSlide(rows=rows, images=images, masks=masks, mpp=plan.slide.mpp, warnings=plan.annotations.warnings)


_VALUES = tuple((label.key, label) for label in CLASSES)
_STRIPE = 8
"""Tiles across that are read before the next ones: of a wide slide, a reader cannot keep what two whole rows share. On
82 thousand pixels across, read faithfully, it saves a tenth of the time."""


def _reading_order(rows: pd.DataFrame) -> list[int]:
    """Return the rows by stripes of the slide, and in each from left to right and from top to bottom."""
    stripe = rows["x"] // (_STRIPE * rows["side"])
    order: list[int] = np.lexsort((rows["x"], rows["y"], stripe)).tolist()
    return order


def _choose_rows(
    entry: CohortSlide, annotations: Annotations, grid: TileGrid, settings: Settings
) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    """Return the rows of the chosen tiles, and which of these are all of their label."""
    if not grid.rows * grid.columns:
        raise TileError(entry.slide, f"smaller than one tile of {settings.tiles.side_um} um", "Lower tiles.side_um")
    tiles = candidates(annotations, grid, settings.tiles.side_px)
    chosen = choose(tiles, settings.tiles, entry.slide_id, settings.seed)
    if not len(chosen):
        found, wanted = tiles.share.sum(axis=1).max(), settings.tiles.min_annotated
        problem = f"no tile is annotated enough (at most {found:.0%} of a tile, {wanted:.0%} wanted)"
        raise TileError(
            entry.slide, problem, "Check that the outlines belong to this slide, or lower tiles.min_annotated"
        )
    names = [TissueClass(label).key for label in tiles.label[chosen]]
    rows = pd.DataFrame({
        "slide_id": entry.slide_id, "patient_id": entry.patient_id,
        "x": tiles.column[chosen] * grid.side, "y": tiles.row[chosen] * grid.side, "side": grid.side, "label": names,
    })  # fmt: skip
    return rows, tiles.share[chosen].max(axis=1) == 1
