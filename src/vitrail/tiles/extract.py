"""Cutting one slide: outlines, choice, pixels, masks. Runs in a process of its own, and leaves a part on disk."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import shapely

from vitrail.classes import CLASSES, TissueClass
from vitrail.core.files import read_json, read_table, replacing, write_text
from vitrail.core.threads import map_in_threads
from vitrail.errors import RunError, TileError, VitrailError
from vitrail.geometry import Region
from vitrail.slides.rasterize import covered
from vitrail.slides.slide import open_slide, read_region
from vitrail.slides.stain import stain_of
from vitrail.tiles.grid import inner_grid
from vitrail.tiles.masks import annotated, class_shares, complete_mask
from vitrail.tiles.outlines import cohort_outlines
from vitrail.tiles.sampling import candidates, choose
from vitrail.tiles.store import StoredTiles, writing_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vitrail.core.progress import Progress
    from vitrail.settings.load import Settings
    from vitrail.slides.annotations import Annotations
    from vitrail.slides.cohort import CohortSlide
    from vitrail.slides.slide import Slide

_STRIPE = 8
"""Tiles across that are read before the next ones: of a wide slide, a reader cannot keep what two whole rows share. On
82 thousand pixels across, read faithfully, it saves a tenth of the time."""


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
    uniform
        `[n]`, which tiles are all of their label, so that nothing needs drawing.
    """

    slide: Slide
    annotations: Annotations
    rows: pd.DataFrame
    uniform: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class CutTile:
    """One tile.

    Attributes
    ----------
    row
        Its row in the plan.
    image
        `[side_px, side_px, 3]`, its stain normalised as the slide's `stain` says.
    mask
        `[side_px, side_px]`, values of `TissueClass`.
    """

    row: int
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class CutJob:
    """One slide to be cut.

    Attributes
    ----------
    entry, settings
        Of the study.
    part
        The path of its part, to which suffixes are added.
    seen
        Files that are there where the job was made: another machine must see them, too.
    """

    entry: CohortSlide
    settings: Settings
    part: Path
    seen: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one slide.

    Attributes
    ----------
    mpp
        um per level-0 pixel; NaN where it is not known.
    skipped
        Why the slide gave no tiles; empty where it did.
    warnings
        What was mended on the way, and what could not be, joined by ` | `.
    """

    mpp: float = float("nan")
    skipped: str = ""
    warnings: str = ""


def open_cohort_slide(entry: CohortSlide, settings: Settings) -> Slide:
    """Open a slide of a cohort.

    Parameters
    ----------
    entry
        Its line of slides.csv; an `mpp` there wins over the slide's header.
    settings
        The study's; `slides.mpp` steps in where both are silent.

    Returns
    -------
    Slide
        The slide.

    Raises
    ------
    SlideError
        It cannot be opened, or its pixel size is nowhere given.
    """
    own = settings.slides
    return open_slide(entry.slide, mpp=entry.mpp, fallback_mpp=own.mpp, reading=own.reading, stain=own.stain)


def plan_slide(entry: CohortSlide, settings: Settings) -> TilePlan:
    """Choose the tiles of one slide.

    Parameters
    ----------
    entry
        The slide.
    settings
        The study's.

    Returns
    -------
    TilePlan
        The chosen tiles.

    Raises
    ------
    SlideError, AnnotationError
        The slide or its outlines cannot be read.
    TileError
        It yields no tile; the message says why.
    """
    slide = open_cohort_slide(entry, settings)
    annotations = cohort_outlines(entry, slide, settings)
    grid = inner_grid(slide, settings.tiles.side_um)
    if not grid.rows * grid.columns:
        raise TileError(entry.slide, f"smaller than one tile of {settings.tiles.side_um} um", "Lower tiles.side_um")
    tiles = candidates(annotations, grid, settings.tiles.side_px)
    chosen = choose(tiles, settings.tiles, entry.slide_id, settings.seed)
    if not len(chosen):
        most, least = tiles.share.sum(axis=1).max(), settings.tiles.min_annotated
        problem = f"no tile is annotated enough (at most {most:.0%} of a tile, {least:.0%} wanted)"
        cure = "Check that the outlines belong to this slide, or lower tiles.min_annotated"
        raise TileError(entry.slide, problem, cure)
    labels = [TissueClass(label).key for label in tiles.label[chosen]]
    rows = pd.DataFrame({
        "slide_id": entry.slide_id, "patient_id": entry.patient_id,
        "x": tiles.column[chosen] * grid.side, "y": tiles.row[chosen] * grid.side, "side": grid.side, "label": labels,
    })  # fmt: skip
    if settings.annotations.unlabelled_tissue != "ignore":
        rows["unlabelled"] = (rows["label"] == TissueClass.NON_TUMOR.key) & ~_touched_by_drawn(annotations, rows)
    uniform = tiles.share[chosen].max(axis=1) == 1
    return TilePlan(slide=slide, annotations=annotations, rows=rows, uniform=uniform)


def _touched_by_drawn(annotations: Annotations, rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Tell which tiles touch an outline of non-tumor that somebody drew, `[n]`."""
    drawn = replace(annotations, outlines=tuple(outline for outline in annotations.outlines if outline.drawn))
    left, top, side = (rows[name].to_numpy() for name in ("x", "y", "side"))
    return covered(drawn.non_tumor, shapely.box(left, top, left + side, top + side))[1]


