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

from vitrail.classes import ARTEFACTS
from vitrail.core.files import read_json, write_table, write_text
from vitrail.core.progress import Silent
from vitrail.inference.class_map import ClassMapStats, write_class_map
from vitrail.inference.context import find_ground, mean_colour
from vitrail.inference.explanation_map import write_explained
from vitrail.inference.outputs import MAP_PX, NOT_PREDICTED, MapFiles, SlideMap, save_map
from vitrail.inference.sliding import (
    FlipTTA,
    Plan,
    SlideWork,
    classify_slide,
    plan_segmentation,
    segment_slide,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.core.progress import Progress, Step
    from vitrail.inference.context import SlideContext
    from vitrail.inference.predictor import Predictor
    from vitrail.settings.load import Settings
    from vitrail.slides.slide import Slide
    from vitrail.tiles.grid import TileGrid

    Floats = NDArray[np.float64]


_WINDOW = 2
"""Larger windows than those of the training: fewer pixels lie near an edge, where a network sees least. On 14 slides
twice the side raised the pixel accuracy from 0.76 to 0.78 for the same time; 3 and 4 times gained no more. With
squeeze-and-excitation it fell from 0.74 to 0.72."""

_SAVED_SECONDS = 2.0
"""A killed attempt forgets no more of its time than this and what one part takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """The trained networks to apply; one of them may be missing."""

    classifier: Predictor | None = None
    segmenter: Predictor | None = None

    @property
    def engines(self) -> tuple[Predictor, ...]:
        """Those that are there, the classifier first: its tiles are those of the maps."""
        return tuple(engine for engine in (self.classifier, self.segmenter) if engine)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Work:
    ground: SlideContext
    networks: Networks
    settings: Settings
    folder: Path
    clock: _Clock

    @property
    def window(self) -> int:
        """Side of the segmenter's windows in tiles."""
        engine, wanted = self.networks.segmenter, self.settings.predict.window
        return wanted or (1 if engine is not None and engine.pools_globally else _WINDOW)

    @property
    def explained(self) -> bool:
        """Whether the classifier is to say why."""
        return self.settings.predict.explained and self.networks.classifier is not None

    @property
    def plan(self) -> Plan | None:
        engine, overlap = self.networks.segmenter, self.settings.predict.overlap
        return plan_segmentation(self.ground.slide, engine.spec, overlap, self.window) if engine else None

    def job(self, step: Step) -> SlideWork:
        def timed(n: int = 1) -> None:
            self.clock.spent("networks")
            step(n)

        return SlideWork(slide=self.ground.slide, folder=self.folder, step=timed)


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
    clock, told = _Clock(files.partial / "seconds.json"), progress or Silent()
    ground = find_ground(slide, [engine.spec for engine in networks.engines], settings, told)
    files.partial.mkdir(parents=True, exist_ok=True)
    work = _Work(ground=ground, networks=networks, settings=settings, folder=files.partial, clock=clock)
    clock.spent("tissue")
    tiles = _tiles(work.ground, settings)
    blocks = _classified(work, tiles, told)
    tiles["tumor_probability"] = np.concatenate([np.load(path) for path in blocks]) if blocks else np.nan
    strips = _segmented(work, told)
    counted = _write(work, tiles, strips, files)
    why = _explained(work, tiles, blocks, files)
    clock.spent("writing")
    facts = {"key": files.key} | _facts(work, counted) | {"explained": why} | clock.seconds
    write_text(files.facts, json.dumps(facts, indent=1, allow_nan=False))
    shutil.rmtree(files.partial)


class _Clock:
    """Seconds of each part of the work, on disk every few seconds, so that those of a killed attempt count, too."""

    def __init__(self, path: Path) -> None:
        self._path, self._last, self._saved = path, time.perf_counter(), -math.inf
        self._seconds: dict[str, float] = read_json(path) if path.is_file() else {}

    @property
    def seconds(self) -> dict[str, float]:
        return {f"seconds_{part}": round(seconds, 2) for part, seconds in self._seconds.items()}

    def spent(self, part: str) -> None:
        """Book the time since the last call."""
        now = time.perf_counter()
        self._seconds[part] = self._seconds.get(part, 0) + now - self._last
        self._last = now
        if now - self._saved > _SAVED_SECONDS:
            write_text(self._path, json.dumps(self._seconds))
            self._saved = now


def _tiles(ground: SlideContext, settings: Settings) -> pd.DataFrame:
    """Return the tiles that hold tissue, or all of them where the background is wanted, too."""
    boxes = ground.boxes
    shares = ground.tissue.shares(boxes)
    enough = shares >= settings.predict.min_tissue
    if not enough.any():
        enough = shares == shares.max()  # a crumb of tissue, smaller than a tile
    kept = enough | settings.predict.background
    boxes = boxes[kept]
    return pd.DataFrame({
        "x": boxes[:, 0], "y": boxes[:, 1], "side": ground.grid.side, "tissue": shares[kept],
        "artefact": ground.spoilt(boxes), "clean": ground.clean.shares(boxes),
        **{kind.key: ground.spoilt(boxes, [kind]) for kind in ARTEFACTS}, "background": ~enough[kept],
    })  # fmt: skip


def _classified(work: _Work, tiles: pd.DataFrame, progress: Progress) -> list[Path]:
    engine = work.networks.classifier
    if engine is None:
        return []
    boxes = tiles[["x", "y", "side", "side"]].to_numpy(np.float64)
    with progress.task("classifier", len(tiles)) as step:
        return list(classify_slide(work.job(step), engine, boxes, explained=work.explained))


def _segmented(work: _Work, progress: Progress) -> list[Path]:
    plan, engine, wanted = work.plan, work.networks.segmenter, work.settings.predict
    if engine is None or plan is None:
        return []
    tissue, least = work.ground.tissue, wanted.min_tissue / work.window**2  # as much tissue as in a tile

    def keep(boxes: Floats) -> NDArray[np.bool_]:
        return tissue.shares(boxes) >= least

    total = sum(int(keep(plan.boxes(row)).sum()) for row in range(plan.windows.rows))
    with progress.task("segmenter", total) as step:
        segmenting = FlipTTA(engine) if wanted.mirror else engine
        return list(segment_slide(work.job(step), segmenting, plan, keep))


def _write(work: _Work, tiles: pd.DataFrame, strips: list[Path], files: MapFiles) -> ClassMapStats | None:
    ground, plan, counted = work.ground, work.plan, None
    if plan is not None:
        counted = ClassMapStats(plan, ground)
        write_class_map(files.classes, strips, counted, ground)
        tiles["segmenter"] = counted.tumor_shares(tiles)
    save_map(files.small, _small(ground.grid, tiles, counted))
    if work.networks.classifier is None:
        tiles["tumor_probability"] = tiles["segmenter"]
    write_table(files.tiles, tiles)
    return counted


def _explained(work: _Work, tiles: pd.DataFrame, blocks: list[Path], files: MapFiles) -> dict[str, Any] | None:
    engine = work.networks.classifier
    if engine is None or not work.explained:
        return None
    written = write_explained(files.explained, blocks, tiles, (work.ground, tuple(engine.methods)))
    return {"methods": engine.methods, **written}


def _small(grid: TileGrid, tiles: pd.DataFrame, counted: ClassMapStats | None) -> SlideMap:
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


def _facts(work: _Work, counted: ClassMapStats | None) -> dict[str, Any]:
    ground, slide = work.ground, work.ground.slide
    seams = counted.seams.value if counted else float("nan")
    return {
        "slide": slide.path.name,
        "mpp": slide.mpp,
        "map_mpp": None if work.plan is None else work.plan.downsample * slide.mpp,
        "tissue_mm2": ground.tissue.area_mm2,
        "clean_mm2": ground.clean.area_mm2,
        "artefacts": ground.spoilt_tissue(),
        "glass": ground.tissue.thresholds.glass,
        "colour": mean_colour(ground),
        "pixels": None if counted is None else counted.pixels.tolist(),
        "seam_index": seams if math.isfinite(seams) else None,
    }
