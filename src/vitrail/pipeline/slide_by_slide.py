"""Slides done one by one into one folder: here, beside other commands, or by a cluster."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pandas as pd

from vitrail.core.files import not_written, read_csv, write_csv
from vitrail.core.lock import locked
from vitrail.distribute.claims import Claims
from vitrail.distribute.jobs import Here
from vitrail.distribute.presence import refuse_beside_others
from vitrail.errors import RunError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from vitrail.distribute.jobs import Ended, Executor, Jobs
    from vitrail.settings.load import Settings

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


def decisive_values(settings: Settings) -> list[Any]:
    """Return what of settings decides results, as JSON: commands that share work must agree about it."""
    return [settings.digest_values(), settings.compute.named_precision]


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


def every_end(jobs: Jobs[SlideJob[Application]], executor: Executor) -> Iterator[Ended]:
    """Yield every slide with why it failed, if so: as they end, and then those that were finished before.

    A single process looks at each slide in its turn, finished or not: so it speaks of all of them in their order.

    Parameters
    ----------
    jobs
        The slides.
    executor
        What does them.

    Yields
    ------
    Ended
        A name, and an error or None.
    """
    rest = dict.fromkeys(jobs.jobs)
    for name, error in executor.run(replace(jobs, is_done=_never) if isinstance(executor, Here) else jobs):
        del rest[name]
        yield name, error
    for name in rest:
        yield name, None


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
