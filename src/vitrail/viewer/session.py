"""What a viewer shows: the slides of a run, of a folder or of the command line, each with the maps that lie over it."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.classes import ARTEFACT_CLASS, CLASSES, SPLITS, TASKS
from vitrail.core.files import read_json, read_table
from vitrail.errors import RunError, SettingsError, SlideError, VitrailError
from vitrail.explain.methods.base import METHODS
from vitrail.explain.study.store import SUMMARY, Stored, open_stored, split_key
from vitrail.inference.outputs import MapFiles, load_map, tile_positions
from vitrail.interop.class_map import read_class_map
from vitrail.review.corrections import NAMES, save_correction, versions
from vitrail.settings.load import Settings
from vitrail.slides.annotations import read_annotations
from vitrail.slides.cohort import read_cohort
from vitrail.slides.names import is_slide_name
from vitrail.slides.outlines.geojson import annotation
from vitrail.slides.slide import open_slide
from vitrail.stage import open_run
from vitrail.tiles.outlines import class_names
from vitrail.tiles.split import split_of
from vitrail.tiles.unlabelled import with_unlabelled
from vitrail.viewer.nuclei import nuclei_rasters
from vitrail.viewer.pyramid import slide_sizes
from vitrail.viewer.rasters import NOTHING, Raster, array_raster, limits_of, map_raster

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from shapely import MultiPolygon, Polygon

    from vitrail.classes import Task
    from vitrail.slides.annotations import ClassNames
    from vitrail.slides.slide import Slide
    from vitrail.viewer.rasters import RasterKind

MOST_MOSAIC_PX = 1 << 24
"""Of a map of one kind that tiles' maps are put together to: 64 MiB."""

_SPREAD = (0.0, 0.5)
"""Between which the standard deviation of a probability lies."""

_RASTERS = 16  # slides whose maps are kept in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewedSlide:
    """A slide, and where all that belongs to it lies.

    Attributes
    ----------
    id
        What addresses call it; it follows from the name alone, so that links last.
    name
        Its `slide_id`, or the name of its file.
    path
        The file; it never leaves this process.
    mpp, fallback_mpp
        As of `open_slide`.
    annotations
        Its outlines, or None.
    maps
        Where its maps lie, or None.
    nuclei
        Where the table of its nuclei would lie, or None.
    facts
        What the wall shows: patient, split, attributes, truth, scores.
    """

    id: str
    name: str
    path: Path
    mpp: float | None = None
    fallback_mpp: float | None = None
    annotations: Path | None = None
    maps: MapFiles | None = None
    nuclei: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def open(self) -> Slide:
        """Read the slide's header.

        Raises
        ------
        SlideError
            It cannot be opened.
        """
        changed_ns = self.path.stat().st_mtime_ns if self.path.is_file() else 0
        return _open(self.path, self.mpp, self.fallback_mpp, changed_ns)


@lru_cache(maxsize=4096)
def _open(path: Path, mpp: float | None, fallback_mpp: float | None, _changed_ns: int) -> Slide:
    return open_slide(path, mpp=mpp, fallback_mpp=fallback_mpp)


