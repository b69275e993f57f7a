"""From the folders `explanations/` and `checks/` of a run to what its report shows of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vitrail.errors import SlideError
from vitrail.explain.checks.results import open_checked
from vitrail.explain.study.store import open_stored
from vitrail.geometry import Region
from vitrail.report.data import Explained
from vitrail.report.select import choose_examples
from vitrail.slides.slide import read_region
from vitrail.tiles.extract import open_cohort_slide
from vitrail.tiles.store import read_tiles

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from vitrail.slides.cohort import CohortSlide
    from vitrail.stage import Run
    from vitrail.tiles.store import TileTable

PICTURE_PX = 448
"""Side of the tiles' pictures in the report, so that nuclei can be seen whatever the networks saw."""


def collect_explained(run: Run, entries: tuple[CohortSlide, ...], predictions: pd.DataFrame) -> Explained | None:
    """Gather the explanations of a run and the pictures of the tiles to show; None where it has none.

    What the classifier says of a tile is taken from the predictions, row by row of the tile table: calibrated where
    these are.

    Raises
    ------
    RunError
        A folder is there but not whole.
    """
    if not _finished(run.folder / "explanations"):
        return None
    stored = open_stored(run.folder / "explanations")
    said = predictions["classifier"].to_numpy()[stored.rows["tile"]]
    stored = replace(stored, rows=stored.rows.assign(classifier=said))
    table, threshold = read_tiles(run.folder / "tiles"), run.settings.evaluation.threshold
    examples = choose_examples(stored, table.rows.iloc[stored.rows["tile"]], threshold)
    slides = {entry.slide_id: entry for entry in entries}
    tiles = {row: int(stored.rows["tile"].iloc[row]) for row in examples.all}
    return Explained(
        stored=stored,
        checked=open_checked(run.folder / "checks") if _finished(run.folder / "checks") else None,
        threshold=threshold,
        side_um=run.settings.tiles.side_um,
        examples=examples,
        pictures={row: _picture(run, table, slides, tile) for row, tile in tiles.items()},
    )


def _finished(folder: Path) -> bool:
    return (folder / "summary.json").is_file()


def _picture(run: Run, table: TileTable, slides: dict[str, CohortSlide], tile: int) -> NDArray[np.uint8]:
    """Read a tile again from its slide; what was cut from it stands in where the slide cannot be read any more."""
    row = table.rows.iloc[tile]
    region = Region(x=float(row["x"]), y=float(row["y"]), width=float(row["side"]), height=float(row["side"]))
    try:
        return read_region(open_cohort_slide(slides[row["slide_id"]], run.settings), region, (PICTURE_PX, PICTURE_PX))
    except (SlideError, KeyError):  # the slide is gone, or no longer in slides.csv
        return np.array(table.images[tile])
