"""From the folders `explanations/` and `checks/` of a run to what its report shows of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vitrail.errors import SlideError
from vitrail.geometry import Region
from vitrail.report.data import Explained
from vitrail.report.select import choose_examples
from vitrail.slides.slide import read_region
from vitrail.tiles.extract import open_cohort_slide
from vitrail.tiles.store import read_tiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitrail.evaluation.results import Evaluation
    from vitrail.slides.cohort import CohortSlide
    from vitrail.stage import Run

PICTURE_PX = 448
"""Side of the tiles' pictures in the report, so that nuclei can be seen whatever the networks saw."""


def collect_explained(run: Run, entries: Mapping[str, CohortSlide], evaluation: Evaluation) -> Explained | None:
    """Gather the explanations of a run and the pictures of the tiles to show; None where it has none.

    A tile is read again from its slide; what was cut from it stands in where the slide cannot be read any more.

    Parameters
    ----------
    run
        The run.
    entries
        Its slides by their names.
    evaluation
        Its numbers. What the classifier says of the explained tiles is taken from its predictions, row by row of the
        tile table, and so is calibrated where these are.
    """
    if (stored := evaluation.explanations) is None:
        return None
    tile_rows, probabilities = stored.rows["tile"], evaluation.predictions["classifier"].to_numpy()
    stored = replace(stored, rows=stored.rows.assign(classifier=probabilities[tile_rows]))
    table, threshold = read_tiles(run.folder / "tiles"), run.settings.evaluation.threshold
    examples = choose_examples(stored, table.rows.iloc[tile_rows], threshold)
    pictures = {}
    for row in examples.all:
        tile = table.rows.iloc[tile_rows.iloc[row]]
        region = Region(x=float(tile["x"]), y=float(tile["y"]), width=float(tile["side"]), height=float(tile["side"]))
        try:
            slide = open_cohort_slide(entries[tile["slide_id"]], run.settings)
            pictures[row] = read_region(slide, region, (PICTURE_PX, PICTURE_PX))
        except (SlideError, KeyError):  # the slide is gone, or no longer in slides.csv
            pictures[row] = np.array(table.images[tile_rows.iloc[row]])
    return Explained(
        stored=stored,
        checked=evaluation.checks,
        threshold=threshold,
        side_um=run.settings.tiles.side_um,
        examples=examples,
        pictures=pictures,
    )
