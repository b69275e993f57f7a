"""Slides done one by one into one folder: here, beside other commands, or by a cluster."""

from __future__ import annotations

from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pandas as pd

from vitrail.core.files import not_written, read_csv, write_csv
from vitrail.core.lock import locked
from vitrail.distribute.claims import Claims
from vitrail.distribute.jobs import Here
from vitrail.distribute.presence import refuse_beside_others
from vitrail.distribute.staging import Staging
from vitrail.errors import RunError, SettingsError, VitrailError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from vitrail.core.progress import Progress
    from vitrail.distribute.jobs import Ended, Executor, Jobs
    from vitrail.settings.schema import ComputeSettings

Application = TypeVar("Application")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideJob(Generic[Application]):
    """A slide, and what is to be made of it.

    Attributes
    ----------
    path
        Its file.
    application
        What is done to all slides, how, and where results go.
    turn
        Its turn among all, such as `"3 of 12"`.
    """

    path: Path
    application: Application
    turn: str


def slide_jobs(slides: Sequence[Path], application: Application, ending: str) -> dict[str, SlideJob[Application]]:
    """Return a job for each slide, by the slide's name without its ending.

    Parameters
    ----------
    slides
        Their files.
    application
        What is done to each.
    ending
        Of a file that each of them writes.

    Returns
    -------
    dict[str, SlideJob[Application]]
        The jobs, in the order of the slides.

    Raises
    ------
    SettingsError
        There is no slide, or two share a name.
    """
    if not slides:
        raise SettingsError("SLIDE", "none is given", "Name at least one slide")
    by_name: dict[str, Path] = {}
    for path in slides:
        other = by_name.setdefault(path.stem.casefold(), path)
        if other is not path:
            problem = f"has the name of {other}, and both would write {path.stem}.{ending}"
            raise SettingsError(path, problem, "Rename one, or give them in two calls with two output folders")
    return {
        path.stem: SlideJob(path=path, application=application, turn=f"{turn} of {len(slides)}")
        for turn, path in enumerate(slides, 1)
    }


@contextmanager
def results_folder(out: Path, purpose: str, executor: Executor) -> Iterator[None]:
    """Make a folder for results, and hold it: alone, or with others that make the same.

    Parameters
    ----------
    out
        The folder.
    purpose
        Digest of all that decides the results, but for the slides.
    executor
        What does the work.

    Raises
    ------
    ExchangeError
        The folder cannot be made.
    RunError
        Another command writes there, or makes something else of slides.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(out, error) from error
    if isinstance(executor, Claims):
        with executor.alone(out):
            executor.agree(purpose)
        yield
        return
    with locked(out):
        refuse_beside_others(out)
        yield


def every_end(
    jobs: Jobs[SlideJob[Application]], executor: Executor, compute: ComputeSettings, progress: Progress
) -> Generator[Ended, None, None]:
    """Yield every slide with why it failed, if so: as they end, and then those that were finished before.

    A single process looks at each slide in its turn, finished or not: so it speaks of all of them in their order.

    Parameters
    ----------
    jobs
        The slides.
    executor
        What does them; in this process copies of the next slides are read, if the settings say so.
    compute
        How many GB of them, and where to.
    progress
        Told of slides that are read in place although they were to be copied.

    Yields
    ------
    Ended
        A name, and an error or None.

    Raises
    ------
    SettingsError
        The folder for copies cannot be written to.
    """
    rest = dict.fromkeys(jobs.jobs)
    with ExitStack() as held:
        if isinstance(executor, Here):
            jobs = replace(jobs, is_done=_never)
        if compute.stage_gb and isinstance(executor, Here | Claims):
            folder = Path(compute.stage_folder).expanduser() if compute.stage_folder else None
            staging = held.enter_context(Staging(folder, compute.stage_gb * 1e9, progress.say))
            jobs = replace(jobs, work=partial(_with_copy, staging, jobs.work), soon=partial(_soon, staging))
        for name, error in held.enter_context(closing(executor.run(jobs))):
            del rest[name]
            yield name, error
    for name in rest:
        yield name, None


def _with_copy(
    staging: Staging,
    work: Callable[[SlideJob[Application], Progress], None],
    job: SlideJob[Application],
    progress: Progress,
) -> None:
    """Do a job with the copy of its slide; errors name the slide."""
    with staging.reading(job.path) as path:
        try:
            work(replace(job, path=path), progress)
        except VitrailError as error:
            raise type(error)(*(text.replace(str(path), str(job.path)) for text in error.args)) from error


def _soon(staging: Staging, now: SlideJob[Application], following: Sequence[SlideJob[Application]]) -> None:
    staging.soon(now.path, [job.path for job in following])


def _never(_job: object) -> bool:
    return False


def update_summary(
    path: Path, rows: Mapping[str, dict[str, Any]], columns: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Bring rows into a summary; those of other slides stay, so that slides may be given bit by bit.

    Parameters
    ----------
    path
        The summary, a CSV.
    rows
        Rows by slide.
    columns
        Its columns: `slide_id`, `reason`, and numbers.

    Returns
    -------
    dict[str, dict[str, Any]]
        All rows by slide.
    """
    all_rows = _read_summary(path, columns) | dict(rows)
    table = pd.DataFrame(list(all_rows.values()), columns=columns).sort_values("slide_id", kind="stable")
    write_csv(path, table, "%.6g")
    return all_rows


def _read_summary(path: Path, columns: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return the rows of a summary by slide; none where it is missing or no summary."""
    try:
        table = read_csv(path, ("slide_id", "reason")).reindex(columns=columns, fill_value="")
        figures = [name for name in columns if name not in {"slide_id", "reason"}]
        table[figures] = table[figures].replace("", "nan").astype(float)
        rows = table[table["slide_id"] != ""].to_dict("records")
    except (RunError, ValueError):
        return {}
    return {str(row["slide_id"]): {str(name): value for name, value in row.items()} for row in rows}