def cut_tiles(plan: TilePlan, settings: Settings) -> Iterator[CutTile]:
    """Yield the pixels and masks of the chosen tiles, one at a time, in an order that is kind to the slide's reader.

    Threads cut them, one a core, a few tiles ahead.

    Parameters
    ----------
    plan
        Which tiles.
    settings
        The study's.

    Yields
    ------
    CutTile
        By stripes of the slide, and in each from left to right and from top to bottom.

    Raises
    ------
    SlideError
        The slide cannot be decoded somewhere.
    """
    side_px, white, inside = settings.tiles.side_px, settings.tiles.white, settings.tiles.white_inside
    size, masks = (side_px, side_px), {label.key: np.full((side_px, side_px), label, np.uint8) for label in CLASSES}
    stain = stain_of(plan.slide)
    squares = list(plan.rows[["x", "y", "side", "label"]].itertuples(index=False))
    stripe = plan.rows["x"] // (_STRIPE * plan.rows["side"])

    def cut(row: int) -> CutTile:
        x, y, side, label = squares[row]
        region = Region(x=x, y=y, width=side, height=side)
        image = read_region(plan.slide, region, size)
        mask = masks[label] if plan.uniform[row] else annotated(plan.annotations, region, size)
        if inside == "background" or not plan.uniform[row]:
            mask = complete_mask(mask, image, white, inside)
        return CutTile(row=row, image=stain.apply(image), mask=mask)  # masks are of what the slide shows

    order = np.lexsort((plan.rows["x"], plan.rows["y"], stripe))
    yield from map_in_threads(cut, order.tolist())


def cut_part(job: CutJob, progress: Progress) -> None:  # noqa: ARG001 - what all jobs are given
    """Cut one slide and leave its part on disk, the record of it last; does nothing where it is there.

    Every tile is written as soon as it is cut. The files are written under names of this process, for a worker that
    outlives its parent, and one that was taken for dead, must spoil nothing.

    Parameters
    ----------
    job
        Which slide, and where to write.
    progress
        Not told: the end of a slide is, where slides are counted.

    Raises
    ------
    RunError
        This machine does not see the slide.
    VitrailError
        The slide cannot be cut, and has left no part; the message names files without their folder, which may hold the
        name of a patient.
    """
    part, side_px = job.part, job.settings.tiles.side_px
    if finished_part(part):
        return
    for path in job.seen:
        if not os.path.exists(path):  # noqa: PTH110 - never raises
            cure = "Put the slides on a file system that all workers share"
            raise RunError(f"worker on {socket.gethostname()}", f"does not see {path}", cure)
    try:
        plan = plan_slide(job.entry, job.settings)
        shares = np.empty((len(plan.rows), len(CLASSES)))
        shape = len(shares), side_px, side_px
        with (
            writing_rows(part.with_suffix(".images.npy"), (*shape, 3)) as write_image,
            writing_rows(part.with_suffix(".masks.npy"), shape) as write_mask,
        ):
            for tile in cut_tiles(plan, job.settings):
                write_image(tile.row, tile.image)
                write_mask(tile.row, tile.mask)
                shares[tile.row] = class_shares(tile.mask)
    except VitrailError as error:
        raise type(error)(Path(error.where).name, error.problem, error.cure) from None
    rows = plan.rows.assign(**{label.key: shares[:, label] for label in CLASSES})
    with replacing(part.with_suffix(".parquet"), shared=True) as temporary:
        rows.to_parquet(temporary)
    warnings = [*plan.annotations.warnings, stain_of(plan.slide).problem]
    outcome = Outcome(mpp=plan.slide.mpp, warnings=" | ".join(filter(None, warnings)))
    write_text(part.with_suffix(".json"), json.dumps(asdict(outcome), indent=1) + "\n", shared=True)


def finished_part(part: Path) -> Outcome | None:
    """Return what became of a slide whose part is there already."""
    record = part.with_suffix(".json")
    return Outcome(**read_json(record)) if record.is_file() else None


def read_part(part: Path) -> StoredTiles:
    """Read a part's rows, and tell where its pixels are."""
    images, masks = (part.with_suffix(f".{name}.npy") for name in ("images", "masks"))
    return StoredTiles(rows=read_table(part.with_suffix(".parquet")), images=images, masks=masks)
