"""The nuclei of any slides: a table, detections for QuPath, and a row of the summary for each."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitrail import __version__
from vitrail.core.digest import json_digest
from vitrail.core.files import not_written
from vitrail.core.progress import Silent
from vitrail.distribute.jobs import Here, Jobs
from vitrail.errors import NucleiError, SlideError
from vitrail.nuclei.features import FEATURES
from vitrail.nuclei.update import nuclei_are_current, nuclei_are_measured, nuclei_summary, update_nuclei
from vitrail.pipeline.outcome import Outcome
from vitrail.pipeline.slide_by_slide import every_end, results_folder, slide_jobs, update_summary
from vitrail.slides.slide import open_slide

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vitrail.core.progress import Progress
    from vitrail.distribute.jobs import Executor
    from vitrail.pipeline.slide_by_slide import SlideJob
    from vitrail.settings.load import Settings
    from vitrail.slides.slide import Slide

SUMMARY_CSV = "nuclei.csv"

_COLUMNS = ("slide_id", "nuclei", *FEATURES, "reason")
"""Of the summary: number of nuclei, and the median of each feature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NucleiJob:
    """How nuclei are looked for, and where they are written.

    Attributes
    ----------
    out
        Folder for the results; made where it is missing.
    mpp
        Micrometres per level-0 pixel of the slides, whatever their headers say; None takes it from these.
    settings
        The branches `nuclei`, `slides` and `tissue` matter.
    """

    out: Path
    mpp: float | None = None
    settings: Settings


def find_nuclei(
    slides: Sequence[Path], job: NucleiJob, progress: Progress | None = None, executor: Executor | None = None
) -> Outcome:
    """Find and measure the nuclei of slides; slides that are finished are not done again.

    For each slide `<name>.nuclei.parquet` and `<name>.nuclei.geojson` are written, and after each slide `nuclei.csv`,
    with a reason for those left out.

    Parameters
    ----------
    slides
        Files that OpenSlide reads; their names without endings name the results.
    job
        Settings, and where to write.
    progress
        Told how far the work is.
    executor
        Does the slides; None: one after the other, here. Where other commands do some of them, too, the summary is
        written once all have ended.

    Returns
    -------
    Outcome
        What came out. Slides whose nuclei cannot be found do not end the work; they are in `skipped`.

    Raises
    ------
    SettingsError
        No slide is given, two share a name, or the engine lacks a model.
    ExchangeError
        A result cannot be written.
    RunError
        Another call writes into the same folder, or a file of an earlier call is damaged.
    """
    jobs, progress = slide_jobs(slides, job, "nuclei.parquet"), progress or Silent()
    executor = executor or Here(progress=progress)
    work = Jobs(title="nuclei", work=measure_one, jobs=jobs, is_done=_is_done)
    rows, errors = dict[str, dict[str, Any]](), dict[str, str]()
    purpose = json_digest(["nuclei", __version__, job.mpp, job.settings.decisive_values()])
    with (
        results_folder(job.out, purpose, executor),
        closing(every_end(work, executor, job.settings.compute, progress)) as ends,
    ):
        before = {name for name, each in jobs.items() if _is_measured(each)}
        for name, error in ends:
            rows[name] = {"slide_id": name}
            if isinstance(error, SlideError | NucleiError):
                progress.say(f"skipped: {error}")
                errors[name] = rows[name]["reason"] = str(error)
            elif error is not None:
                raise error
            else:
                rows[name] |= nuclei_summary(job.out / name)
            if not executor.is_shared:
                update_summary(job.out / SUMMARY_CSV, rows, _COLUMNS)
        with executor.alone(job.out):
            summary = update_summary(job.out / SUMMARY_CSV, rows, _COLUMNS)
    new = len(rows.keys() - before - errors.keys())
    total = int(sum(row["nuclei"] for row in summary.values() if not row.get("reason")))
    lines = [f"nuclei of {new} slides measured, {total} nuclei in all", str(job.out / SUMMARY_CSV)]
    results = {
        "measured": new,
        "nuclei": total,
        "summary": job.out / SUMMARY_CSV,
        "slides": {
            name: {"nuclei": int(row["nuclei"]), "table": job.out / f"{name}.nuclei.parquet"}
            for name, row in rows.items()
            if name not in errors
        },
    }
    return Outcome(lines=lines, skipped=[errors[name] for name in jobs if name in errors], results=results)


def measure_one(job: SlideJob[NucleiJob], progress: Progress) -> None:
    """Find and measure the nuclei of one slide, unless that is done.

    Parameters
    ----------
    job
        The slide.
    progress
        Told how far the work is.

    Raises
    ------
    SlideError
        It cannot be read, or holds no tissue.
    NucleiError
        It is too coarse, or the engine cannot find them.
    SettingsError
        The engine lacks a model.
    ExchangeError
        A file cannot be written.
    """
    progress.say(f"{job.path.name} ({job.turn})")
    base = job.application.out / job.path.stem
    try:
        update_nuclei(_slide(job), base, job.application.settings, progress)
    except OSError as error:
        raise not_written(base, error) from error


def _slide(job: SlideJob[NucleiJob]) -> Slide:
    slides = job.application.settings.slides
    return open_slide(job.path, mpp=job.application.mpp, fallback_mpp=slides.mpp, reading=slides.reading)


def _is_measured(job: SlideJob[NucleiJob]) -> bool:
    """Tell whether a slide's table is there."""
    try:
        return nuclei_are_measured(_slide(job), job.application.out / job.path.stem, job.application.settings)
    except (SlideError, OSError):
        return False


def _is_done(job: SlideJob[NucleiJob]) -> bool:
    """Tell whether nothing is left to do for a slide."""
    try:
        return nuclei_are_current(_slide(job), job.application.out / job.path.stem, job.application.settings)
    except (SlideError, OSError):
        return False
