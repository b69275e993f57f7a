"""Trained networks on any slides: maps, a GeoJSON for QuPath, a figure and a summary."""

from __future__ import annotations

import hashlib
import json
import shutil
import tomllib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail import __version__
from vitrail.classes import ARTEFACTS, TissueClass
from vitrail.core.files import not_written, read_csv, read_json, read_table, write_csv, write_table, write_text
from vitrail.core.progress import Silent
from vitrail.errors import ExchangeError, ModelError, RunError, SettingsError, SlideError
from vitrail.explain.methods.base import FIT, explaining_classifier, find_heads, methods_named
from vitrail.inference.map_slide import Networks, map_slide
from vitrail.inference.outputs import MAP_PX, MapFiles
from vitrail.inference.predictor import Explaining, Predictor
from vitrail.inference.publish import SUMMARY, name_tiles, publish
from vitrail.models.device import keep_memory, pick_device, reproducible
from vitrail.models.store import JSON, WEIGHTS, load_model
from vitrail.pipeline.run import Outcome
from vitrail.report.figures.explained_slide import save_explained_figure
from vitrail.report.figures.slide_maps import read_slide_maps, save_map_figure
from vitrail.settings.load import Settings, changed_text, preset, settings_text
from vitrail.slides.cohort import content_digest, file_digest
from vitrail.slides.slide import open_slide
from vitrail.stage import alone

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from vitrail.core.progress import Progress
    from vitrail.slides.slide import Slide

SUMMARY_CSV = "summary.csv"

_COLUMNS = (*SUMMARY, *(f"{kind.key}_share" for kind in ARTEFACTS), "reason")
"""Of the summary: what `publish` says, then the share of the tissue that each kind of artefact covers."""

_FARTHEST = 2.0
"""Standard deviations of training pixels that the mean colour of a slide's tissue may lie off their mean. The slides of
one cohort scatter by half of one, and none lies so far off."""


