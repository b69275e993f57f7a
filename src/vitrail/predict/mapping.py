"""Whole slides, from file to maps: tissue, artefacts, both networks.

No threshold enters here: what a tile is called is decided where the maps are published.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.files import write_table, write_text
from vitrail.predict.ground import find_ground, mean_colour
from vitrail.predict.pixels import Counted, write_class_map
from vitrail.predict.slidemap import MAP_PX, NOT_PREDICTED, MapFiles, SlideMap, save_map
from vitrail.predict.wholeslide import Plan, SlideWork, classify_slide, plan_segmentation, segment_slide
from vitrail.progress import Silent

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.config import Settings
    from vitrail.predict.engine import Engine
    from vitrail.predict.ground import Ground
    from vitrail.progress import Progress, Step
    from vitrail.slides.slide import Slide
    from vitrail.tiles.grid import TileGrid

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """The trained networks to apply; one of them may be missing."""

    classifier: Engine | None = None
    segmenter: Engine | None = None

    @property
    def engines(self) -> tuple[Engine, ...]:
        """Those that are there, the classifier first: its tiles are those of the maps."""
        return tuple(engine for engine in (self.classifier, self.segmenter) if engine)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Work:
    ground: Ground
    networks: Networks
    settings: Settings
    folder: Path

    @property
    def plan(self) -> Plan | None:
        engine = self.networks.segmenter
        return plan_segmentation(self.ground.slide, engine.spec, self.settings.predict.overlap) if engine else None

    def job(self, step: Step) -> SlideWork:
        return SlideWork(slide=self.ground.slide, folder=self.folder, step=step)


def map_slide(
    slide: Slide, networks: Networks, settings: Settings, files: MapFiles, progress: Progress | None = None
) -> None:
    """Apply the networks to a whole slide and write what they found; a killed run goes on from its last strip.

    Parameters
    ----------
    slide
        The slide.
    networks
        At least one.
    settings
        The branches `predict`, `tissue` and `artefacts` matter.
    files
        What to write; each is whole or absent, and `facts` comes last.
    progress
        Told how far the work is.

    Raises
    ------
    SlideError
        The slide cannot be read, holds no tissue, is smaller than one tile, or its pixels are too coarse for the
        networks.
    ExchangeError
        A file cannot be written.
    """
    clock, told = _Clock(), progress or Silent()
    ground = find_ground(slide, [engine.spec for engine in networks.engines], settings, told)
    files.partial.mkdir(parents=True, exist_ok=True)
    work = _Work(ground=ground, networks=networks, settings=settings, folder=files.partial)
    clock.lap("tissue")
    tiles = _tiles(work.ground, settings)
    tiles["tumor_probability"] = _classified(work, tiles, told)
    strips = _segmented(work, told)
    clock.lap("networks")
    counted = _write(work, tiles, strips, files)
    clock.lap("writing")
    facts = {"key": files.key} | _facts(work, counted) | clock.seconds
    write_text(files.facts, json.dumps(facts, indent=1, allow_nan=False))
    shutil.rmtree(files.partial)


class _Clock:
    """Seconds of each part of the work."""

    def __init__(self) -> None:
        self.seconds, self._last = dict[str, float](), time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[f"seconds_{name}"] = round(now - self._last, 2)
        self._last = now


def _tiles(ground: Ground, settings: Settings) -> pd.DataFrame:
    """Return the tiles that hold tissue, or all of them where the background is wanted, too."""
    boxes = ground.boxes
    shares = ground.tissue.shares(boxes)
    enough = shares >= settings.predict.min_tissue
    if not enough.any():
        enough = shares == shares.max()  # a crumb of tissue, smaller than a tile
    kept = enough | settings.predict.background
    return pd.DataFrame({
        "x": boxes[kept, 0], "y": boxes[kept, 1], "side": ground.grid.side, "tissue": shares[kept],
        "artefact": ground.spoilt(boxes[kept]), "clean": ground.clean.shares(boxes[kept]),
        "background": ~enough[kept],
    })  # fmt: skip


def _classified(work: _Work, tiles: pd.DataFrame, progress: Progress) -> Floats:
    if work.networks.classifier is None:
        return np.full(len(tiles), np.nan)
    boxes = tiles[["x", "y", "side", "side"]].to_numpy(np.float64)
    with progress.task("classifier", len(tiles)) as step:
        blocks = list(classify_slide(work.job(step), work.networks.classifier, boxes))
    return np.concatenate([np.load(path) for path in blocks])


def _segmented(work: _Work, progress: Progress) -> list[Path]:
    plan = work.plan
    if work.networks.segmenter is None or plan is None:
        return []
    tissue, least = work.ground.tissue, work.settings.predict.min_tissue

    def keep(boxes: Floats) -> NDArray[np.bool_]:
        return tissue.shares(boxes) >= least

    total = sum(int(keep(plan.boxes(row)).sum()) for row in range(plan.windows.rows))
    with progress.task("segmenter", total) as step:
        return list(segment_slide(work.job(step), work.networks.segmenter, plan, keep))


def _write(work: _Work, tiles: pd.DataFrame, strips: list[Path], files: MapFiles) -> Counted | None:
    ground, plan, counted = work.ground, work.plan, None
    if plan is not None:
        counted = Counted(plan, ground)
        write_class_map(files.classes, strips, counted, ground)
        tiles["segmenter"] = counted.tumor_shares(tiles)
    save_map(files.small, _small(ground.grid, tiles, counted))
    if work.networks.classifier is None:
        tiles["tumor_probability"] = tiles["segmenter"]
    write_table(files.tiles, tiles)
    return counted


def _small(grid: TileGrid, tiles: pd.DataFrame, counted: Counted | None) -> SlideMap:
    shape = grid.rows, grid.columns
    classifier, artefacts = np.full(shape, np.nan, np.float32), np.zeros(shape, np.float32)
    background = np.ones(shape, np.bool_)
    rows, columns = ((tiles[axis] / grid.side).round().astype(int) for axis in ("y", "x"))
    classifier[rows, columns], artefacts[rows, columns] = tiles["tumor_probability"], tiles["artefact"]
    background[rows, columns] = tiles["background"]
    empty = np.full((grid.rows * MAP_PX, grid.columns * MAP_PX), NOT_PREDICTED, np.uint8)
    segmenter = empty if counted is None else counted.small
    return SlideMap(
        side=grid.side, classifier=classifier, segmenter=segmenter, artefacts=artefacts, background=background
    )


def _facts(work: _Work, counted: Counted | None) -> dict[str, Any]:
    ground, slide = work.ground, work.ground.slide
    seams = counted.seams.value if counted else float("nan")
    return {
        "slide": slide.path.name,
        "mpp": slide.mpp,
        "map_mpp": None if work.plan is None else work.plan.downsample * slide.mpp,
        "tissue_mm2": ground.tissue.area_mm2,
        "clean_mm2": ground.clean.area_mm2,
        "glass": ground.tissue.thresholds.glass,
        "colour": mean_colour(ground),
        "pixels": None if counted is None else counted.pixels.tolist(),
        "seam_index": seams if math.isfinite(seams) else None,
    }
