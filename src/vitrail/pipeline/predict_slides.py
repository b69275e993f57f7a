"""Trained networks on any slides: maps, a GeoJSON for QuPath, a figure and a summary."""

from __future__ import annotations

import json
import logging
import shutil
import tomllib
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail import __version__
from vitrail.classes import ARTEFACTS
from vitrail.core.digest import combined_digest, json_digest
from vitrail.core.files import (
    damaged,
    not_written,
    read_json,
    read_table,
    remove_temporary,
    write_table,
    write_text,
)
from vitrail.core.progress import Silent
from vitrail.distribute.jobs import Here, Jobs
from vitrail.errors import ModelError, NucleiError, RunError, SettingsError, SlideError
from vitrail.inference.map_slide import Networks, map_slide
from vitrail.inference.outputs import MAP_PX, MapFiles
from vitrail.inference.predictor import Predictor, explaining_predictors
from vitrail.inference.publish import SUMMARY, name_tiles, publish
from vitrail.models.device import keep_memory, reproducible
from vitrail.models.store import JSON, WEIGHTS, load_model
from vitrail.pipeline.outcome import Outcome
from vitrail.pipeline.slide_by_slide import every_end, results_folder, slide_jobs, update_summary
from vitrail.quality.appearance import FEWEST_PATIENTS, GROUPS
from vitrail.settings.load import Settings, changed_text, preset, settings_text
from vitrail.slides.cohort import content_digest, file_digest
from vitrail.slides.slide import open_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from vitrail.core.progress import Progress
    from vitrail.distribute.jobs import Executor
    from vitrail.models.spec import ReadingInfo
    from vitrail.pipeline.slide_by_slide import SlideJob
    from vitrail.slides.slide import Slide

_log = logging.getLogger(__name__)

SUMMARY_CSV = "summary.csv"

_COLUMNS = (*SUMMARY, *(f"{kind.key}_share" for kind in ARTEFACTS), "training_distance", "reason")
"""Of the summary: what `publish` says, the share of the tissue that each kind of artefact covers, and the distance from
the training slides over that which 99 % of these have at most."""

_FACTS = ("map_mpp", "tissue_mm2", "clean_mm2", "artefacts", "glass", "colour", "appearance", "pixels", "seam_index")
"""What must be in a slide's facts, as `map_slide` writes them."""

_FARTHEST = 2.0
"""Standard deviations of training pixels that the mean colour of a slide's tissue may lie off their mean, for networks
that do not know what their training slides look like. The slides of one cohort scatter by half of one."""


def settings_from(changes: Iterable[str] = ()) -> Settings:
    """Return the settings for slides that nobody annotated: those of the preset `quick`, with changes.

    No study of the paper's is repeated here, and so windows are blended, artefacts left out, and probabilities
    calibrated.

    Parameters
    ----------
    changes
        Each `branch.key=value`.

    Returns
    -------
    Settings
        The changed settings.

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
    nuclei
        Whether each nucleus is found and measured, too: `<name>.nuclei.parquet` and `<name>.nuclei.geojson`.
    settings
        The branches `slides`, `predict`, `tissue`, `artefacts`, `evaluation` and `compute` matter; and `nuclei`.
    """

    classifier: Path | None = None
    segmenter: Path | None = None
    out: Path
    mpp: float | None = None
    nuclei: bool = False
    settings: Settings = field(default_factory=settings_from)


