"""Cutting a whole cohort into one tile table: in parallel, resumable, with memory that does not grow with it.

Every slide is cut in a worker process, which leaves a part in `parts/`. Parts that are there already, from a run that
was interrupted, are not cut again; nor are slides that an earlier tile table holds under the same digest. A slide
that cannot be cut is skipped with its reason, and the rest goes on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vitrail.classes import LABELS
from vitrail.errors import AnnotationError, TileError, VitrailError
from vitrail.parallel import in_processes
from vitrail.slides.annotations import names_found
from vitrail.slides.cohort import file_digest
from vitrail.tiles.cut import class_names, cut_slide
from vitrail.tiles.table import TileTable, new_array, read_tiles

if TYPE_CHECKING:
    from pathlib import Path

    from vitrail.config import Settings
    from vitrail.progress import Progress
    from vitrail.slides.cohort import CohortSlide

VERSION = 1
"""Raised when the same slide, outlines and settings come to give other tiles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutJob:
    """One slide to be cut in a worker process."""

    entry: CohortSlide
    settings: Settings
    parts: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one slide; a row of `slides.csv` beside the tiles.

    Attributes
    ----------
    mpp
        um per level-0 pixel; NaN where it is not known.
    skipped
        Why the slide gave no tiles; empty where it did.
    warnings
        What was mended on the way, joined by ` | `.
    """

    mpp: float = float("nan")
    skipped: str = ""
    warnings: str = ""


def slide_digest(entry: CohortSlide, settings: Settings) -> str:
    """Digest all that decides a slide's tiles: files, names, settings, seed; never its split or attributes."""
    branches = settings.model_dump(mode="json", include={"seed", "slides", "annotations", "tiles"})
    recipe = [
        VERSION, entry.slide_id, entry.patient_id, entry.mpp,
        file_digest(entry.slide), file_digest(entry.annotations), branches,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def cut_cohort(
    entries: tuple[CohortSlide, ...], settings: Settings, folders: tuple[Path, Path], progress: Progress
) -> None:
    """Cut all slides and write `tiles.parquet`, `images.npy`, `masks.npy` and `slides.csv`.

    Parameters
    ----------
    entries
        The cohort.
    settings
        The study's settings.
    folders
        Where to write, and where an earlier tile table may be.
    progress
        Told after every slide.

    Raises
    ------
    AnnotationError
        Outlines have names that the settings do not know.
    TileError
        No slide gave tiles, or a class has none.
    """
    folder, earlier = folders
    check_names(entries, settings)
    digests = {entry.slide_id: slide_digest(entry, settings) for entry in entries}
    kept = _earlier_outcomes(earlier, digests)
    todo = [entry for entry in entries if entry.slide_id not in kept]
    outcomes = kept | _cut(todo, settings, folder / "parts", progress)
    sources = {name: earlier if name in kept else folder / "parts" for name in outcomes}
    summary = _summary(entries, outcomes, digests)
    _check_any(entries, summary)
    _assemble(summary, sources, folder, settings.tiles.side_px)
    shutil.rmtree(folder / "parts")


def check_names(entries: tuple[CohortSlide, ...], settings: Settings) -> None:
    """Look at the outlines' names of a whole cohort before anything is cut.

    Raises
    ------
    AnnotationError
        Some are neither mapped nor ignored; all of them are listed.
    """
    names, unknown = class_names(settings), dict[str, int]()
    files = {entry.annotations for entry in entries if entry.annotations.is_file()}
    for path in sorted(files):
        for name, count in _names_in(path).items():
            if not names.knows(name):
                unknown[name] = unknown.get(name, 0) + count
    if unknown:
        found = ", ".join(f"{name!r} ({count})" for name, count in sorted(unknown.items()))
        where = files.pop() if len(files) == 1 else f"{len(files)} annotation files"
        cure = "Add each name to tumor, non_tumor or ignore under [annotations] in study.toml"
        raise AnnotationError(where, f"outlines with unknown names: {found}", cure)


def _names_in(path: Path) -> dict[str, int]:
    try:
        return names_found(path)
    except AnnotationError:
        return {}  # this slide will be skipped with its reason when it is cut


def _cut(todo: list[CohortSlide], settings: Settings, parts: Path, progress: Progress) -> dict[str, Outcome]:
    parts.mkdir(exist_ok=True)
    jobs = [CutJob(entry=entry, settings=settings, parts=parts) for entry in todo]
    outcomes = {job.entry.slide_id: _finished(job) for job in jobs}
    open_jobs = [job for job in jobs if outcomes[job.entry.slide_id] is None]
    with progress.task("tiles", len(jobs), len(jobs) - len(open_jobs)) as step:
        for job, outcome in in_processes(_cut_part, open_jobs, settings.compute.workers):
            outcomes[job.entry.slide_id] = outcome
            step(1, outcome.skipped and f"skipped {job.entry.slide_id}")
    return {name: outcome for name, outcome in outcomes.items() if outcome}


def _finished(job: CutJob) -> Outcome | None:
    """Find the part that an interrupted run left."""
    path = job.parts / f"{job.entry.slide_id}.json"
    return Outcome(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _cut_part(job: CutJob) -> Outcome:
    """Cut one slide and leave its part; the `.json` comes last. A failure leaves none and is tried again next time."""
    path = job.parts / f"{job.entry.slide_id}.json"
    try:
        cut = cut_slide(job.entry, job.settings)
    except VitrailError as error:
        return Outcome(skipped=str(error))
    cut.rows.to_parquet(path.with_suffix(".parquet"))
    for name, array in (("images", cut.images), ("masks", cut.masks)):
        np.save(path.with_suffix(f".{name}.npy"), array)
    outcome = Outcome(mpp=cut.mpp, warnings=" | ".join(cut.warnings))
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"mpp": outcome.mpp, "warnings": outcome.warnings}), encoding="utf-8")
    temporary.replace(path)
    return outcome


