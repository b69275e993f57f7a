"""From the folders `explanations/` and `checks/` of a run to what its report shows of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vitrail.errors import SlideError
from vitrail.geometry import Region
from vitrail.report.data import CloseUp, Explained
from vitrail.report.figures.heatmap import ENLARGED, strongest_place
from vitrail.report.select import choose_examples, closeup_key
from vitrail.slides.slide import read_region
from vitrail.tiles.extract import open_cohort_slide
from vitrail.tiles.store import read_tiles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from vitrail.evaluation.results import Evaluation
    from vitrail.explain.checks.results import Checked
    from vitrail.slides.cohort import CohortSlide
    from vitrail.slides.slide import Slide
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
    show = methods_to_show(getattr(run.settings.explain, "show", ()), evaluation.checks)
    key, pictures, closeups = closeup_key(stored, show), {}, {}
    for row in examples.all:
        tile = table.rows.iloc[tile_rows.iloc[row]]
        side = float(tile["side"])
        saliency = stored.saliency(key, row)
        place = strongest_place(saliency, against=stored.rows["classifier"].iloc[row] < threshold)
        left, top = (at / saliency.frame.image_px[0] for at in place)  # tiles are squares
        try:
            slide = open_cohort_slide(entries[tile["slide_id"]], run.settings)
            pictures[row] = _read_square(slide, float(tile["x"]), float(tile["y"]), side)
            enlarged = _read_square(slide, tile["x"] + left * side, tile["y"] + top * side, ENLARGED * side)
        except (SlideError, KeyError):  # the slide is gone, or no longer in slides.csv
            pictures[row] = np.array(table.images[tile_rows.iloc[row]])
            px = pictures[row].shape[0]
            across, down, length = (round(share * px) for share in (left, top, ENLARGED))
            enlarged = pictures[row][down : down + max(length, 1), across : across + max(length, 1)]
        closeups[row] = CloseUp(left=left, top=top, side=ENLARGED, picture=enlarged)
    return Explained(
        stored=stored,
        checked=evaluation.checks,
        threshold=threshold,
        side_um=run.settings.tiles.side_um,
        examples=examples,
        pictures=pictures,
        closeups=closeups,
        show=show,
    )


def methods_to_show(show: Sequence[str], checked: Checked | None) -> tuple[str, ...]:
    """Return the methods that figures of tiles show beside the paper's.

    Parameters
    ----------
    show
        The setting `explain.show`.
    checked
        What the checks measured, if anybody checked; older ones recommend nothing.

    Returns
    -------
    tuple[str, ...]
        What the setting names; else the recommended ones, those of the classifier first; none where there are none.
    """
    ranked = checked.summary.get("ranking", {}) if checked else {}
    return tuple(show) or tuple(dict.fromkeys(name for each in ranked.values() for name in each["recommended"]))


def _read_square(slide: Slide, left: float, top: float, side: float) -> NDArray[np.uint8]:
    """Read a square of a slide, in level-0 pixels, for the eye; what has too few pixels is enlarged smoothly."""
    px = min(max(round(side), 1), PICTURE_PX)
    picture = read_region(slide, Region(x=left, y=top, width=side, height=side), (px, px))
    return np.asarray(Image.fromarray(picture).resize((PICTURE_PX, PICTURE_PX), Image.Resampling.BICUBIC))
