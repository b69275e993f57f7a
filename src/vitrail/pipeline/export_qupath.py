"""All that is there of slides as a QuPath project: slides, maps, tiles, regions and nuclei with their measurements."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.core.files import not_written, read_json
from vitrail.errors import ExchangeError, RunError, SlideError
from vitrail.inference.outputs import MapFiles
from vitrail.inference.publish import name_tiles, slide_objects
from vitrail.interop.qupath import write_geojson
from vitrail.interop.qupath_images import ProjectImage, map_image, slide_image
from vitrail.interop.qupath_project import PROJECT, export_project
from vitrail.nuclei.export import write_detections
from vitrail.nuclei.slide import NucleiFiles
from vitrail.nuclei.store import read_header
from vitrail.pipeline.measured import measured
from vitrail.pipeline.outcome import Outcome
from vitrail.slides.cohort import read_cohort
from vitrail.slides.slide import open_slide
from vitrail.stage import open_run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_THRESHOLD = 0.5
"""Where tiles that were not named yet are called tumor, as `evaluation.threshold`."""

_SUMMARY = ("tissue_mm2", "tumor_mm2", "tumor_share", "tiles")
"""What a project says of a slide, where it is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    """What is there of one slide."""

    base: Path
    """Folder and name of its maps, without an ending; they may be missing."""
    slide: Path | None
    """Its file, where that is known."""
    file_name: str
    mpp: float | None = None
    """As the user gave it, and it wins over the header."""
    threshold: float = _THRESHOLD
    finished: Path | None = None
    """A GeoJSON for QuPath, where there are no maps to make one of."""
    metadata: dict[str, str] = field(default_factory=dict)


def export_qupath(results: Path, out: Path, slides: Sequence[Path] = ()) -> Outcome:
    """Write a QuPath project, and a script that imports the same objects into any other project.

    Tiles get a measurement of their relevance, the mean of each method's map over the tile, and nuclei that at their
    centre and the tumor probability of their tile, where there are explanations.

    Parameters
    ----------
    results
        A run, or a folder with results of `vitrail predict` or `vitrail nuclei`.
    out
        The project's folder; made where it is missing. What QuPath or a person has added to it stays.
    slides
        Where the slides of a folder of results lie: files or folders, before that folder itself and the one it is in.

    Returns
    -------
    Outcome
        What was written, and slides that could not be opened: their objects are gathered all the same.

    Raises
    ------
    RunError
        The run has no GeoJSON yet, or a file of it is damaged.
    ExchangeError
        There are no results, or the folder cannot be written to.
    """
    is_run = (results / "study.toml").is_file() or not results.is_dir()
    mapped = list(_of_run(results) if is_run else _of_folder(results, slides))
    if not mapped and is_run:
        raise RunError(results, "its report has no GeoJSON yet", f"Make it with: vitrail run {results}")
    if not mapped:
        raise ExchangeError(results, "holds no results of slides", "Make them with: vitrail predict")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExchangeError(out, f"cannot be made ({error.strerror})", "Give another folder") from error
    names = Counter(result.file_name for result in mapped)
    geojsons, images, warnings = dict[str, list[Path]](), list[ProjectImage](), list[str]()
    for result in mapped:
        # QuPath lists an image by its file's name; slides that share one by their own
        name = result.file_name if names[result.file_name] == 1 else result.base.name
        try:
            geojsons[name] = _objects(result, out)
            own, problem = _images(result, name)
        except OSError as error:
            raise not_written(out / result.base.name, error) from error
        images += own
        warnings += [problem] if problem else []
    script = export_project(out, geojsons, images)
    maps = len(images) - sum(image.name in geojsons for image in images)
    line = f"{len(images) - maps} slides and {maps} maps in {PROJECT}; objects come in by its script {script.stem}"
    files = [path for own in geojsons.values() for path in own]
    return Outcome(
        lines=[line if images else f"objects of {len(mapped)} slides", str(script)],
        warnings=warnings,
        results={
            "script": str(script),
            "project": str(out / PROJECT) if images else None,
            "slides": len(images) - maps,
            "maps": maps,
            "files": [str(out / path.name) for path in files],
        },
    )


