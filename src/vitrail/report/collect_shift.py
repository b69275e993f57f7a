"""From the folder `shift/` of a run to what its report shows of it: tiles of far slides, a tile with every shift."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vitrail.classes import TissueClass
from vitrail.quality.appearance import spread_out
from vitrail.report.data import ShownShift
from vitrail.shift.simulate import SHIFTS, UNCHANGED, shifted
from vitrail.tiles.store import read_tiles, tiles_of

if TYPE_CHECKING:
    import pandas as pd

    from vitrail.evaluation.results import Evaluation
    from vitrail.stage import Run

FARTHEST, TILES = 4, 4
"""Test slides that are shown, at most, and tiles of each."""


def collect_shift(run: Run, evaluation: Evaluation) -> ShownShift | None:
    """Gather what a report shows of slides of other hospitals; None where nobody has asked.

    Parameters
    ----------
    run
        The run.
    evaluation
        Its numbers.

    Returns
    -------
    ShownShift | None
        With pictures.

    Raises
    ------
    RunError
        The tiles are missing.
    """
    study = evaluation.shift
    if study is None:
        return None
    table, pictures = read_tiles(run.folder / "tiles"), {}
    for name in slides_to_show(study.slides):
        own = tiles_of(table, name)
        pictures[name] = np.asarray(own.images[spread_out(len(own), TILES)])
    settings, changed = run.settings.tiles, {}
    plain = study.simulated[study.simulated["family"] == UNCHANGED.family]
    if len(plain):
        tumor = plain[plain["label"] == TissueClass.TUMOR.key]
        among = tumor if len(tumor) else plain
        scores = among["classifier"].to_numpy(np.float64)
        middle = int(np.abs(scores - np.median(scores)).argmin())  # neither the surest nor the most doubtful
        image = np.asarray(table.images[[int(among["tile"].iloc[middle])]])
        um_per_px = settings.side_um / settings.side_px
        changed = {shift.name: shifted(image, shift, um_per_px)[0] for shift in (UNCHANGED, *SHIFTS)}
    return ShownShift(
        study=study,
        metrics=evaluation.metrics["shift"],
        side_um=settings.side_um,
        pictures=pictures,
        changed=changed,
    )


def slides_to_show(slides: pd.DataFrame) -> list[str]:
    """Return the names of the training slide in the middle of all, and of the test slides that lie farthest.

    Parameters
    ----------
    slides
        As `ShiftStudy.slides`.

    Returns
    -------
    list[str]
        The training slide first; none where distances are not known.
    """
    known = slides.dropna(subset=["distance"])
    trained = known[known["split"] == "train"].sort_values(["distance", "slide_id"], kind="stable")
    test = known[known["split"] == "test"].sort_values(["distance", "slide_id"], ascending=[False, True], kind="stable")
    return [*trained["slide_id"].head(1), *test["slide_id"].head(FARTHEST)]