def _earlier_outcomes(earlier: Path, digests: dict[str, str]) -> dict[str, Outcome]:
    """Find the slides whose tiles an earlier table holds unchanged."""
    if not (earlier / "stage.json").is_file():
        return {}
    rows = pd.read_csv(earlier / "slides.csv", dtype={"slide_id": str}, keep_default_na=False, na_values={"mpp": [""]})
    rows = rows[(rows["skipped"] == "") & (rows["digest"] == rows["slide_id"].map(digests))]
    columns = rows[["slide_id", "mpp", "warnings"]].itertuples(index=False)
    return {name: Outcome(mpp=float(mpp), warnings=warnings) for name, mpp, warnings in columns}


def _summary(entries: tuple[CohortSlide, ...], outcomes: dict[str, Outcome], digests: dict[str, str]) -> pd.DataFrame:
    records = [(e.slide_id, e.patient_id, outcomes[e.slide_id]) for e in entries]
    rows = [(s, p, o.mpp, o.skipped, o.warnings, digests[s]) for s, p, o in records]
    return pd.DataFrame(rows, columns=["slide_id", "patient_id", "mpp", "skipped", "warnings", "digest"])


def _check_any(entries: tuple[CohortSlide, ...], summary: pd.DataFrame) -> None:
    if (summary["skipped"] != "").all():
        raise TileError(
            f"{len(entries)} slides", f"none gave tiles. The first: {summary['skipped'].iloc[0]}", "Mend these"
        )


def _assemble(summary: pd.DataFrame, sources: dict[str, Path], folder: Path, side_px: int) -> None:
    """Join the parts, one slide at a time, in the order of the cohort."""
    earlier = {source: read_tiles(source) for source in set(sources.values()) if source != folder / "parts"}
    names = list(summary.loc[summary["skipped"] == "", "slide_id"])
    rows = pd.concat([_rows(name, sources[name], earlier) for name in names], ignore_index=True)
    _check_labels(rows)
    images = new_array(folder / "images.npy", (len(rows), side_px, side_px, 3))
    masks = new_array(folder / "masks.npy", (len(rows), side_px, side_px))
    for name, where in rows.groupby("slide_id", sort=False).indices.items():
        images[where], masks[where] = _pixels(str(name), sources[str(name)], earlier)
    rows.to_parquet(folder / "tiles.parquet")
    for label in LABELS:
        found = rows.loc[rows["label"] == label.key, "slide_id"].value_counts()
        summary[f"{label.key}_tiles"] = summary["slide_id"].map(found).fillna(0).astype(int)
    summary.to_csv(folder / "slides.csv", index=False)


def _check_labels(rows: pd.DataFrame) -> None:
    for label in LABELS:
        if label.key not in set(rows["label"]):
            cure = f"Add slides with such outlines, or check [annotations] {label.key} in study.toml"
            raise TileError(f"{len(rows)} tiles", f"not one of them is {label.title.lower()}", cure)


def _rows(name: str, source: Path, earlier: dict[Path, TileTable]) -> pd.DataFrame:
    if source in earlier:
        rows = earlier[source].rows
        return rows[rows["slide_id"] == name]
    return pd.read_parquet(source / f"{name}.parquet")


def _pixels(name: str, source: Path, earlier: dict[Path, TileTable]) -> tuple[np.ndarray, np.ndarray]:
    if source in earlier:
        table = earlier[source]
        where = np.flatnonzero(table.rows["slide_id"] == name)
        return table.images[where], table.masks[where]
    return np.load(source / f"{name}.images.npy"), np.load(source / f"{name}.masks.npy")