def settings_from(changes: Iterable[str] = ()) -> Settings:
    """Return the settings for slides that nobody annotated with `key=value` changes: those of the preset `quick`.

    No study of the paper's is repeated here, and so windows are blended, artefacts left out, and probabilities
    calibrated.

    Raises
    ------
    SettingsError
        A change is wrong.
    """
    return Settings.model_validate(tomllib.loads(changed_text(settings_text(preset("quick"), ""), changes)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """What to apply, how, and where to write.

    Attributes
    ----------
    classifier, segmenter
        Model folders; one of them may be missing.
    out
        Folder for the results; made where it is missing.
    mpp
        Micrometres per level-0 pixel of the slides, whatever their headers say; None takes it from these.
    settings
        The branches `slides`, `predict`, `tissue`, `artefacts`, `evaluation` and `compute` matter.
    """

    classifier: Path | None = None
    segmenter: Path | None = None
    out: Path
    mpp: float | None = None
    settings: Settings = field(default_factory=settings_from)


def apply_models(slides: Sequence[Path], job: Application, progress: Progress | None = None) -> Outcome:
    """Map slides, and write for each what QuPath and people need; slides that are finished are not done again.

    For each slide `<name>.tiles.parquet`, `.classes.ome.tiff`, `.geojson` and `.png` are written, with
    `predict.explained` also `.explanations.ome.tiff` and `.explanations.png`, and `.json` and `.npz` with which a later
    call goes on; and after each slide `summary.csv`, with a reason for those left out. A slide is done again where the
    networks, the settings, its mpp or its own content changed.

    Parameters
    ----------
    slides
        Files that OpenSlide reads; their names without endings name the results.
    job
        Networks, settings, and where to write.
    progress
        Told how far the work is.

    Returns
    -------
    What came out. Slides that cannot be mapped do not end the work; they are in `skipped`.

    Raises
    ------
    SettingsError
        No slide or no model is given, or two slides share a name.
    ModelError
        A model cannot be used.
    ExchangeError
        A result cannot be written, as on a full disk.
    RunError
        Another call writes into the same folder.
    """
    told = progress or Silent()
    _check_names(slides)
    networks, digests = _networks(job)
    try:
        job.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(job.out, error) from error
    with alone(job.out), reproducible(networks.engines[0].device, job.settings.seed):
        applied = _Applied(job=job, networks=networks, digests=digests, progress=told)
        for number, path in enumerate(slides, 1):
            told.say(f"{path.name} ({number} of {len(slides)})")
            applied.add(path)
    return applied.outcome()


def _check_names(slides: Sequence[Path]) -> None:
    if not slides:
        raise SettingsError("SLIDE", "none is given", "Name at least one slide")
    seen: dict[str, Path] = {}
    for path in slides:
        other = seen.setdefault(path.stem.casefold(), path)
        if other is not path:
            problem = f"has the name of {other}, and both would write {path.stem}.geojson"
            raise SettingsError(path, problem, "Rename one, or give them in two calls with two output folders")


def _networks(job: Application) -> tuple[Networks, list[str]]:
    """Load the networks; also return digests of their files."""
    folders = {"classifier": job.classifier, "segmenter": job.segmenter}
    given = {task: folder for task, folder in folders.items() if folder is not None}
    if not given:
        raise SettingsError(
            "vitrail predict", "no model is given", "Add --classifier RUN/classifier, --segmenter, or both"
        )
    if job.settings.predict.explained and "classifier" not in given:
        raise SettingsError("--explain", "explains a classifier, and none is given", "Add --classifier RUN/classifier")
    keep_memory()
    engines = {task: _engine(task, folder, job.settings) for task, folder in given.items()}
    _check_reading(given, engines)
    digests = [content_digest(folder / name) for folder in given.values() for name in (JSON, WEIGHTS)]
    digests += [json.dumps(engine.methods, sort_keys=True) for engine in engines.values()]
    return Networks(classifier=engines.get("classifier"), segmenter=engines.get("segmenter")), digests


def _engine(task: str, folder: Path, settings: Settings) -> Predictor:
    model, explaining = load_model(folder), None
    if model.spec.task != task:
        raise ModelError(folder, f"holds a {model.spec.task}, not a {task}", f"Give it as --{model.spec.task}")
    if settings.predict.explained and task == "classifier":
        methods = methods_named(settings.explain.methods)
        module = explaining_classifier(model, MAP_PX, methods, find_heads(folder, methods)[0])
        explaining = Explaining(module=module, methods=module.methods)
    return Predictor(
        model,
        pick_device(settings.compute.device),
        engine=settings.compute.engine,
        precision=settings.compute.precision,
        calibrated=settings.predict.calibrated,
        explaining=explaining,
    )


def _check_reading(given: dict[str, Path], engines: dict[str, Predictor]) -> None:
    """Make sure that all networks learned from slides that were read in one way: a slide is read once for both."""
    modes = {task: engine.spec.reading.mode for task, engine in engines.items()}
    if len(set(modes.values())) > 1:
        problem = f"learned from slides read {modes['segmenter']!r}, and {given['classifier']} {modes['classifier']!r}"
        cure = "Apply them in two calls, or train both with one slides.reading"
        raise ModelError(given["segmenter"], problem, cure)


@dataclass(slots=True, kw_only=True)
class _Applied:
    """What has been done so far."""

    job: Application
    networks: Networks
    digests: list[str]
    progress: Progress
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    fresh: int = 0

    def __post_init__(self) -> None:
        self.warnings += check_networks(self.networks, self.job.settings)
        if self.explained and self.job.classifier:
            methods = methods_named(self.job.settings.explain.methods)
            titles = " and ".join(method.title for method in methods if method.name in self.explained.methods)
            for reason in find_heads(self.job.classifier, methods)[1].values():
                self.warnings.append(f"explained by {titles} alone: {reason}; {FIT}")
        self.rows = _read_summary(self.job.out / SUMMARY_CSV)

    @property
    def explained(self) -> Predictor | None:
        """The classifier, where it is to say why."""
        return self.networks.classifier if self.job.settings.predict.explained else None

    def add(self, path: Path) -> None:
        """Do one slide, and write the summary."""
        try:
            self.rows[path.stem] = self._mapped(path)
        except SlideError as error:
            self.progress.say(f"skipped: {error}")
            self.skipped.append(str(error))
            _clear(MapFiles(base=self.job.out / path.stem, key=""))
            self.rows[path.stem] = {"slide_id": path.stem, "reason": str(error)}
        except ExchangeError:
            raise
        except OSError as error:
            raise not_written(self.job.out / path.stem, error) from error
        _write_summary(self.job.out / SUMMARY_CSV, self.rows)

    def outcome(self) -> Outcome:
        """Say what came out."""
        done = len([row for row in self.rows.values() if not row.get("reason")])
        return Outcome(
            lines=[f"{self.fresh} slides mapped, {done} in the summary", str(self.job.out / SUMMARY_CSV)],
            warnings=self.warnings,
            skipped=self.skipped,
        )

    def _mapped(self, path: Path) -> dict[str, Any]:
        job, settings = self.job, self.job.settings
        reading = self.networks.engines[0].spec.reading.mode
        slide = open_slide(path, mpp=job.mpp, fallback_mpp=settings.slides.mpp, reading=reading)
        key = _digest([slide.mpp, file_digest(path), *self.digests, *_relevant(settings)])
        files, threshold = MapFiles(base=job.out / path.stem, key=key[:16]), settings.evaluation.threshold
        facts = _facts(files)
        if facts.get("key") != files.key or not _whole(files, self.networks, explained=bool(self.explained)):
            _clear(files)
            map_slide(slide, self.networks, settings, files, self.progress)
            self.fresh += 1
            facts = _facts(files)
        if self.explained and not files.explained_picture.is_file():
            save_explained_figure(files.explained_picture, read_slide_maps(slide, files), files)
        if facts.get("threshold") != threshold or not all(one.is_file() for one in _published(files)):
            facts = _publish(files, slide, threshold)
        _tidy(files)
        self.warnings += check_slide(self.networks, path.name, facts, settings)
        return {name: float("nan") if value is None else value for name, value in facts["summary"].items()}


def check_networks(networks: Networks, settings: Settings) -> list[str]:
    """Warn of networks that see tumor on a white tile, if such tiles are shown to them; see `check_slide`."""
    return _glass_warnings(networks, (255.0, 255.0, 255.0), "white glass", settings)


def check_slide(networks: Networks, name: str, facts: dict[str, Any], settings: Settings) -> list[str]:
    """Warn of networks that see tumor on a slide's own glass, and of tissue in colours unlike those of the training.

    Parameters
    ----------
    networks
        The networks.
    name
        The slide's.
    facts
        What `map_slide` wrote in `MapFiles.facts`.
    settings
        A tile is tumor when its tumor probability reaches `evaluation.threshold`. A classifier is shown tiles without
        tissue only with `predict.background`, and is not asked about glass without it.
    """
    warnings = []
    if facts["glass"] is not None:
        warnings += _glass_warnings(networks, tuple(facts["glass"]), f"the glass of {name}", settings)
    for engine in networks.engines:
        off = (np.array(facts["colour"]) / 255 - engine.spec.mean) / engine.spec.std
        worst = int(np.abs(off).argmax())
        if abs(off[worst]) > _FARTHEST:
            colour = ("red", "green", "blue")[worst]
            warnings.append(
                f"{name}: the {colour} of its tissue lies {abs(off[worst]):.1f} standard deviations off what the "
                f"{engine.spec.task} was trained on; do not trust its maps without a look"
            )
    return warnings


def _glass_warnings(networks: Networks, glass: tuple[float, ...], what: str, settings: Settings) -> list[str]:
    warnings = []
    for engine in networks.engines:
        if engine.spec.task == "classifier" and not settings.predict.background:
            continue
        tile = np.broadcast_to(np.rint(glass).astype(np.uint8), (1, engine.spec.side_px, engine.spec.side_px, 3))
        if _tumor(engine, np.ascontiguousarray(tile)) >= settings.evaluation.threshold:
            cure = "; classifier.glass trains one that does not" if engine.spec.task == "classifier" else ""
            warnings.append(f"the {engine.spec.task} calls {what} tumor: do not trust it where there is none{cure}")
    return warnings


def _tumor(engine: Predictor, tile: np.ndarray[Any, np.dtype[np.uint8]]) -> float:
    if engine.spec.task == "classifier":
        return float(engine.tumor_probability(tile)[0])
    return float((engine.pixel_classes(tile) == TissueClass.TUMOR).mean())


def _relevant(settings: Settings) -> list[Any]:
    dumped = settings.model_dump(mode="json")
    precision = [] if settings.compute.precision == "auto" else [settings.compute.precision]  # it changes numbers
    return [__version__, _COLUMNS, *(dumped[name] for name in ("predict", "tissue", "artefacts")), *precision]


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _facts(files: MapFiles) -> dict[str, Any]:
    """Read the facts; none where there are none, or where the file is no JSON."""
    try:
        return read_json(files.facts)
    except RunError:
        return {}


def _whole(files: MapFiles, networks: Networks, *, explained: bool) -> bool:
    """Tell whether all maps are there."""
    more = {files.classes: networks.segmenter is not None, files.explained: explained}
    wanted = [files.tiles, files.small, *(path for path, there in more.items() if there)]
    return all(path.is_file() for path in wanted)


def _published(files: MapFiles) -> tuple[Path, Path]:
    return files.base.with_name(f"{files.base.name}.geojson"), files.base.with_name(f"{files.base.name}.png")


def _clear(files: MapFiles) -> None:
    """Remove what an earlier call with other networks or settings left; work of this key stays."""
    maps = files.tiles, files.classes, files.explained, files.explained_picture, files.small
    for path in (files.facts, *maps, *_published(files)):
        path.unlink(missing_ok=True)
    for stale in files.partial.parent.glob("*"):
        if stale != files.partial:
            shutil.rmtree(stale)


def _tidy(files: MapFiles) -> None:
    """Remove the folders of unfinished work where they are empty."""
    with suppress(OSError):  # not empty, or not there
        files.partial.parent.rmdir()
        files.partial.parent.parent.rmdir()


def _publish(files: MapFiles, slide: Slide, threshold: float) -> dict[str, Any]:
    """Name the tiles, write GeoJSON and figure, and return the facts with what came of it."""
    facts = {name: value for name, value in _facts(files).items() if name not in {"threshold", "summary"}}
    _write_facts(files, facts)  # until all is written, nothing is published
    tiles = read_table(files.tiles)
    tiles["class"] = name_tiles(tiles, threshold)
    write_table(files.tiles, tiles)
    row = publish(files, files.base, threshold) | {f"{key}_share": share for key, share in facts["artefacts"].items()}
    save_map_figure(_published(files)[1], read_slide_maps(slide, files), threshold)
    summary = {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in row.items()}
    facts |= {"threshold": threshold, "summary": summary}
    _write_facts(files, facts)
    return facts


def _write_facts(files: MapFiles, facts: dict[str, Any]) -> None:
    write_text(files.facts, json.dumps(facts, indent=1, allow_nan=False))


def _read_summary(path: Path) -> dict[str, dict[str, Any]]:
    """Read the rows of earlier calls, so that slides may be given bit by bit."""
    try:
        table = read_csv(path, ("slide_id", "reason")).reindex(columns=_COLUMNS, fill_value="")
        figures = [name for name in _COLUMNS if name not in {"slide_id", "reason"}]
        table[figures] = table[figures].replace("", "nan").astype(float)
        rows = table[table["slide_id"] != ""].to_dict("records")
    except (RunError, ValueError):
        return {}
    return {str(row["slide_id"]): {str(name): value for name, value in row.items()} for row in rows}


def _write_summary(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    table = pd.DataFrame(list(rows.values()), columns=_COLUMNS).sort_values("slide_id", kind="stable")
    write_csv(path, table, "%.6g")
