"""Cutting a whole cohort into one tile table: in parallel, resumable, with memory that does not grow with it.

Every slide is a job, done in a worker process here or wherever an executor does it. It leaves a part, named by the
digest of all that decides the slide's tiles. Parts that are there already, from a run that was interrupted, are not cut
again; nor are slides that an earlier tile table holds under the same digest. A slide that cannot be cut is skipped with
its reason, and the rest goes on.
"""

from __future__ import annotations

import logging
import os
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from vitrail.classes import LABELS, TissueClass
from vitrail.core.digest import json_digest
from vitrail.core.files import read_csv, write_csv, write_table
from vitrail.core.parallel import cores
from vitrail.distribute.jobs import Here, Jobs, Processes
from vitrail.errors import AnnotationError, RunError, SlideError, TileError
from vitrail.slides.annotations import names_found
from vitrail.slides.cohort import content_digest, file_digest
from vitrail.slides.outlines.formats import files_of
from vitrail.tiles.extract import CutJob, Outcome, cut_part, finished_part, read_part
from vitrail.tiles.outlines import class_names
from vitrail.tiles.store import join_arrays, tiles_by_slide

if TYPE_CHECKING:
    from pathlib import Path

    from vitrail.core.progress import Progress
    from vitrail.distribute.jobs import Executor
    from vitrail.settings.load import Settings
    from vitrail.slides.cohort import CohortSlide
    from vitrail.tiles.store import StoredTiles

_log = logging.getLogger(__name__)

_NAMES_LISTED, _FILES_NAMED = 20, 3
"""Unknown names that a message lists at most, and files that it names for each."""

VERSION = 4
"""Raised when the same slide, outlines and settings come to give other tiles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Where a cohort's tiles are cut.

    Attributes
    ----------
    result
        Where the tile table is written.
    parts
        Where finished slides wait for the others.
    earlier
        Where an earlier tile table may be.
    """

    result: Path
    parts: Path
    earlier: Path


def slide_digest(entry: CohortSlide, settings: Settings) -> str:
    """Digest all that decides a slide's tiles: files, names, settings, seed; never its split or attributes."""
    values = settings.digest_values()
    finds_tissue = settings.annotations.unlabelled_tissue != "ignore"
    names = ("seed", "slides", "annotations", "tiles", *(("tissue", "artefacts") if finds_tissue else ()))
    branches = {name: values[name] for name in names}
    files = file_digest(entry.slide), *map(content_digest, _outline_files(entry))
    return json_digest([VERSION, entry.slide_id, entry.patient_id, entry.mpp, files, branches])


def _outline_files(entry: CohortSlide) -> list[Path]:
    """List what a slide's outlines are read from; where that cannot be told its part says why."""
    try:
        return files_of(entry.annotations, entry.slide)
    except AnnotationError:
        return [entry.annotations]


def cut_cohort(
    entries: tuple[CohortSlide, ...],
    settings: Settings,
    folders: Folders,
    progress: Progress,
    executor: Executor | None = None,
) -> None:
    """Cut all slides and write `tiles.parquet`, `images.npy`, `masks.npy`, and `slides.csv`: what became of each.

    Parameters
    ----------
    entries
        The cohort.
    settings
        The study's settings.
    folders
        Where to write, and where earlier work may be.
    progress
        Told after every slide.
    executor
        What cuts slides; None works with as many processes of this machine as the settings say.

    Raises
    ------
    AnnotationError
        Outlines have names that the settings do not know.
    SlideError
        A slide that the earlier table holds is missing now.
    TileError
        No slide gave tiles, or a class has none.
    RunError
        A slide cost a worker its life, or a worker does not see it; the other slides are cut.
    """
    plan = _plan(entries, settings, folders)
    outcomes = plan.outcomes | _cut(plan.jobs, executor or _on_this_machine(settings, len(plan.jobs)), progress)
    summary = pd.DataFrame(
        [
            (e.slide_id, e.patient_id, outcome.mpp, outcome.skipped, outcome.warnings, plan.digests[e.slide_id])
            for e in entries
            for outcome in [outcomes[e.slide_id]]
        ],
        columns=["slide_id", "patient_id", "mpp", "skipped", "warnings", "digest"],
    )
    cut = [str(name) for name in summary.loc[summary["skipped"] == "", "slide_id"]]
    if not cut:
        first = f"{summary['slide_id'].iloc[0]}: {summary['skipped'].iloc[0].rstrip('.')}"
        raise TileError(f"{len(summary)} slides", f"none gave tiles; {first}", "Mend the slides like this first one")
    stored = tiles_by_slide(folders.earlier) if plan.outcomes else {}
    tiles = [read_part(plan.jobs[name].part) if name in plan.jobs else stored[name] for name in cut]
    _join(summary, tiles, folders.result, settings.tiles.side_px)


