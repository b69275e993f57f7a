"""The nuclei of any slides: a table, detections for QuPath, and a row of the summary for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from vitrail.core.files import not_written, write_csv
from vitrail.core.lock import locked
from vitrail.core.progress import Silent
from vitrail.errors import ExchangeError, NucleiError, SlideError
from vitrail.nuclei.features import FEATURES
from vitrail.nuclei.update import update_nuclei
from vitrail.pipeline.predict_slides import check_names, read_summary
from vitrail.pipeline.run import Outcome
from vitrail.slides.slide import open_slide

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vitrail.core.progress import Progress
    from vitrail.settings.load import Settings

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


def find_nuclei(slides: Sequence[Path], job: NucleiJob, progress: Progress | None = None) -> Outcome:
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
    check_names(slides, "nuclei.parquet")
    progress, summary = progress or Silent(), job.out / SUMMARY_CSV
    try:
        job.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(job.out, error) from error
    skipped, new = list[str](), 0
    with locked(job.out):
        rows = read_summary(summary, _COLUMNS)
        for number, path in enumerate(slides, 1):
            progress.say(f"{path.name} ({number} of {len(slides)})")
            row: dict[str, Any] = {"slide_id": path.stem}
            try:
                slide = open_slide(
                    path, mpp=job.mpp, fallback_mpp=job.settings.slides.mpp, reading=job.settings.slides.reading
                )
                measured = update_nuclei(slide, job.out / path.stem, job.settings, progress)
                new += measured.is_new
                row |= measured.summary()
            except (SlideError, NucleiError) as error:
                progress.say(f"skipped: {error}")
                skipped.append(str(error))
                row["reason"] = str(error)
            except ExchangeError:
                raise
            except OSError as error:
                raise not_written(job.out / path.stem, error) from error
            rows[path.stem] = row
            table = pd.DataFrame(list(rows.values()), columns=_COLUMNS).sort_values("slide_id", kind="stable")
            write_csv(summary, table, "%.6g")
    total = int(sum(row["nuclei"] for row in rows.values() if not row.get("reason")))
    lines = [f"nuclei of {new} slides measured, {total} nuclei in all", str(summary)]
    return Outcome(lines=lines, warnings=[], skipped=skipped)