class Session:
    """Slides and what is known of them; maps are opened when they are first asked for.

    Parameters
    ----------
    title
        Of the page.
    slides
        The slides.
    run
        The run folder, where it is one.
    settings
        Its settings; None takes the defaults.
    predictions
        Of its tiles, with the columns of `predictions/tiles.parquet`; None without.
    stored
        The explanations of its test tiles; None without.
    """

    def __init__(
        self,
        title: str,
        slides: Sequence[ViewedSlide],
        *,
        run: Path | None = None,
        settings: Settings | None = None,
        predictions: pd.DataFrame | None = None,
        stored: Stored | None = None,
    ) -> None:
        self.title, self.run, self.settings = title, run, settings or Settings()
        self.slides = {slide.id: slide for slide in slides}
        self.predictions, self.stored = predictions, stored
        self._predicted = frozenset() if predictions is None else frozenset(predictions["slide_id"])
        self._explained = frozenset() if stored is None else frozenset(stored.rows["slide_id"])
        self._rasters: dict[str, dict[str, Raster]] = {}
        self._lock = threading.Lock()

    def slide(self, slide_id: str) -> ViewedSlide:
        """Return a slide.

        Raises
        ------
        LookupError
            There is none of this name.
        """
        return self.slides[slide_id]

    def summary(self, slide: ViewedSlide) -> dict[str, Any]:
        """Return a slide's facts, and which maps can be shown: of the whole slide, of its tiles, or explanations."""
        mapped, explained = slide.maps is not None, slide.name in self._explained
        return {**slide.facts, "mapped": mapped, "explained": explained,
                "layered": mapped or explained or slide.name in self._predicted}  # fmt: skip

    def rasters(self, slide_id: str) -> dict[str, Raster]:
        """Return the maps of a slide by their keys.

        Raises
        ------
        LookupError
            There is no such slide.
        SlideError, RunError, ExchangeError
            The slide, or a map, cannot be read.
        """
        slide = self.slide(slide_id)
        with self._lock:
            if slide_id not in self._rasters:
                while len(self._rasters) >= _RASTERS:
                    del self._rasters[next(iter(self._rasters))]
                self._rasters[slide_id] = {raster.key: raster for raster in self._find_rasters(slide)}
            return self._rasters[slide_id]

    def outlines(self, slide_id: str) -> list[dict[str, Any]]:
        """Return a slide's outlines as features of GeoJSON, in level-0 pixels, as they were corrected last.

        Tissue outside them that counts as non-tumor is one more, which is `found`: it is shown, and nobody edits it.

        Raises
        ------
        LookupError
            There is no such slide.
        AnnotationError
            The file cannot be understood.
        SlideError
            The slide cannot be opened, or not be read where tissue outside its outlines counts.
        """
        slide = self.slide(slide_id)
        if (file := self._latest_outlines(slide)) is None:
            return []
        read = read_annotations(file, self._names, slide.open() if file == slide.annotations else None)
        if self.settings.annotations.unlabelled_tissue != "ignore":
            reading = self.settings.slides.reading
            read = with_unlabelled(read, file, replace(slide.open(), reading=reading), self.settings)
        return [
            {
                "type": "Feature",
                "properties": {"class": outline.label.key, "name": outline.label.title}
                | ({} if outline.drawn else {"found": True}),
                "geometry": outline.geometry.__geo_interface__,
            }
            for outline in read.outlines
        ]

    def _latest_outlines(self, slide: ViewedSlide) -> Path | None:
        """Return the file of a slide's outlines as they were corrected last."""
        corrected = [] if self.run is None else versions(self.run, slide.name)
        return corrected[-1] if corrected else slide.annotations

    def correct(self, slide_id: str, features: Sequence[dict[str, Any]]) -> int:
        """Keep a further version of a slide's outlines in the run; the original stays.

        Parameters
        ----------
        slide_id
            Of addresses.
        features
            As of `save_correction`; `class` of their properties is the key of a class.

        Returns
        -------
        int
            The version, counted from 1.

        Raises
        ------
        LookupError
            There is no such slide, or no run.
        AnnotationError
            They are no outlines.
        ValueError
            One has no class.
        """
        slide = self.slide(slide_id)
        if self.run is None:
            raise LookupError("no run")
        outlines = []
        for feature in features:
            properties = feature.get("properties") if isinstance(feature, dict) else None
            if isinstance(properties, dict) and properties.get("found"):
                continue  # found anew whenever outlines are read
            label = properties.get("class") if isinstance(properties, dict) else None
            if label not in NAMES:
                raise ValueError(f"an outline has the class {' or '.join(NAMES)}")
            outlines.append(annotation(NAMES[label], feature.get("geometry")))
        ignored: Sequence[Polygon | MultiPolygon] = ()
        with self._lock:
            if self.settings.annotations.unlabelled_tissue != "ignore" and (file := self._latest_outlines(slide)):
                opened = slide.open() if file == slide.annotations else None
                ignored = read_annotations(file, self._names, opened).ignored  # else they would be non-tumor
            return int(save_correction(self.run, slide.name, outlines, self._names, ignored).stem)

    @property
    def _names(self) -> ClassNames:
        """What classes of outlines mean: as the run has it, and the names that Vitrail itself writes."""
        own = class_names(self.settings)
        tumor, non_tumor = (
            (*names, *(() if other in names else (other,)))
            for names, other in ((own.tumor, NAMES["tumor"]), (own.non_tumor, NAMES["non_tumor"]))
        )
        return replace(own, tumor=tumor, non_tumor=non_tumor)

    def _find_rasters(self, slide: ViewedSlide) -> Iterable[Raster]:
        opened = slide.open()
        mpp = opened.mpp
        if slide.maps is not None and slide.maps.small.is_file():
            yield from _map_rasters(slide.maps, mpp)
        elif self.predictions is not None:
            yield from _tile_rasters(self.predictions[self.predictions["slide_id"] == slide.name])
        if self.stored is not None:
            yield from _mosaics(self.stored, slide.name)
        if slide.nuclei is not None and slide.nuclei.is_file():
            yield from nuclei_rasters(slide.nuclei, opened)


