"""Cutting a whole cohort into one tile table: in parallel, resumable, with memory that does not grow with it.

Every slide is cut in a worker process, which leaves a part, named by the digest of all that decides the slide's tiles.
Parts that are there already, from a run that was interrupted, are not cut again; nor are slides that an earlier tile
table holds under the same digest. A slide that cannot be cut is skipped with its reason, and the rest goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from vitrail.classes import LABELS
from vitrail.core.files import read_csv, write_csv
from vitrail.core.parallel import in_processes
from vitrail.errors import AnnotationError, SlideError, TileError
from vitrail.slides.annotations import names_found
from vitrail.slides.cohort import content_digest, file_digest
from vitrail.tiles.extract import class_names
from vitrail.tiles.parts import CutJob, Outcome, cut_part, finished_part, read_part
from vitrail.tiles.store import join_arrays, tiles_by_slide

if TYPE_CHECKING:
    from pathlib import Path

    from vitrail.core.progress import Progress
    from vitrail.settings.load import Settings
    from vitrail.slides.cohort import CohortSlide
    from vitrail.tiles.store import StoredTiles

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
    branches = settings.model_dump(mode="json", include={"seed", "slides", "annotations", "tiles"})
    files = file_digest(entry.slide), content_digest(entry.annotations)
    recipe = [VERSION, entry.slide_id, entry.patient_id, entry.mpp, files, branches]
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def cut_cohort(entries: tuple[CohortSlide, ...], settings: Settings, folders: Folders, progress: Progress) -> None:
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

    Raises
    ------
    AnnotationError
        Outlines have names that the settings do not know.
    SlideError
        A slide that the earlier table holds is missing now.
    TileError
        No slide gave tiles, or a class has none.
    """
    check_names(entries, settings)
    earlier = _earlier(folders.earlier)
    _check_missing(entries, earlier)
    digests = {entry.slide_id: slide_digest(entry, settings) for entry in entries}
    kept = _kept(earlier, digests)
    jobs = [_job(entry, settings, folders, digests) for entry in entries if entry.slide_id not in kept]
    summary = _summary(entries, kept | _cut(jobs, settings.compute.workers, progress), digests)
    _check_any(summary)
    held = tiles_by_slide(folders.earlier) if kept else {}
    names = [str(name) for name in summary.loc[summary["skipped"] == "", "slide_id"]]
    tiles = [held[name] if name in kept else read_part(folders.parts / digests[name]) for name in names]
    _assemble(summary, tiles, folders.result, settings.tiles.side_px)


def check_names(entries: tuple[CohortSlide, ...], settings: Settings) -> None:
    """Look at the outlines' names of a whole cohort before anything is cut.

    Raises
    ------
    AnnotationError
        Some are neither mapped nor ignored; all of them are listed.
    """
    names = class_names(settings)
    unknown: dict[str, dict[Path, int]] = {}
    files = {entry.annotations for entry in entries if os.path.isfile(entry.annotations)}  # noqa: PTH113 - never raises
    for path in sorted(files):
        for name, count in _names_in(path).items():
            if not names.knows(name):
                unknown.setdefault(name, {})[path] = count
    if unknown:
        places = {path for counts in unknown.values() for path in counts}
        listed = [_listed(name, counts, len(places) > 1) for name, counts in sorted(unknown.items())]
        found = ", ".join(listed[:_NAMES_LISTED]) + f" and {len(listed) - _NAMES_LISTED} more names" * (
            len(listed) > _NAMES_LISTED
        )
        where = next(iter(places)) if len(places) == 1 else f"{len(places)} annotation files"
        cure = "Add each name to tumor, non_tumor or ignore under [annotations] in study.toml"
        raise AnnotationError(where, f"outlines with unknown names: {found}", cure)


def _listed(name: str, counts: dict[Path, int], with_files: bool) -> str:  # noqa: FBT001 - whether they differ
    """Say how often a name is there, and in which files, if these are not said already."""
    total, files = sum(counts.values()), [path.name for path in counts]
    more = f" and {len(files) - _FILES_NAMED} more" if len(files) > _FILES_NAMED else ""
    return f"{name!r} ({total} in {', '.join(files[:_FILES_NAMED])}{more})" if with_files else f"{name!r} ({total})"


def _names_in(path: Path) -> dict[str, int]:
    try:
        return names_found(path)
    except AnnotationError:
        return {}  # this slide will be skipped with its reason when it is cut