def apply_models(
    slides: Sequence[Path], job: Application, progress: Progress | None = None, executor: Executor | None = None
) -> Outcome:
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
    executor
        Does the slides; None: one after the other, here. Where other commands do some of them, too, the summary is
        written once all have ended.

    Returns
    -------
    Outcome
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
        Another call writes into the same folder, or a file of an earlier call is damaged.
    """
    jobs, progress = slide_jobs(slides, job, "geojson"), progress or Silent()
    _LOADED.clear()  # the files of a model may have changed since
    try:
        networks, digests, no_head = _networks(job)
        reproduced = partial(reproducible, networks.predictors[0].device, job.settings.seed)
        with reproduced():
            warnings = check_glass(networks, (255.0, 255.0, 255.0), "white glass", job.settings)
        warnings += [*no_head, *_sure(networks, job.settings)]
        purpose = json_digest(["predict", job.mpp, job.nuclei, digests, job.settings.decisive_values()])
        executor = executor or Here(progress=progress)
        work = Jobs(title="predict", work=map_one, jobs=jobs, is_done=_is_done)
        rows, errors, said = dict[str, dict[str, Any]](), dict[str, str](), dict[str, list[str]]()
        with (
            results_folder(job.out, purpose, executor),
            closing(every_end(work, executor, job.settings.compute, progress)) as ends,
        ):
            before = {name for name, each in jobs.items() if _is_mapped(each)}
            for name, error in ends:
                if error is not None:
                    errors[name] = str(error)
                if isinstance(error, SlideError):
                    progress.say(f"skipped: {error}")
                    rows[name] = {"slide_id": name, "reason": str(error)}
                else:
                    if isinstance(error, NucleiError):
                        progress.say(f"no {error}")
                    elif error is not None:
                        raise error
                    facts = read_json(MapFiles(base=job.out / name).facts, ("summary", *_FACTS))
                    rows[name] = {key: np.nan if value is None else value for key, value in facts["summary"].items()}
                    with reproduced():
                        said[name] = check_slide(networks, jobs[name].path.name, facts, job.settings)
                if not executor.is_shared:
                    update_summary(job.out / SUMMARY_CSV, rows, _COLUMNS)
            with executor.alone(job.out):
                summary = update_summary(job.out / SUMMARY_CSV, rows, _COLUMNS)
    finally:
        _LOADED.clear()
    mapped = len(said.keys() - before)
    done = len([row for row in summary.values() if not row.get("reason")])
    results = {
        "mapped": mapped,
        "in_summary": done,
        "summary": job.out / SUMMARY_CSV,
        "slides": {name: {"files": _files_of(job.out / name), "summary": rows[name]} for name in said},
    }
    return Outcome(
        lines=[f"{mapped} slides mapped, {done} in the summary", str(job.out / SUMMARY_CSV)],
        results=results,
        warnings=[*warnings, *(line for name in jobs for line in said.get(name, []))],
        skipped=[errors[name] for name in jobs if name in errors],
    )


_LOADED: dict[str, tuple[Networks, list[str], list[str]]] = {}
"""The networks of the last application, since all slides of one share them, also in a worker of a cluster."""


def _networks(job: Application) -> tuple[Networks, list[str], list[str]]:
    """Return what `load_networks` does, once for all slides."""
    folders = [folder and folder.absolute() for folder in (job.classifier, job.segmenter)]
    files = sorted(path for folder in folders if folder and folder.is_dir() for path in folder.iterdir())
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = json_digest([*map(str, folders), states, job.settings.model_dump_json()])
    if key not in _LOADED:
        _LOADED.clear()
        _LOADED[key] = load_networks(job)
    return _LOADED[key]


def load_networks(job: Application) -> tuple[Networks, list[str], list[str]]:
    """Load the networks to apply.

    Parameters
    ----------
    job
        Their folders and settings.

    Returns
    -------
    tuple[Networks, list[str], list[str]]
        The networks; digests of what they are; and a warning where HR-CAM cannot explain.

    Raises
    ------
    SettingsError
        No model is given, or slides are to be explained without a classifier.
    ModelError
        A model cannot be used, or the two learned from slides that were read in different ways.
    """
    settings, predictors, digests, warnings = job.settings, dict[str, Predictor](), list[str](), list[str]()
    why: Callable[[int], Predictor] | None = None
    folders = {"classifier": job.classifier, "segmenter": job.segmenter}
    models = {task: folder for task, folder in folders.items() if folder is not None}
    if not models:
        cure = "Add --classifier RUN/classifier, --segmenter, or both"
        raise SettingsError("vitrail predict", "no model is given", cure)
    if settings.predict.explained and "classifier" not in models:
        raise SettingsError("--explain", "explains a classifier, and none is given", "Add --classifier RUN/classifier")
    keep_memory()
    for task, folder in models.items():
        model = load_model(folder, later=True)
        if model.spec.task != task:
            raise ModelError(folder, f"holds a {model.spec.task}, not a {task}", f"Give it as --{model.spec.task}")
        files = [content_digest(folder / name) for name in (JSON, WEIGHTS)]
        if settings.predict.explained and task == "classifier":
            from vitrail.explain.methods.base import (
                FIT,
                explaining_classifier,
                find_heads,
                methods_named,
                slide_readers,
            )

            methods = methods_named(settings.explain.methods)
            heads, missing = find_heads(folder, methods, combined_digest(files))
            explaining = partial(
                explaining_classifier,
                pixels=MAP_PX,
                methods=methods,
                heads=heads,
                stride=settings.explain.stride,
                margin_px=settings.explain.margin_px,
            )
            why = explaining_predictors(folder, settings, explaining)
            readers = slide_readers(model.explained, methods, heads)
            titles = " and ".join(method.title for method in readers)
            warnings += (
                [f"explained is {model.spec.represented}, which stands for all"] if model.spec.represented else []
            )
            warnings += [f"explained by {titles} alone: {reason}; {FIT}" for reason in missing.values()]
            geometry = settings.explain.stride, settings.explain.margin_px
            digests += [json.dumps([*geometry, *((each.method, each.layers, each.bias) for each in readers.values())])]
        predictors[task] = Predictor.of_settings(model, settings)
        digests += files
    modes = {task: _mode(predictor.spec.reading) for task, predictor in predictors.items()}
    if len(set(modes.values())) > 1:  # a slide is read once for both
        problem = f"learned from slides read {modes['segmenter']}, and {models['classifier']} {modes['classifier']}"
        cure = "Apply them in two calls, or train both with one slides.reading and one slides.stain"
        raise ModelError(models["segmenter"], problem, cure)
    networks = Networks(classifier=predictors.get("classifier"), segmenter=predictors.get("segmenter"), explaining=why)
    return networks, digests, warnings


def _mode(reading: ReadingInfo) -> str:
    return repr(reading.mode) if reading.stain == "none" else f"{reading.mode!r} with stain {reading.stain!r}"


def _sure(networks: Networks, settings: Settings) -> list[str]:
    """Warn where it is asked how far answers differ, and there is but one."""
    single = [predictor.spec.task for predictor in networks.predictors if predictor.looks == 1]
    if not settings.predict.uncertainty or not single:
        return []
    cure = "give an ensemble, or set predict.symmetries"
    return [f"no uncertainty of the {' and the '.join(single)}: it is one network that looks once; {cure}"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """How far a slide is.

    Attributes
    ----------
    slide
        The slide.
    files
        Its files, under the key of all that decides them.
    facts
        What is there of it, maybe of another key.
    is_explained
        Whether explanations are wanted and can be had.
    is_mapped
        Whether its maps are there.
    is_published
        Whether all that comes of them is there, too, but for nuclei.
    """

    slide: Slide
    files: MapFiles
    facts: dict[str, Any]
    is_explained: bool
    is_mapped: bool
    is_published: bool


def _state(job: SlideJob[Application]) -> _State:
    """Look at what is there of a slide; a SlideError where it cannot be opened."""
    application, settings = job.application, job.application.settings
    networks, digests, _warnings = _networks(application)
    reading = networks.predictors[0].spec.reading
    fallback = settings.slides.mpp
    slide = open_slide(job.path, mpp=application.mpp, fallback_mpp=fallback, reading=reading.mode, stain=reading.stain)
    values, precision = settings.digest_values(), settings.compute.named_precision
    recipe = [slide.mpp, file_digest(job.path), *digests, __version__, _COLUMNS]
    recipe += [values[name] for name in ("predict", "tissue", "artefacts")]
    key = json_digest([*recipe, precision] if precision else recipe)
    files = MapFiles(base=application.out / job.path.stem, key=key[:16])
    try:
        facts = read_json(files.facts)
    except RunError:  # not there, or no JSON
        facts = {}
    is_explained = settings.predict.explained and networks.explaining is not None
    maps = [files.tiles, files.small]
    maps += [files.classes] if networks.segmenter else []
    uncertain = settings.predict.uncertainty and networks.segmenter is not None and networks.segmenter.looks > 1
    maps += [files.uncertainty] if uncertain else []
    maps += [files.explained] if is_explained else []
    is_mapped = facts.get("key") == files.key and all(file.is_file() for file in maps)
    published = [*_published(files), *([files.explained_picture] if is_explained else [])]
    is_current = facts.get("threshold") == settings.evaluation.threshold and "summary" in facts
    return _State(
        slide=slide,
        files=files,
        facts=facts,
        is_explained=is_explained,
        is_mapped=is_mapped,
        is_published=is_mapped and is_current and all(file.is_file() for file in published),
    )


def _is_mapped(job: SlideJob[Application]) -> bool:
    """Tell whether the maps of a slide are there."""
    try:
        return _state(job).is_mapped
    except SlideError:
        return False


def _is_done(job: SlideJob[Application]) -> bool:
    """Tell whether nothing is left to do for a slide."""
    application = job.application
    try:
        state = _state(job)
        if not state.is_published or any(name not in state.facts for name in _FACTS):
            return False
        if not application.nuclei:
            return True
        from vitrail.nuclei.update import nuclei_are_current

        return nuclei_are_current(state.slide, state.files.base, application.settings)
    except (SlideError, OSError):
        return False


def map_one(job: SlideJob[Application], progress: Progress) -> None:
    """Map and publish one slide as far as that is not done.

    Parameters
    ----------
    job
        The slide.
    progress
        Told how far the work is.

    Raises
    ------
    SlideError
        It cannot be mapped; nothing is left of an earlier map.
    NucleiError
        It is mapped, but its nuclei cannot be measured.
    ExchangeError
        A result cannot be written.
    RunError
        A file of an earlier call is damaged.
    """
    application, settings = job.application, job.application.settings
    networks, _digests, _warnings = _networks(application)
    base = application.out / job.path.stem
    progress.say(f"{job.path.name} ({job.turn})")
    with reproducible(networks.predictors[0].device, settings.seed):
        try:
            state = _map(job, networks, progress)
            if application.nuclei:
                _measure_nuclei(job, state, networks, progress)
        except SlideError:
            files = MapFiles(base=base, key="none")
            _remove_results(files)
            _remove_if_empty(files.partial.parent)
            raise
        except OSError as error:
            raise not_written(base, error) from error


def _map(job: SlideJob[Application], networks: Networks, progress: Progress) -> _State:
    """Map and publish a slide as far as that is not done; return how far it was."""
    settings, threshold = job.application.settings, job.application.settings.evaluation.threshold
    state = _state(job)
    slide, files, facts = state.slide, state.files, state.facts
    why = (
        "mapped before" if state.is_mapped else "mapped now, with other networks or settings before" if facts else "new"
    )
    _log.info("%s: %s", files.base, why)
    if not state.is_mapped:
        _remove_results(files)
        map_slide(slide, networks, settings, files, progress)
        facts = read_json(files.facts)
    missing = [name for name in _FACTS if name not in facts]
    if missing:
        raise damaged(files.facts, f"without {missing[0]!r}")
    if state.is_explained and not files.explained_picture.is_file():
        from vitrail.report.figures.explained_slide import save_explained_figure
        from vitrail.report.figures.slide_maps import read_slide_maps

        save_explained_figure(files.explained_picture, read_slide_maps(slide, files), files)
    is_published = all(file.is_file() for file in _published(files))
    if facts.get("threshold") != threshold or "summary" not in facts or not is_published:
        _publish(files, slide, facts, threshold)
    _remove_if_empty(files.partial.parent)
    return state


def _remove_if_empty(folder: Path) -> None:
    """Remove a slide's folder of unfinished work, and that of all slides."""
    for each in (folder, folder.parent):
        with suppress(OSError):  # not empty, or not there
            each.rmdir()


