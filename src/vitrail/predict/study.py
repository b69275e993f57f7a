"""The predictions of a study: every tile of every split, and whole maps of some test slides."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np

from vitrail.classes import TissueClass
from vitrail.models.device import keep_memory, pick_device, reproducible
from vitrail.models.store import load_model
from vitrail.predict.engine import Engine
from vitrail.predict.slidemap import save_map
from vitrail.predict.slidewise import predict_slide
from vitrail.predict.tilewise import predict_tiles
from vitrail.tiles.cut import open_cohort_slide
from vitrail.tiles.grid import covering_grid
from vitrail.tiles.split import read_split
from vitrail.tiles.table import read_tiles

if TYPE_CHECKING:
    import pandas as pd

    from vitrail.slides.cohort import CohortSlide
    from vitrail.stage import Work


def predict_study(work: Work, entries: tuple[CohortSlide, ...]) -> None:
    """Write `tiles.parquet`, one row a tile of every split, and `maps/<slide_id>.npz` of some test slides."""
    keep_memory()
    folder, settings = work.run.folder, work.run.settings
    device = pick_device(settings.compute.device)
    engines = (Engine(load_model(folder / "classifier"), device), Engine(load_model(folder / "segmenter"), device))
    tiles = read_tiles(folder / "tiles")
    with reproducible(device, settings.seed):
        rows = predict_tiles(tiles, engines, work.folder / "blocks", work.progress)
        rows["split"] = read_split(folder / "split", rows)
        rows.to_parquet(work.folder / "tiles.parquet")
        chosen = slides_to_map(rows, settings.predict.slides)
        _map_slides([entry for entry in entries if entry.slide_id in chosen], engines, work)
    shutil.rmtree(work.folder / "blocks")


def slides_to_map(rows: pd.DataFrame, count: int) -> list[str]:
    """Pick test slides from the classifier's best to its worst, evenly spread, by mean absolute error.

    Slides that hold both classes come first: on the others a map has one colour to get right. No threshold enters, so
    that a change of it moves no map.
    """
    test = rows[rows["split"] == "test"]
    truth = (test["label"] == TissueClass.TUMOR.key).astype(float)
    errors = (test["classifier"] - truth).abs().groupby(test["slide_id"], sort=True).mean()
    mixed = truth.groupby(test["slide_id"], sort=True).mean().between(0, 1, inclusive="neither")
    ranked = errors[mixed] if mixed.sum() >= count else errors
    ranked = ranked.sort_values(kind="stable")
    places = np.unique(np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int))
    return [str(name) for name in ranked.index[places]]


def _map_slides(entries: list[CohortSlide], engines: tuple[Engine, Engine], work: Work) -> None:
    settings, maps = work.run.settings, work.folder / "maps"
    maps.mkdir(exist_ok=True)
    opened = {entry.slide_id: open_cohort_slide(entry, settings) for entry in entries}
    rows = {name: covering_grid(slide, settings.tiles.side_um).rows for name, slide in opened.items()}
    with work.progress.task("maps", sum(rows.values())) as step:
        for name, slide in opened.items():
            path = maps / f"{name}.npz"
            if path.is_file():
                step(rows[name])
            else:
                save_map(path, predict_slide(slide, engines, settings.tiles.white, step))
