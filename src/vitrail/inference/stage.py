"""The predictions of a study: every tile of every split, and whole maps of some test slides."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np

from vitrail.classes import TASKS, TissueClass
from vitrail.core.files import write_table, write_text
from vitrail.errors import SlideError
from vitrail.inference.map_slide import Networks, map_slide
from vitrail.inference.outputs import LEFT_OUT, MapFiles
from vitrail.inference.predictor import Predictor, explaining_predictors
from vitrail.inference.tiles import predict_tiles
from vitrail.models.device import keep_memory, reproducible
from vitrail.models.folds import unseen_by
from vitrail.models.store import load_model
from vitrail.tiles.extract import open_cohort_slide
from vitrail.tiles.split import read_split
from vitrail.tiles.store import read_tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pandas as pd
    from numpy.typing import NDArray

    from vitrail.inference.predictor import Explaining
    from vitrail.slides.cohort import CohortSlide
    from vitrail.stage import Work


def predict_study(
    work: Work, entries: tuple[CohortSlide, ...], explaining: Callable[..., Explaining] | None = None
) -> None:
    """Write `tiles.parquet`, one row a tile of every split, and the maps of some test slides in `maps/`.

    Of an ensemble, tiles of training and validation are predicted by the one member that has not seen their patient.
    A slide that cannot be mapped does not end the work: `maps/left_out.json` holds the reasons by slide.

    Parameters
    ----------
    work
        A run whose tiles, split, classifier and segmenter are finished, and where to write.
    entries
        Its slides.
    explaining
        Takes the run's classifier, and `tiles`, and makes it say why on windows of so many a side; needed where the
        settings want that.
    """
    keep_memory()
    folder, settings = work.run.folder, work.run.settings
    tiles = read_tiles(folder / "tiles")
    predictors = {task: Predictor.of_settings(load_model(folder / task), settings, images=len(tiles)) for task in TASKS}
    classifier, segmenter = (predictors[task] for task in TASKS)
    why = explaining and explaining_predictors(folder / "classifier", settings, explaining)
    networks = Networks(classifier=classifier, segmenter=segmenter, explaining=why)
    with reproducible(classifier.device, settings.seed):
        split = read_split(folder / "split", tiles.rows)
        unseen = {
            task: unseen_by(folder / task, tiles.rows["patient_id"], predictors[task].spec.members) for task in TASKS
        }
        rows = predict_tiles(tiles, predictors, unseen, work.folder / "blocks", work.progress)
        rows["split"] = split
        rows["out_of_fold"] = out_of_fold(split, [(unseen[task], predictors[task].spec.members) for task in TASKS])
        write_table(work.folder / "tiles.parquet", rows)
        chosen = slides_to_map(rows, settings.predict.slides)
        map_slides([entry for entry in entries if entry.slide_id in chosen], networks, work)
    shutil.rmtree(work.folder / "blocks")


def out_of_fold(split: NDArray[np.str_], asked: Iterable[tuple[NDArray[np.int64], int]]) -> NDArray[np.bool_]:
    """Tell which tiles were predicted by networks none of which was trained on their patient.

    Parameters
    ----------
    split
        Of each tile, `[n]`.
    asked
        For each network the member that was asked, `[n]`, -1 for all; and how many members it has.

    Returns
    -------
    NDArray[np.bool_]
        `[n]`: all test tiles; those of validation, of a single network; and all of which the one member was asked that
        has not seen their patient.
    """
    result = np.ones(len(split), np.bool_)
    for member, members in asked:
        result &= (split == "test") | (member >= 0) | ((split == "validation") & (members == 1))
    return result


def slides_to_map(rows: pd.DataFrame, count: int) -> list[str]:
    """Pick test slides from the classifier's best to its worst, evenly spread, by mean absolute error.

    Slides that hold both classes come first: on the others a map has one colour to get right. No threshold enters, so
    that a change of it moves no map.

    Parameters
    ----------
    rows
        The predictions of all tiles.
    count
        How many slides, where there are as many.

    Returns
    -------
    list[str]
        Identifiers of slides.
    """
    test = rows[rows["split"] == "test"]
    truth = (test["label"] == TissueClass.TUMOR.key).astype(float)
    errors = (test["classifier"] - truth).abs().groupby(test["slide_id"], sort=True).mean()
    mixed = truth.groupby(test["slide_id"], sort=True).mean().between(0, 1, inclusive="neither")
    ranked = errors[mixed] if mixed.sum() >= count else errors
    ranked = ranked.sort_values(kind="stable")
    ranks = np.unique(np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int))
    return [str(name) for name in ranked.index[ranks]]


def map_slides(entries: list[CohortSlide], networks: Networks, work: Work) -> None:
    """Map slides of a study, see `map_slide`; one that cannot be mapped does not end the work.

    Parameters
    ----------
    entries
        The slides.
    networks
        At least one.
    work
        Where to write: `maps/`, with the reasons for slides that are left out.
    """
    maps, left_out = work.folder / "maps", dict[str, str]()
    maps.mkdir(exist_ok=True)
    for entry in entries:
        files = MapFiles(base=maps / entry.slide_id)
        if files.facts.is_file():
            continue
        work.progress.say(f"{entry.slide_id} as a whole")
        try:
            slide = open_cohort_slide(entry, work.run.settings)
            map_slide(slide, networks, work.run.settings, files, work.progress)
        except SlideError as error:
            left_out[entry.slide_id] = str(error)
            work.progress.say(f"{entry.slide_id} is not mapped: {error}")
    shutil.rmtree(maps / ".partial", ignore_errors=True)
    write_text(maps / LEFT_OUT, json.dumps(left_out, indent=1))
