"""The tiles whose label both networks contradict most, read from their slides with what lies around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vitrail.classes import TissueClass
from vitrail.errors import VitrailError
from vitrail.evaluation.labels import label_issues
from vitrail.geometry import Region
from vitrail.report.data import DoubtedTile
from vitrail.report.outlines import outline_rings
from vitrail.slides.slide import read_region
from vitrail.tiles.extract import open_cohort_slide
from vitrail.tiles.outlines import cohort_outlines
from vitrail.tiles.store import read_tiles

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from vitrail.evaluation.results import Evaluation
    from vitrail.slides.cohort import CohortSlide
    from vitrail.stage import Run

MOST = 12
"""Tiles that are shown."""

AROUND = 2.0
"""Side of a picture, in sides of the tile in its middle."""

PICTURE_PX = 448


def collect_doubted(run: Run, entries: Mapping[str, CohortSlide], evaluation: Evaluation) -> tuple[DoubtedTile, ...]:
    """Gather the tiles whose label both networks contradict most, with their surroundings and outlines.

    What was cut from a slide stands in, without surroundings and outlines, where these cannot be read any more.

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
    tuple[DoubtedTile, ...]
        At most `MOST`, those first that are contradicted most; none without test tiles.
    """
    if evaluation.certainty is None:
        return ()
    issues = label_issues(evaluation.predictions).head(MOST).to_dict("records")
    return tuple(_doubted(run, entries, issue) for issue in issues)


def _doubted(run: Run, entries: Mapping[str, CohortSlide], issue: Mapping[Any, Any]) -> DoubtedTile:
    side, margin = float(issue["side"]), (1 - 1 / AROUND) / 2
    width = AROUND * side
    corner = float(issue["x"]) - margin * width, float(issue["y"]) - margin * width
    outlines: dict[TissueClass, Any] = {}
    try:
        entry = entries[str(issue["slide_id"])]
        px = min(max(round(width), 1), PICTURE_PX)
        region = Region(x=corner[0], y=corner[1], width=width, height=width)
        slide = open_cohort_slide(entry, run.settings)
        picture = read_region(slide, region, (px, px))
        outlines = outline_rings(cohort_outlines(entry, slide, run.settings), 1 / width, corner)
        around, frame = AROUND, (margin, margin, 1 / AROUND)
    except (VitrailError, KeyError):  # the slide is gone, or no longer in slides.csv
        picture = np.array(read_tiles(run.folder / "tiles").images[int(issue["row"])])
        around, frame = 1.0, (0.0, 0.0, 1.0)
    return DoubtedTile(
        slide_id=str(issue["slide_id"]),
        patient_id=str(issue["patient_id"]),
        label=TissueClass[str(issue["label"]).upper()],
        classifier=float(issue["classifier"]),
        segmenter=float(issue["segmenter"]),
        annotated=float(issue["annotated"]),
        picture=picture,
        width_um=around * run.settings.tiles.side_um,
        frame=frame,
        outlines=outlines,
    )
