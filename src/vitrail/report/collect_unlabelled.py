"""Slides whose tissue outside the outlines counted as non-tumor, and where networks call it tumor."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import shapely

from vitrail.classes import LABELS, TissueClass
from vitrail.errors import VitrailError
from vitrail.evaluation.unlabelled import COLUMN, outside_table, outside_tiles
from vitrail.geometry import Region
from vitrail.report.data import OutsidePlace, OutsideSlide
from vitrail.report.figures.slide_maps import THUMBNAIL_PX
from vitrail.report.outlines import area_rings, outline_rings
from vitrail.slides.slide import read_region, read_thumbnail
from vitrail.tiles.extract import open_cohort_slide
from vitrail.tiles.outlines import cohort_outlines

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from vitrail.evaluation.results import Evaluation
    from vitrail.slides.cohort import CohortSlide
    from vitrail.slides.slide import Slide
    from vitrail.stage import Run

MOST, LEAST, PLACES = 4, 2, 4
"""Slides that are shown, at most, and though networks call no tile of theirs tumor; and tiles of each."""

AROUND = 3.0
"""Side of a picture, in sides of the tile in its middle."""

PICTURE_PX = 448


def collect_outside(run: Run, entries: Mapping[str, CohortSlide], evaluation: Evaluation) -> tuple[OutsideSlide, ...]:
    """Gather the slides of which networks call most tumor outside the outlines.

    Parameters
    ----------
    run
        The run.
    entries
        Its slides by their names.
    evaluation
        Its numbers.

    Returns
    -------
    tuple[OutsideSlide, ...]
        At most `MOST`, of those that networks were asked about which had not seen the patient; a slide that cannot be
        read any more is left out. None where tissue outside the outlines does not count.
    """
    if COLUMN not in evaluation.predictions or run.settings.annotations.unlabelled_tissue == "ignore":
        return ()
    threshold = run.settings.evaluation.threshold
    table, tiles = outside_table(evaluation.predictions, threshold), outside_tiles(evaluation.predictions, threshold)
    shown = list[OutsideSlide]()
    for name, called in table.loc[table["asked"] > 0, ["slide_id", "called"]].itertuples(index=False):
        if len(shown) >= (MOST if called else LEAST):
            break
        try:
            shown.append(_outside(run, entries[name], tiles[tiles["slide_id"] == name]))
        except (VitrailError, KeyError):  # the slide or its outlines are gone
            continue
    return tuple(shown)


def _outside(run: Run, entry: CohortSlide, tiles: pd.DataFrame) -> OutsideSlide:
    slide = open_cohort_slide(entry, run.settings)
    outlines = cohort_outlines(entry, slide, run.settings)
    drawn = replace(outlines, outlines=tuple(each for each in outlines.outlines if each.drawn))
    taken = shapely.union_all([each.geometry for each in outlines.outlines if not each.drawn])
    margin = run.settings.annotations.margin_um / slide.mpp
    scale = THUMBNAIL_PX / max(slide.region.width, slide.region.height)
    squares = tiles[["x", "y", "side"]].to_numpy(np.float64)
    around = drawn.tumor.buffer(margin).intersection(shapely.box(0, 0, slide.region.width, slide.region.height))
    rings = outline_rings(drawn, scale)
    return OutsideSlide(
        slide_id=entry.slide_id,
        patient_id=entry.patient_id,
        asked=len(tiles),
        called=int(tiles["called"].sum()),
        taken_mm2=float(taken.area) * slide.mpp**2 / 1e6,
        thumbnail=read_thumbnail(slide, THUMBNAIL_PX),
        width_um=slide.region.width * slide.mpp,
        outlines={label: rings[label] for label in LABELS if label is TissueClass.TUMOR or rings[label]},
        margin=area_rings(around, scale),
        taken=area_rings(taken, scale),
        squares=squares * scale,
        places=tuple(_place(slide, tiles.iloc[number], scale) for number in apart(squares, PLACES)),
    )


def apart(squares: np.ndarray[tuple[int, ...], np.dtype[np.float64]], most: int) -> list[int]:
    """Choose the first squares that are no neighbours of one another, and then others.

    Parameters
    ----------
    squares
        `[n, 3]`: left, top, side; the most important first.
    most
        How many.

    Returns
    -------
    list[int]
        Their positions, ascending.
    """
    chosen = list[int]()
    for number, (left, top, side) in enumerate(squares):
        reach = np.abs(squares[chosen, :2] - (left, top)).max(axis=1, initial=0) if chosen else np.array([np.inf])
        if reach.min() >= (AROUND - 1) * side:
            chosen.append(number)
    rest = [number for number in range(len(squares)) if number not in chosen]
    return sorted([*chosen, *rest][:most])


def _place(slide: Slide, tile: pd.Series, scale: float) -> OutsidePlace:
    side, margin = float(tile["side"]), (1 - 1 / AROUND) / 2
    width, x, y = AROUND * side, float(tile["x"]), float(tile["y"])
    px = min(max(round(width), 1), PICTURE_PX)
    region = Region(x=x - margin * width, y=y - margin * width, width=width, height=width)
    return OutsidePlace(
        classifier=float(tile["classifier"]),
        segmenter=float(tile["segmenter"]),
        picture=read_region(slide, region, (px, px)),
        width_um=width * slide.mpp,
        frame=(margin, margin, 1 / AROUND),
        at=(x * scale, y * scale, side * scale),
    )