def cut_parts(
    entries: tuple[CohortSlide, ...], settings: Settings, folders: Folders, progress: Progress, executor: Executor
) -> None:
    """Cut those slides whose parts are missing, perhaps together with other commands; `cut_cohort` joins them.

    Parameters
    ----------
    entries, settings, folders, progress, executor
        As of `cut_cohort`. `folders.parts` is one folder for all that work together.

    Raises
    ------
    AnnotationError, SlideError, RunError
        As `cut_cohort`.
    """
    _cut(_plan(entries, settings, folders).jobs, executor, progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What there is to do for a cohort: jobs, and what became of slides that the earlier table holds, unchanged."""

    digests: dict[str, str]
    outcomes: dict[str, Outcome]
    jobs: dict[str, CutJob]


def _plan(entries: tuple[CohortSlide, ...], settings: Settings, folders: Folders) -> _Plan:
    """Look at the outlines' names, and tell which slides need cutting; see `cut_cohort` for what is raised."""
    check_names(entries, settings)
    earlier = _earlier_slides(folders.earlier)
    for entry in entries:  # a finished table is not replaced by a smaller one because a disk is not there today
        if entry.slide_id in earlier.index and not entry.slide.exists():
            cure = f"Put it back, or remove {entry.slide_id} from slides.csv to go on without it"
            raise SlideError(entry.slide, "is missing, and the finished tiles hold it", cure)
    digests = {entry.slide_id: slide_digest(entry, settings) for entry in entries}
    unchanged = earlier[earlier["digest"] == earlier.index.map(digests)]
    columns = zip(unchanged.index, unchanged["mpp"], unchanged["warnings"], strict=True)
    outcomes = {str(name): Outcome(mpp=float(mpp), warnings=warnings) for name, mpp, warnings in columns}
    parts = folders.parts.absolute()  # another machine may work somewhere else
    jobs = {
        entry.slide_id: CutJob(
            entry=entry,
            settings=settings,
            part=parts / digests[entry.slide_id],
            seen=tuple(path for path in (entry.slide, entry.annotations) if os.path.exists(path)),  # noqa: PTH110 - never raises
        )
        for entry in entries
        if entry.slide_id not in outcomes
    }
    _log.info("tiles: %d slides unchanged, %d to cut", len(outcomes), len(jobs))
    return _Plan(digests=digests, outcomes=outcomes, jobs=jobs)


def check_names(entries: tuple[CohortSlide, ...], settings: Settings) -> None:
    """Look at the outlines' names of a whole cohort before anything is cut.

    Parameters
    ----------
    entries
        The cohort.
    settings
        The study's settings, which map names to classes.

    Raises
    ------
    AnnotationError
        Some are neither mapped nor ignored; all of them are listed.
    """
    names = class_names(settings)
    unknown: dict[str, dict[Path, int]] = {}
    slides: dict[Path, list[Path]] = {}  # a file may hold the outlines of many slides, and is read once
    for entry in entries:
        if os.path.isfile(entry.annotations):  # noqa: PTH113 - never raises
            slides.setdefault(entry.annotations, []).append(entry.slide)
    for path in sorted(slides):
        try:
            counts = names_found(path, slides[path])
        except AnnotationError:
            continue  # this slide will be skipped with its reason when it is cut
        for name, count in counts.items():
            if not names.knows(name):
                unknown.setdefault(name, {})[path] = count
    if not unknown:
        return
    paths = {path for counts in unknown.values() for path in counts}
    listed = []
    for name, by_file in sorted(unknown.items())[:_NAMES_LISTED]:
        in_files = f" in {', '.join([path.name for path in by_file][:_FILES_NAMED])}" if len(paths) > 1 else ""
        in_more = f" and {len(by_file) - _FILES_NAMED} more" if in_files and len(by_file) > _FILES_NAMED else ""
        listed.append(f"{name!r} ({sum(by_file.values())}{in_files}{in_more})")
    more = f" and {len(unknown) - _NAMES_LISTED} more names" if len(unknown) > _NAMES_LISTED else ""
    where = next(iter(paths)) if len(paths) == 1 else f"{len(paths)} annotation files"
    cure = "Add each name to tumor, non_tumor or ignore under [annotations] in study.toml"
    raise AnnotationError(where, f"outlines with unknown names: {', '.join(listed)}{more}", cure)


def _earlier_slides(folder: Path) -> pd.DataFrame:
    """Return the slides with tiles of an earlier tile table, by their name; none where there is no finished one."""
    if not (folder / "stage.json").is_file():
        return pd.DataFrame(columns=["mpp", "warnings", "digest"])
    rows = read_csv(folder / "slides.csv", ("slide_id", "mpp", "skipped", "warnings", "digest"))
    return rows[rows["skipped"] == ""].set_index("slide_id")


def _on_this_machine(settings: Settings, jobs: int) -> Executor:
    """Return what cuts slides where nothing else is named."""
    workers = min(settings.compute.workers or cores(), jobs)
    return Processes(environments=[{}] * workers, deaths=0) if workers > 1 else Here()


def _cut(jobs: dict[str, CutJob], executor: Executor, progress: Progress) -> dict[str, Outcome]:
    """Cut slides whose part is not there, and return what became of each."""
    todo = Jobs(title="tiles", work=cut_part, jobs=jobs, is_done=lambda job: finished_part(job.part) is not None)
    skipped, failures = dict[str, str](), list[RunError]()
    with (
        progress.task(todo.title, len(jobs), len(jobs) - len(todo.unfinished())) as step,
        closing(executor.run(todo)) as ended,
    ):
        for name, error in ended:
            if isinstance(error, RunError):  # nothing that the slide is to blame for
                failures.append(error)
            elif error:
                skipped[name] = str(error)
            step(1, f"skipped {name}" if error else "")
    if failures:
        raise failures[0]
    return {name: finished_part(job.part) or Outcome(skipped=skipped[name]) for name, job in jobs.items()}


def _join(summary: pd.DataFrame, slides: list[StoredTiles], folder: Path, side_px: int) -> None:
    """Join the slides' tiles, in the order of the cohort, and count the tiles of each label of each slide."""
    rows = pd.concat([tiles.rows for tiles in slides], ignore_index=True)
    for label in LABELS:
        counts = rows.loc[rows["label"] == label.key, "slide_id"].value_counts()
        if not len(counts):
            cure = f"Add slides with such outlines, or check [annotations] {label.key} in study.toml"
            if label is TissueClass.NON_TUMOR:
                cure += (
                    '; where all tumor is outlined and nothing else, set annotations.unlabelled_tissue = "non_tumor"'
                )
            raise TileError(f"{len(rows)} tiles", f"not one of them is {label.title.lower()}", cure)
        counted = summary["slide_id"].map(counts).fillna(0).astype(int)
        summary = summary.assign(**{f"{label.key}_tiles": counted})
    shape = len(rows), side_px, side_px
    join_arrays(folder / "images.npy", (*shape, 3), [(tiles.images, tiles.span) for tiles in slides])
    join_arrays(folder / "masks.npy", shape, [(tiles.masks, tiles.span) for tiles in slides])
    write_table(folder / "tiles.parquet", rows)
    write_csv(folder / "slides.csv", summary)