def _job(entry: CohortSlide, settings: Settings, folders: Folders, digests: dict[str, str]) -> CutJob:
    return CutJob(entry=entry, settings=settings, part=folders.parts / digests[entry.slide_id])


def _cut(jobs: list[CutJob], workers: int, progress: Progress) -> dict[str, Outcome]:
    done = {job.entry.slide_id: outcome for job in jobs if (outcome := finished_part(job.part))}
    todo = [job for job in jobs if job.entry.slide_id not in done]
    with progress.task("tiles", len(jobs), len(done)) as step, closing(in_processes(cut_part, todo, workers)) as cut:
        for job, outcome in cut:
            done[job.entry.slide_id] = outcome
            step(1, outcome.skipped and f"skipped {job.entry.slide_id}")
    return done


def _earlier(folder: Path) -> pd.DataFrame:
    """Return the slides with tiles of an earlier tile table; none where there is no finished one."""
    if not (folder / "stage.json").is_file():
        return pd.DataFrame(columns=["slide_id", "mpp", "warnings", "digest"])
    rows = read_csv(folder / "slides.csv", ("slide_id", "mpp", "skipped", "warnings", "digest"))
    return rows[rows["skipped"] == ""]


def _check_missing(entries: tuple[CohortSlide, ...], earlier: pd.DataFrame) -> None:
    """Refuse to replace a finished table by a smaller one because a disk is not there today."""
    held = set(earlier["slide_id"])
    for entry in entries:
        if entry.slide_id in held and not entry.slide.exists():
            cure = f"Put it back, or remove {entry.slide_id} from slides.csv to go on without it"
            raise SlideError(entry.slide, "is missing, and the finished tiles hold it", cure)


def _kept(earlier: pd.DataFrame, digests: dict[str, str]) -> dict[str, Outcome]:
    """Return the slides whose tiles the earlier table holds unchanged."""
    same = earlier[earlier["digest"] == earlier["slide_id"].map(digests)]
    columns = same[["slide_id", "mpp", "warnings"]].itertuples(index=False)
    return {name: Outcome(mpp=float(mpp), warnings=warnings) for name, mpp, warnings in columns}


def _summary(entries: tuple[CohortSlide, ...], outcomes: dict[str, Outcome], digests: dict[str, str]) -> pd.DataFrame:
    records = [(e.slide_id, e.patient_id, outcomes[e.slide_id]) for e in entries]
    rows = [(s, p, o.mpp, o.skipped, o.warnings, digests[s]) for s, p, o in records]
    return pd.DataFrame(rows, columns=["slide_id", "patient_id", "mpp", "skipped", "warnings", "digest"])


def _check_any(summary: pd.DataFrame) -> None:
    if (summary["skipped"] != "").all():
        first = f"{summary['slide_id'].iloc[0]}: {summary['skipped'].iloc[0].rstrip('.')}"
        raise TileError(f"{len(summary)} slides", f"none gave tiles; {first}", "Mend the slides like this first one")


def _assemble(summary: pd.DataFrame, slides: list[StoredTiles], folder: Path, side_px: int) -> None:
    """Join the slides' tiles, in the order of the cohort."""
    rows = pd.concat([tiles.rows for tiles in slides], ignore_index=True)
    _check_labels(rows)
    shape = len(rows), side_px, side_px
    join_arrays(folder / "images.npy", (*shape, 3), [(tiles.images, tiles.span) for tiles in slides])
    join_arrays(folder / "masks.npy", shape, [(tiles.masks, tiles.span) for tiles in slides])
    rows.to_parquet(folder / "tiles.parquet")
    write_csv(folder / "slides.csv", _counted(summary, rows))


def _check_labels(rows: pd.DataFrame) -> None:
    for label in LABELS:
        if label.key not in set(rows["label"]):
            cure = f"Add slides with such outlines, or check [annotations] {label.key} in study.toml"
            raise TileError(f"{len(rows)} tiles", f"not one of them is {label.title.lower()}", cure)


def _counted(summary: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Add the number of tiles of each label to each slide."""
    found = {label: rows.loc[rows["label"] == label.key, "slide_id"].value_counts() for label in LABELS}
    counts = {f"{label.key}_tiles": summary["slide_id"].map(n).fillna(0).astype(int) for label, n in found.items()}
    return summary.assign(**counts)