def _measure_nuclei(job: SlideJob[Application], state: _State, networks: Networks, progress: Progress) -> None:
    """Measure the nuclei of a mapped slide; a NucleiError says why not, where that cannot be: its maps stay."""
    from vitrail.nuclei.update import update_nuclei

    application = job.application
    reading, fallback = networks.predictors[0].spec.reading.mode, application.settings.slides.mpp
    slide = open_slide(job.path, mpp=application.mpp, fallback_mpp=fallback, reading=reading)
    try:
        tiles = read_table(state.files.tiles)
        is_stale = not state.is_mapped
        update_nuclei(slide, state.files.base, application.settings, progress, tiles=tiles, is_stale=is_stale)
    except (SlideError, NucleiError) as error:
        raise NucleiError(f"nuclei of {error.where}", error.problem, error.cure) from error


def check_slide(networks: Networks, name: str, facts: dict[str, Any], settings: Settings) -> list[str]:
    """Warn of stain that was not normalised, of tumor on a slide's own glass, and of slides beyond the training's.

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

    Returns
    -------
    list[str]
        The warnings.
    """
    warnings = [f"{name}: {facts['stain']}"] if facts.get("stain") else []
    if facts["glass"] is not None:
        warnings += check_glass(networks, tuple(facts["glass"]), f"the glass of {name}", settings)
    seen = set[str]()
    for predictor in networks.predictors:
        spec = predictor.spec
        own = facts["appearance"].get(spec.task)
        if own is not None and own["patients"] >= FEWEST_PATIENTS:
            if own["is_beyond"] and own["group"] not in seen:
                seen.add(own["group"])
                warnings.append(
                    f"{name}: beyond what the {spec.task} was trained on, {own['farthest']:.1f} times as far from its "
                    f"{own['slides']} training slides as 99 % of these are ({GROUPS[own['group']]}); do not trust its "
                    "maps without a look"
                )
            continue
        off = (np.array(facts["colour"]) / 255 - spec.mean) / spec.std
        worst = int(np.abs(off).argmax())
        if abs(off[worst]) > _FARTHEST:
            colour = ("red", "green", "blue")[worst]
            warnings.append(
                f"{name}: the {colour} of its tissue lies {abs(off[worst]):.1f} standard deviations off what the "
                f"{spec.task} was trained on; do not trust its maps without a look"
            )
    return warnings


