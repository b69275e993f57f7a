"""Trained networks on any slides: maps, a GeoJSON for QuPath, a figure and a summary."""

from __future__ import annotations

import json
import shutil
import tomllib
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail import __version__
from vitrail.classes import ARTEFACTS
from vitrail.core.digest import combined_digest, json_digest
from vitrail.core.files import damaged, not_written, read_csv, read_json, read_table, write_csv, write_table, write_text
from vitrail.core.lock import locked
from vitrail.core.progress import Silent
from vitrail.errors import ExchangeError, ModelError, NucleiError, RunError, SettingsError, SlideError
from vitrail.inference.map_slide import Networks, map_slide
from vitrail.inference.outputs import MAP_PX, MapFiles
from vitrail.inference.predictor import Predictor, explaining_predictors
from vitrail.inference.publish import SUMMARY, name_tiles, publish
from vitrail.models.device import keep_memory, reproducible
from vitrail.models.store import JSON, WEIGHTS, load_model
from vitrail.pipeline.run import Outcome
from vitrail.quality.appearance import FEWEST_PATIENTS, GROUPS
from vitrail.settings.load import Settings, changed_text, preset, settings_text
from vitrail.slides.cohort import content_digest, file_digest
from vitrail.slides.slide import open_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from vitrail.core.progress import Progress
    from vitrail.models.spec import ReadingInfo
    from vitrail.slides.slide import Slide

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
    check_names(slides, "geojson")
    progress = progress or Silent()
    networks, digests, no_head = load_networks(job)
    summary, settings = job.out / SUMMARY_CSV, job.settings
    try:
        job.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(job.out, error) from error
    with locked(job.out), reproducible(networks.predictors[0].device, settings.seed):
        warnings, skipped, mapped = (
            [
                *check_glass(networks, (255.0, 255.0, 255.0), "white glass", settings),
                *no_head,
                *_sure(networks, settings),
            ],
            list[str](),
            0,
        )
        rows = read_summary(summary, _COLUMNS)
        for number, path in enumerate(slides, 1):
            progress.say(f"{path.name} ({number} of {len(slides)})")
            try:
                facts, is_new = _map(path, job, networks, digests, progress)
            except SlideError as error:
                progress.say(f"skipped: {error}")
                skipped.append(str(error))
                _remove_results(MapFiles(base=job.out / path.stem, key=""))
                rows[path.stem] = {"slide_id": path.stem, "reason": str(error)}
            except ExchangeError:
                raise
            except OSError as error:
                raise not_written(job.out / path.stem, error) from error
            else:
                mapped += is_new
                warnings += check_slide(networks, path.name, facts, settings)
                rows[path.stem] = {key: np.nan if value is None else value for key, value in facts["summary"].items()}
                if job.nuclei:
                    skipped += _measure_nuclei(path, job, networks, is_new=is_new, progress=progress)
            table = pd.DataFrame(list(rows.values()), columns=_COLUMNS).sort_values("slide_id", kind="stable")
            write_csv(summary, table, "%.6g")
    done = len([row for row in rows.values() if not row.get("reason")])
    lines = [f"{mapped} slides mapped, {done} in the summary", str(summary)]
    return Outcome(lines=lines, warnings=warnings, skipped=skipped)


def check_names(slides: Sequence[Path], ending: str) -> None:
    """Make sure that there are slides, and that each has a name of its own.

    Parameters
    ----------
    slides
        Their files.
    ending
        Of a file that each of them writes.

    Raises
    ------
    SettingsError
        There is none, or two share a name.
    """
    if not slides:
        raise SettingsError("SLIDE", "none is given", "Name at least one slide")
    by_name: dict[str, Path] = {}
    for path in slides:
        other = by_name.setdefault(path.stem.casefold(), path)
        if other is not path:
            problem = f"has the name of {other}, and both would write {path.stem}.{ending}"
            raise SettingsError(path, problem, "Rename one, or give them in two calls with two output folders")


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