def _of_run(folder: Path) -> Iterator[_Result]:
    """Yield the slides of a run that were mapped."""
    run = open_run(folder)
    for entry in read_cohort(run.cohort):
        finished = folder / "report" / "qupath" / f"{entry.slide_id}.geojson"
        if finished.is_file():
            yield _Result(
                base=folder / "predictions" / "maps" / entry.slide_id,
                slide=entry.slide,
                file_name=entry.slide.name,
                mpp=entry.mpp,
                threshold=run.settings.evaluation.threshold,
                finished=finished,
                metadata={"slide_id": entry.slide_id, **({"split": entry.split} if entry.split else {})},
            )


def _of_folder(folder: Path, slides: Sequence[Path]) -> Iterator[_Result]:
    """Yield the slides that a folder holds results of."""
    endings = (".tiles.parquet", ".nuclei.parquet")
    names = {path.name.removesuffix(ending) for ending in endings for path in folder.glob(f"*{ending}")}
    folders = [*slides, folder, folder.absolute().parent]
    for name in sorted(names):
        base = folder / name
        files = MapFiles(base=base)
        facts = read_json(files.facts) if files.facts.is_file() else {}
        slide_name = str(facts["slide"]) if facts.get("slide") else None
        slide = _find(folders, slide_name, name)
        yield _Result(
            base=base,
            slide=slide,
            file_name=slide_name or (slide.name if slide else name),
            threshold=facts.get("threshold", _THRESHOLD),
            metadata={"slide_id": name},
        )


def _find(folders: Iterable[Path], file_name: str | None, name: str) -> Path | None:
    """Look for a slide by its file's name, or where that is unknown by its name without an ending."""
    results = (".tiles.parquet", ".json", ".png", ".npz", ".geojson", ".tiff", ".parquet", ".csv")
    for folder in folders:
        candidates = [folder] if folder.is_file() else sorted(folder.glob("*"))
        for path in candidates:
            by_stem = file_name is None and path.stem == name and path.suffix not in results
            if path.is_file() and (path.name == file_name or by_stem):
                return path
    return None


def _objects(result: _Result, out: Path) -> list[Path]:
    """Write the objects of a slide into the project's folder, or name the file that holds them."""
    files, name, written = MapFiles(base=result.base), result.base.name, list[Path]()
    own = measured(result.base)
    if own.tiles is not None and files.facts.is_file():
        facts = read_json(files.facts, ("mpp", "map_mpp"))
        names = name_tiles(own.tiles, result.threshold)
        written.append(out / f"{name}.geojson")
        write_geojson(written[-1], slide_objects(files, facts, own.tiles, names, own.tile_titles))
    elif result.finished is not None:
        written.append(result.finished)
    if own.nuclei is not None:
        written.append(out / f"{name}.nuclei.geojson")
        write_detections(written[-1], own.header(), own.nuclei_parts(), own.nuclei_titles)
    return written


def _images(result: _Result, name: str) -> tuple[list[ProjectImage], str]:
    """Return a slide and its maps as images of a project, and why the slide cannot be one."""
    if result.slide is None:
        return [], f"{name}: its slide was not found; give its folder with --slides"
    files, metadata = MapFiles(base=result.base), dict(result.metadata)
    if files.facts.is_file():
        summary = read_json(files.facts).get("summary") or {}
        metadata |= {key: f"{summary[key]:.4g}" for key in _SUMMARY if isinstance(summary.get(key), int | float)}
    try:
        image = slide_image(result.slide, _mpp(result, result.slide), metadata)
    except SlideError as error:
        return [], str(error)
    maps = {files.classes: "tissue classes", files.explained: "explanations", files.uncertainty: "uncertainty"}
    made = [map_image(path, f"{name} ({what})") for path, what in maps.items() if path.is_file()]
    return [replace(image, name=name), *made], ""


def _mpp(result: _Result, slide: Path) -> float:
    """Return um per level-0 pixel as they were when the results were made."""
    files, nuclei = MapFiles(base=result.base), NucleiFiles(base=result.base, key="")
    if files.facts.is_file():
        return float(read_json(files.facts, ("mpp",))["mpp"])
    if nuclei.table.is_file():
        return read_header(nuclei.table).mpp
    return open_slide(slide, mpp=result.mpp).mpp