def check_glass(networks: Networks, glass: tuple[float, ...], title: str, settings: Settings) -> list[str]:
    """Warn of networks that see tumor on empty glass of a colour, if such tiles are shown to them.

    Parameters
    ----------
    networks, settings
        As of `check_slide`.
    glass
        Red, green and blue, 0 to 255.
    title
        What the glass is.

    Returns
    -------
    list[str]
        The warnings.
    """
    warnings = []
    for predictor in networks.predictors:
        side, is_classifier = predictor.spec.side_px, predictor.spec.task == "classifier"
        if is_classifier and not settings.predict.background:
            continue
        tile = np.ascontiguousarray(np.broadcast_to(np.rint(glass).astype(np.uint8), (1, side, side, 3)))
        if predictor.tumor_probability(tile)[0] >= settings.evaluation.threshold:
            cure = "; classifier.glass trains one that does not" if is_classifier else ""
            warnings.append(f"the {predictor.spec.task} calls {title} tumor: do not trust it where there is none{cure}")
    return warnings


def _remove_results(files: MapFiles) -> None:
    """Remove what an earlier call with other networks or settings left; work of this key stays."""
    maps = files.tiles, files.classes, files.uncertainty, files.explained, files.explained_picture, files.small
    for path in (files.facts, *maps, *_published(files)):
        path.unlink(missing_ok=True)
        remove_temporary(path)
    for stale in files.partial.parent.glob("*"):
        if stale != files.partial:
            shutil.rmtree(stale, ignore_errors=True)