def _map(
    path: Path, job: Application, networks: Networks, digests: list[str], progress: Progress
) -> tuple[dict[str, Any], bool]:
    """Map and publish one slide as far as it is not done; return its facts, and whether it was mapped anew."""
    settings, threshold = job.settings, job.settings.evaluation.threshold
    reading = networks.predictors[0].spec.reading
    slide = open_slide(path, mpp=job.mpp, fallback_mpp=settings.slides.mpp, reading=reading.mode, stain=reading.stain)
    values, precision = settings.digest_values(), settings.compute.named_precision
    recipe = [slide.mpp, file_digest(path), *digests, __version__, _COLUMNS]
    recipe += [values[name] for name in ("predict", "tissue", "artefacts")]
    key = json_digest([*recipe, precision] if precision else recipe)
    files = MapFiles(base=job.out / path.stem, key=key[:16])
    try:
        facts = read_json(files.facts)
    except RunError:  # not there, or no JSON
        facts = {}
    explained = settings.predict.explained and networks.explaining is not None
    maps = [files.tiles, files.small]
    maps += [files.classes] if networks.segmenter else []
    uncertain = settings.predict.uncertainty and networks.segmenter is not None and networks.segmenter.looks > 1
    maps += [files.uncertainty] if uncertain else []
    maps += [files.explained] if explained else []
    is_new = facts.get("key") != files.key or not all(file.is_file() for file in maps)
    if is_new:
        _remove_results(files)
        map_slide(slide, networks, settings, files, progress)
        facts = read_json(files.facts)
    missing = [name for name in _FACTS if name not in facts]
    if missing:
        raise damaged(files.facts, f"without {missing[0]!r}")
    if explained and not files.explained_picture.is_file():
        from vitrail.report.figures.explained_slide import save_explained_figure
        from vitrail.report.figures.slide_maps import read_slide_maps

        save_explained_figure(files.explained_picture, read_slide_maps(slide, files), files)
    is_published = all(files.base.with_name(f"{files.base.name}.{ending}").is_file() for ending in ("geojson", "png"))
    if facts.get("threshold") != threshold or "summary" not in facts or not is_published:
        facts = _publish(files, slide, facts, threshold)
    with suppress(OSError):  # not empty, or not there
        files.partial.parent.rmdir()
        files.partial.parent.parent.rmdir()
    return facts, is_new


def _measure_nuclei(path: Path, job: Application, networks: Networks, *, is_new: bool, progress: Progress) -> list[str]:
    """Measure the nuclei of a mapped slide; return why not, where that cannot be: its maps stay."""
    from vitrail.nuclei.update import update_nuclei

    settings, base = job.settings, job.out / path.stem
    reading = networks.predictors[0].spec.reading.mode
    slide = open_slide(path, mpp=job.mpp, fallback_mpp=settings.slides.mpp, reading=reading)
    try:
        tiles = read_table(MapFiles(base=base).tiles)
        update_nuclei(slide, base, settings, progress, tiles=tiles, is_stale=is_new)
    except (SlideError, NucleiError) as error:
        progress.say(f"no nuclei: {error}")
        return [f"nuclei of {error}"]
    except ExchangeError:
        raise
    except OSError as error:
        raise not_written(base, error) from error
    return []


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
    published = (files.base.with_name(f"{files.base.name}.{ending}") for ending in ("geojson", "png"))
    for path in (files.facts, *maps, *published):
        path.unlink(missing_ok=True)
    for stale in files.partial.parent.glob("*"):
        if stale != files.partial:
            shutil.rmtree(stale)


def _publish(files: MapFiles, slide: Slide, facts: dict[str, Any], threshold: float) -> dict[str, Any]:
    """Name the tiles, write GeoJSON and figure, and return the facts with what came of it."""
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
    return facts


def read_summary(path: Path, columns: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Read the rows of earlier calls, so that slides may be given bit by bit.

    Parameters
    ----------
    path
        The summary.
    columns
        Its columns: `slide_id`, `reason`, and numbers.

    Returns
    -------
    dict[str, dict[str, Any]]
        The rows by slide; none where the file is missing or no summary.
    """
    try:
        table = read_csv(path, ("slide_id", "reason")).reindex(columns=columns, fill_value="")
        figures = [name for name in columns if name not in {"slide_id", "reason"}]
        table[figures] = table[figures].replace("", "nan").astype(float)
        rows = table[table["slide_id"] != ""].to_dict("records")
    except (RunError, ValueError):
        return {}
    return {str(row["slide_id"]): {str(name): value for name, value in row.items()} for row in rows}
