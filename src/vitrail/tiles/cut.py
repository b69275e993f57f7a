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
from vitrail.tiles.choose import candidates, choose
from vitrail.tiles.grid import inner_grid
from vitrail.tiles.labels import annotated, complete_mask, shares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.config import Settings
    from vitrail.slides.annotations import Annotations
    from vitrail.slides.cohort import CohortSlide
    from vitrail.slides.slide import Slide
    from vitrail.tiles.grid import TileGrid


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSlide:
    """The tiles of one slide.

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


def cut_slide(entry: CohortSlide, settings: Settings) -> CutSlide:
    """Cut one slide into its tiles.

    Raises
    ------
    SlideError, AnnotationError
        The slide or its outlines cannot be read.
    TileError
        It yields no tile; the message says why.
    """
    slide = open_cohort_slide(entry, settings)
    annotations = read_annotations(entry.annotations, class_names(settings))
    grid = inner_grid(slide, settings.tiles.side_um)
    rows, whole = _choose_rows(entry, annotations, grid, settings)
    images, masks = _cut_pixels(slide, annotations, (rows, whole), settings)
    rows[[label.key for label in CLASSES]] = shares(masks)
    return CutSlide(rows=rows, images=images, masks=masks, mpp=slide.mpp, warnings=annotations.warnings)


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


def _cut_pixels(
    slide: Slide, annotations: Annotations, tiles: tuple[pd.DataFrame, NDArray[np.bool_]], settings: Settings
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    (rows, whole), side_px, white = tiles, settings.tiles.side_px, settings.tiles.white
    images = np.empty((len(rows), side_px, side_px, 3), np.uint8)
    masks = np.empty((len(rows), side_px, side_px), np.uint8)
    for i, (x, y, side, label) in enumerate(rows[["x", "y", "side", "label"]].itertuples(index=False)):
        region = Region(x=x, y=y, width=side, height=side)
        images[i] = read_region(slide, region, (side_px, side_px))
        if whole[i]:
            masks[i] = TissueClass[label.upper()]
        else:
            masks[i] = complete_mask(annotated(annotations, region, (side_px, side_px)), images[i], white)
    return images, masks
