"""Whole slides, from file to maps: tissue, artefacts, both networks.

No threshold enters here: what a tile is called is decided where the maps are published.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.classes import ARTEFACTS
from vitrail.core.files import read_json, write_json, write_table, write_text
from vitrail.core.progress import Silent
from vitrail.inference.appearance import slide_distances
from vitrail.inference.class_map import write_class_map, write_uncertainty
from vitrail.inference.context import find_context
from vitrail.inference.explanation_map import write_explained
from vitrail.inference.outputs import MAP_PX, NOT_PREDICTED, MapFiles, SlideMap, save_map, tile_positions
from vitrail.inference.sliding import (
    blend_slide,
    class_layer,
    classify_slide,
    explanation_layer,
    holding,
    plan_explanation,
    plan_segmentation,
)
from vitrail.slides.stain import stain_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.core.progress import Progress, Step
    from vitrail.inference.class_map import ClassMapStats
    from vitrail.inference.context import SlideContext
    from vitrail.inference.predictor import Predictor
    from vitrail.inference.sliding import Plan
    from vitrail.settings.load import Settings
    from vitrail.slides.slide import Slide
    from vitrail.tiles.grid import TileGrid


_WINDOW = 2
"""Larger windows than those of the training: fewer pixels lie near an edge, where a network sees least. On 14 slides
twice the side raised the pixel accuracy from 0.76 to 0.78 for the same time; 3 and 4 times gained no more. With
squeeze-and-excitation it fell from 0.74 to 0.72."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """The trained networks to apply; one of them may be missing.

    Attributes
    ----------
    classifier, segmenter
        The networks.
    explaining
        Gives the classifier that says why, for windows of so many tiles a side; needed with `predict.explained`.
    """

    classifier: Predictor | None = None
    segmenter: Predictor | None = None
    explaining: Callable[[int], Predictor] | None = None

    @property
    def predictors(self) -> tuple[Predictor, ...]:
        """Those that are there, the classifier first: its tiles are those of the maps."""
        return tuple(predictor for predictor in (self.classifier, self.segmenter) if predictor)


def map_slide(
    slide: Slide, networks: Networks, settings: Settings, files: MapFiles, progress: Progress | None = None
) -> None:
    """Apply the networks to a whole slide and write the maps; a killed run goes on from its last strip.

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
    clock, progress = _Clock(files.partial / "seconds.json"), progress or Silent()
    context = find_context(slide, [predictor.spec for predictor in networks.predictors], settings, progress)
    files.partial.mkdir(parents=True, exist_ok=True)
    clock.spent("tissue")
    tiles, classifier = _tissue_tiles(context, settings), networks.classifier
    tiles["tumor_probability"] = np.nan
    for predictor in networks.predictors:
        predictor.expect(len(tiles))
    if classifier is not None:
        said = _classified(slide, classifier, tiles, settings, files.partial, clock=clock, progress=progress)
        tiles["tumor_probability"] = said[:, 0]
        if said.shape[1] > 1:
            tiles["classifier_spread"] = said[:, 1]
    class_plan = stats = None
    if networks.segmenter is not None:
        class_plan, stats, strips = _segmented(context, networks.segmenter, settings, files, clock, progress)
        tiles["segmenter"] = stats.tumor_shares(tiles)
        if _is_uncertain(networks.segmenter, settings):
            tiles["segmenter_spread"] = write_uncertainty(files.uncertainty, strips, class_plan, context).means(tiles)
    save_map(files.small, _small_map(context.grid, tiles, stats))
    if classifier is None:
        tiles["tumor_probability"] = tiles["segmenter"]
    write_table(files.tiles, tiles)
    facts = {"key": files.key} | _facts(context, class_plan, stats) | {"explained": None}
    facts["appearance"] = slide_distances(slide, [each.spec for each in networks.predictors], tiles)
    clock.spent("writing")
    if settings.predict.explained and classifier is not None and networks.explaining is not None:
        plan = plan_explanation(context.grid, classifier.spec)
        predictor = networks.explaining(plan.windows.side // MAP_PX)
        facts["explained"] = _explain(context, predictor, plan, tiles, files, clock=clock, progress=progress)
        if classifier.spec.represented:
            facts["explained"]["network"] = classifier.spec.represented
        clock.spent("writing")
    facts |= {f"seconds_{part}": round(seconds, 2) for part, seconds in clock.seconds.items()}
    write_text(files.facts, json.dumps(facts, indent=1, allow_nan=False))
    shutil.rmtree(files.partial, ignore_errors=True)  # another may be at it who was taken for dead


class _Clock:
    """Seconds of each part of the work, on disk every few seconds, so that those of a killed attempt count, too."""

    def __init__(self, path: Path) -> None:
        self._path, self._last, self._saved = path, time.perf_counter(), -math.inf
        self.seconds: dict[str, float] = read_json(path) if path.is_file() else {}

    def spent(self, part: str) -> None:
        """Book the time since the last call."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0) + now - self._last
        self._last = now
        if now - self._saved > 2:  # a killed attempt forgets no more than this and what one part takes
            write_json(self._path, self.seconds)
            self._saved = now

    def timed(self, step: Step) -> Step:
        """Return a step that also books its time, as the networks'."""

        def timed(n: int = 1) -> None:
            self.spent("networks")
            step(n)

        return timed


def _tissue_tiles(context: SlideContext, settings: Settings) -> pd.DataFrame:
    """Return the tiles that hold tissue, or all of them where the background is wanted, too."""
    boxes = context.boxes
    shares = context.tissue.shares(boxes)
    enough = shares >= settings.predict.min_tissue
    if not enough.any():
        enough = shares == shares.max()  # a crumb of tissue, smaller than a tile
    chosen = enough | settings.predict.background
    boxes = boxes[chosen]
    return pd.DataFrame({
        "x": boxes[:, 0], "y": boxes[:, 1], "side": context.grid.side, "tissue": shares[chosen],
        "artefact": context.artefact_shares(boxes), "clean": context.clean.shares(boxes),
        **{kind.key: context.artefact_shares(boxes, [kind]) for kind in ARTEFACTS}, "background": ~enough[chosen],
    })  # fmt: skip


def _is_uncertain(network: Predictor, settings: Settings) -> bool:
    """Tell whether it is asked how far answers differ, and there is more than one."""
    return settings.predict.uncertainty and network.looks > 1


def _classified(
    slide: Slide,
    classifier: Predictor,
    tiles: pd.DataFrame,
    settings: Settings,
    folder: Path,
    *,
    clock: _Clock,
    progress: Progress,
) -> NDArray[np.float64]:
    """Classify the tiles of a slide: the probability of tumor, and its spread where that is wanted, `[n, 1 or 2]`."""
    boxes, uncertain = tiles[["x", "y", "side", "side"]].to_numpy(np.float64), _is_uncertain(classifier, settings)
    with progress.task("classifier", len(tiles)) as step:
        timed = clock.timed(step)
        blocks = list(classify_slide(slide, classifier, boxes, folder, timed, uncertain=uncertain))
    return np.concatenate([np.load(path) for path in blocks]).reshape(len(tiles), -1)


def _segmented(
    context: SlideContext, segmenter: Predictor, settings: Settings, files: MapFiles, clock: _Clock, progress: Progress
) -> tuple[Plan, ClassMapStats, list[Path]]:
    """Segment a slide and write the map meanwhile; return its plan, what was counted, and the files of its strips."""
    window = settings.predict.window or (1 if segmenter.pools_globally else _WINDOW)
    plan = plan_segmentation(context.slide, segmenter.spec, settings.predict.overlap, window)
    least = settings.predict.min_tissue / window**2  # as much tissue as in a tile

    def keep(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
        return context.tissue.shares(boxes) >= least

    total = sum(int(keep(plan.boxes(row)).sum()) for row in range(plan.windows.rows))
    with progress.task("segmenter", total) as step:
        mirrored = settings.predict.test_time_augmentation and settings.predict.symmetries == 1
        uncertain = _is_uncertain(segmenter, settings)
        layer = class_layer(segmenter, mirrored=mirrored, uncertain=uncertain)
        finished: list[Path] = []
        with closing(blend_slide(context.slide, layer, plan, keep, files.partial, clock.timed(step))) as strips:
            stats = write_class_map(files.classes, _noted(strips, finished), plan, context)
    return plan, stats, finished


def _noted(paths: Iterable[Path], finished: list[Path]) -> Iterator[Path]:
    """Yield paths, and note them."""
    for path in paths:
        finished.append(path)
        yield path


def _explain(
    context: SlideContext,
    explaining: Predictor,
    plan: Plan,
    tiles: pd.DataFrame,
    files: MapFiles,
    *,
    clock: _Clock,
    progress: Progress,
) -> dict[str, Any]:
    """Explain a slide's tiles on windows of several of them, and write the map; return the facts of it."""
    grid = context.grid
    occupied = np.zeros((grid.rows, grid.columns), np.bool_)
    occupied[tile_positions(tiles)] = True

    keep = holding(occupied, grid)
    total = sum(int(keep(plan.boxes(row)).sum()) for row in range(plan.windows.rows))
    with progress.task("explanations", total) as step:
        layer = explanation_layer(explaining)
        with closing(blend_slide(context.slide, layer, plan, keep, files.partial, clock.timed(step))) as strips:
            measured = write_explained(files.explained, strips, occupied, plan.windows, context, explaining.channels)
    side = plan.windows.side // MAP_PX
    explains = f"windows of {side} x {side} tiles" if side > 1 else "windows of one tile"
    return {"methods": explaining.methods, "explains": explains, "windows": total, **measured}


def _small_map(grid: TileGrid, tiles: pd.DataFrame, stats: ClassMapStats | None) -> SlideMap:
    shape = grid.rows, grid.columns
    classifier, artefacts = np.full(shape, np.nan, np.float32), np.zeros(shape, np.float32)
    background = np.ones(shape, np.bool_)
    rows, columns = tile_positions(tiles)
    classifier[rows, columns], artefacts[rows, columns] = tiles["tumor_probability"], tiles["artefact"]
    background[rows, columns] = tiles["background"]
    empty = np.full((grid.rows * MAP_PX, grid.columns * MAP_PX), NOT_PREDICTED, np.uint8)
    segmenter = empty if stats is None else stats.small
    return SlideMap(
        side=grid.side, classifier=classifier, segmenter=segmenter, artefacts=artefacts, background=background
    )


def _facts(context: SlideContext, plan: Plan | None, stats: ClassMapStats | None) -> dict[str, Any]:
    seams = math.nan if stats is None else stats.seams.value
    return {
        "slide": context.slide.path.name,
        "mpp": context.slide.mpp,
        "map_mpp": None if plan is None else plan.downsample * context.slide.mpp,
        "tissue_mm2": context.tissue.area_mm2,
        "clean_mm2": context.clean.area_mm2,
        "artefacts": context.artefact_shares_of_tissue(),
        "glass": context.tissue.thresholds.glass,
        "colour": context.mean_colour(),
        "stain": stain_of(context.slide).problem,
        "pixels": None if stats is None else stats.pixels.tolist(),
        "seam_index": seams if math.isfinite(seams) else None,
    }