def session_of(paths: Sequence[Path], maps: Path | None = None, mpp: float | None = None) -> Session:
    """Make a session of what the command line names.

    Parameters
    ----------
    paths
        A run, a folder of slides, or slides.
    maps
        The folder that `vitrail predict --out` wrote for them; None looks beside the slides.
    mpp
        Of slides whose header lacks it, um per level-0 pixel.

    Returns
    -------
    Session
        With one slide or more.

    Raises
    ------
    RunError, CohortError, SettingsError
        A run cannot be read.
    SlideError
        There is no slide.
    """
    if len(paths) == 1 and (paths[0] / "study.toml").is_file():
        return _of_run(paths[0])
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(file for file in path.iterdir() if is_slide_name(file))
        elif path.is_file():
            files.append(path)
        else:
            raise SlideError(path, "there is no such file or folder", "Check the path")
    if not files:
        where = paths[0] if paths else "vitrail view"
        raise SlideError(where, "holds no slide", "Name a run, a folder with slides, or slides")
    stems = [file.stem for file in files]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise SettingsError("vitrail view", f"two slides are called {twice}", "Show them one after the other")
    slides = []
    for file in files:
        folder = maps or file.parent
        found = MapFiles(base=folder / file.stem)
        facts = _summary_of(found)
        slides.append(
            ViewedSlide(
                id=id_of(file.stem), name=file.stem, path=file, fallback_mpp=mpp, facts=facts,
                maps=found if found.small.is_file() else None, nuclei=folder / f"{file.stem}.nuclei.parquet",
            )
        )  # fmt: skip
    title = paths[0].name if len(paths) == 1 else f"{len(slides)} slides"
    return Session(title, slides)