def _files_of(base: Path) -> dict[str, Path]:
    """Return the files that there are of a slide, by what they hold."""
    files = MapFiles(base=base)
    geojson, picture = _published(files)
    named = {
        "tiles": files.tiles,
        "classes": files.classes,
        "uncertainty": files.uncertainty,
        "explanations": files.explained,
        "facts": files.facts,
        "geojson": geojson,
        "picture": picture,
        "explanations_picture": files.explained_picture,
        "nuclei": base.with_name(f"{base.name}.nuclei.parquet"),
        "nuclei_geojson": base.with_name(f"{base.name}.nuclei.geojson"),
    }
    return {name: path for name, path in named.items() if path.is_file()}


def _published(files: MapFiles) -> list[Path]:
    """Return what is published of a slide, but for its explanations."""
    return [files.base.with_name(f"{files.base.name}.{ending}") for ending in ("geojson", "png")]


def _publish(files: MapFiles, slide: Slide, facts: dict[str, Any], threshold: float) -> None:
    """Name the tiles, write GeoJSON and figure, and add to the facts what came of it."""
    from vitrail.report.figures.slide_maps import read_slide_maps, save_map_figure

    facts = {name: value for name, value in facts.items() if name not in {"threshold", "summary"}}
    # until all is written, nothing is published
    write_text(files.facts, json.dumps(facts, indent=1, allow_nan=False))
    tiles = read_table(files.tiles)
    tiles["class"] = name_tiles(tiles, threshold)
    write_table(files.tiles, tiles)
    row = publish(files, files.base, threshold) | {f"{key}_share": share for key, share in facts["artefacts"].items()}
    distances = [own["farthest"] for own in facts["appearance"].values()]
    row["training_distance"] = max(distances) if distances else None
    figure = files.base.with_name(f"{files.base.name}.png")
    save_map_figure(figure, read_slide_maps(slide, files), threshold)
    summary = {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in row.items()}
    facts |= {"threshold": threshold, "summary": summary}
    write_text(files.facts, json.dumps(facts, indent=1, allow_nan=False))