def id_of(name: str) -> str:
    """Return what addresses call a slide of a name: letters and digits alone."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def describe(slide: ViewedSlide, session: Session) -> dict[str, Any]:
    """Return what the page has to know of a slide before it shows it.

    Parameters
    ----------
    slide, session
        The slide, and what it belongs to.

    Returns
    -------
    dict[str, Any]
        JSON: size in level-0 pixels, um per pixel, sizes of the levels, its maps, and warnings.

    Raises
    ------
    SlideError
        It cannot be opened.
    """
    opened, problems = slide.open(), list[str]()
    corrected = session.run is not None and bool(versions(session.run, slide.name))
    try:
        rasters = [raster.describe() for raster in session.rasters(slide.id).values()]
    except VitrailError as error:
        rasters, problems = [], [str(error)]
    return {
        "id": slide.id, "name": slide.name, "mpp": opened.mpp, "levels": slide_sizes(opened), "layers": rasters,
        "outlined": slide.annotations is not None or corrected, "problems": problems, "facts": slide.facts,
    }  # fmt: skip


def map_classes() -> list[dict[str, Any]]:
    """List the classes of maps, in the order of their numbers."""
    shown = [{"key": each.key, "title": each.title, "rgb": each.rgb} for each in CLASSES]
    return [*shown, {"key": ARTEFACT_CLASS.key, "title": ARTEFACT_CLASS.title, "rgb": ARTEFACT_CLASS.rgb}]


def _of_run(folder: Path) -> Session:
    run = open_run(folder)
    entries = read_cohort(run.cohort)
    table = folder / "predictions" / "tiles.parquet"
    predictions = read_table(table) if table.is_file() else None
    has_split = (folder / "split" / "patients.csv").is_file()
    splits = split_of(folder / "split") if has_split else {}
    stored = None
    if (folder / "explanations" / SUMMARY).is_file():
        stored = open_stored(folder / "explanations")
    threshold = run.settings.evaluation.threshold
    scores = {} if predictions is None else _scores(predictions, threshold)
    slides = []
    for entry in entries:
        files = MapFiles(base=folder / "predictions" / "maps" / entry.slide_id)
        facts = {"patient": entry.patient_id, "split": splits.get(entry.patient_id, ""), "groups": entry.attributes}
        slides.append(
            ViewedSlide(
                id=id_of(entry.slide_id), name=entry.slide_id, path=entry.slide, mpp=entry.mpp,
                fallback_mpp=run.settings.slides.mpp, annotations=entry.annotations,
                maps=files if files.small.is_file() else None,
                nuclei=files.base.with_name(f"{entry.slide_id}.nuclei.parquet"),
                facts=facts | scores.get(entry.slide_id, {}) | _summary_of(files),
            )
        )  # fmt: skip
    order = {split: number for number, split in enumerate(reversed(SPLITS))}  # those that tell most come first
    slides.sort(key=lambda slide: (order.get(slide.facts["split"], len(order)), slide.name))
    name = folder.resolve().name
    return Session(name, slides, run=folder, settings=run.settings, predictions=predictions, stored=stored)


def _scores(predictions: pd.DataFrame, threshold: float) -> dict[str, dict[str, Any]]:
    """Count each slide's tiles, and those of which a network says what its outlines do not."""
    tumor = predictions["label"] == "tumor"
    called = {task: predictions[task] >= threshold for task in TASKS if task in predictions}
    columns = {"tiles": np.ones(len(predictions), np.int64), "tumor_tiles": tumor.to_numpy(np.int64)}
    for task, calls in called.items():
        columns[f"{task}_tumor"] = calls.to_numpy(np.int64)
        columns[f"{task}_wrong"] = (calls != tumor).to_numpy(np.int64)
    if len(called) == len(TASKS):
        columns["disagree"] = (called[TASKS[0]] != called[TASKS[1]]).to_numpy(np.int64)
    sums = pd.DataFrame(columns).groupby(predictions["slide_id"].to_numpy()).sum()
    return {str(name): {key: int(sums.loc[name, key]) for key in columns} for name in sums.index}


def _summary_of(files: MapFiles) -> dict[str, Any]:
    """Return the areas that a mapped slide's facts hold, in mm^2."""
    try:
        facts = read_json(files.facts, ("tissue_mm2",))
    except RunError:
        return {}
    return {"tissue_mm2": facts["tissue_mm2"]}


def _map_rasters(files: MapFiles, mpp: float) -> Iterable[Raster]:
    """Yield the maps of a slide that was mapped as a whole."""
    small = load_map(files.small)
    if np.isfinite(small.classifier).any():
        yield _share(small.classifier, "classifier", "Tumor probability of tiles", "classifier", small.side)
    if files.classes.is_file():
        per_tile = small.segmenter.shape[0] / max(small.classifier.shape[0], 1)
        yield array_raster(
            small.segmenter, key="classes", title="Classes", kind="class", network="segmenter",
            cell=small.side / per_tile, limits=(0, NOTHING),
        )  # fmt: skip
        yield map_raster(
            read_class_map(files.classes), 0, key="segmenter", title="Tumor probability of pixels", kind="share",
            network="segmenter", mpp=mpp,
        )  # fmt: skip
    yield from _uncertainty_rasters(files, small.classifier.shape, small.side, mpp)
    if files.explained.is_file():
        stored = read_class_map(files.explained)
        titles = {method.title: name for name, method in METHODS.items()}
        for channel, shown in enumerate(stored.header.channels):
            name = titles.get(shown.name, f"channel{channel}")
            yield map_raster(
                stored, channel, key=f"slide_{name}", title=f"{shown.name} of the slide", kind="signed",
                network="classifier", mpp=mpp,
            )  # fmt: skip
    if small.artefacts.any():
        yield _share(small.artefacts, "artefacts", "Artefacts", "", small.side)


def _uncertainty_rasters(files: MapFiles, shape: tuple[int, ...], side: float, mpp: float) -> Iterable[Raster]:
    """Yield how far the answers about tiles and pixels differ, where that was asked for."""
    tiles = read_table(files.tiles) if files.tiles.is_file() else pd.DataFrame()
    if "classifier_spread" in tiles:
        yield _spread_of_tiles(tiles, "classifier", shape, side)
    if files.uncertainty.is_file():
        raster = map_raster(
            read_class_map(files.uncertainty), 0, key="segmenter_spread", title="Uncertainty of pixels", kind="share",
            network="segmenter", mpp=mpp,
        )  # fmt: skip
        yield replace(raster, limits=_SPREAD)


def _spread_of_tiles(tiles: pd.DataFrame, task: Task, shape: tuple[int, ...], side: float) -> Raster:
    """Return how far the answers about each tile differ."""
    values = np.full(shape, np.nan, np.float32)
    values[tile_positions(tiles)] = tiles[f"{task}_spread"]
    key, title = {
        "classifier": ("classifier_spread", "Uncertainty of tiles"),
        "segmenter": ("segmenter_spread_tiles", "Mean uncertainty of pixels in tiles"),
    }[task]
    return array_raster(values, key=key, title=title, kind="share", network=task, cell=side, limits=_SPREAD)


def _tile_rasters(rows: pd.DataFrame) -> Iterable[Raster]:
    """Yield what the networks said of a slide's tiles, where it was not mapped as a whole."""
    if rows.empty:
        return
    at, side = tile_positions(rows), float(rows["side"].iloc[0])
    shape = int(at[0].max()) + 1, int(at[1].max()) + 1
    for task in TASKS:
        if task in rows:
            values = np.full(shape, np.nan, np.float32)
            values[at] = rows[task]
            title = "Tumor probability of tiles" if task == "classifier" else "Share of tumor in tiles"
            yield _share(values, f"{task}_tiles" if task == "segmenter" else task, title, task, side)
            if f"{task}_spread" in rows and rows[f"{task}_spread"].notna().any():
                yield _spread_of_tiles(rows, task, shape, side)


def _mosaics(stored: Stored, slide_name: str) -> Iterable[Raster]:
    """Yield the stored explanations of a slide's test tiles, each kind put together to one map."""
    own = np.flatnonzero((stored.rows["slide_id"] == slide_name).to_numpy())
    if not len(own):
        return
    rows = stored.rows.iloc[own]
    at, side = tile_positions(rows), float(rows["side"].iloc[0])
    shape = int(at[0].max()) + 1, int(at[1].max()) + 1
    px = 32
    while px > 4 and shape[0] * shape[1] * px * px > MOST_MOSAIC_PX:
        px //= 2
    for key in stored.keys:
        network, method = split_key(key)
        kind = stored.file.kinds[key]
        raster_kind: RasterKind = "signed" if kind.signed else "unsigned"
        values = np.full((shape[0] * px, shape[1] * px), np.nan, np.float32)
        maps, (over, across) = stored.maps(key), kind.frame.matrices(kind.size, (px, px))
        for row, column, number in zip(*at, own, strict=True):
            tile = over @ maps[number].astype(np.float64) @ across.T
            values[row * px : (row + 1) * px, column * px : (column + 1) * px] = tile
        yield array_raster(
            values, key=key, title=stored.methods[method], kind=raster_kind, network=network, cell=side / px,
            limits=limits_of(values, raster_kind),
        )  # fmt: skip


def _share(values: NDArray[np.float32], key: str, title: str, network: str, side: float) -> Raster:
    return array_raster(values, key=key, title=title, kind="share", network=network, cell=side, limits=(0.0, 1.0))
