"""What can be removed from a run or from the user's cache, and its removal.

What nothing will read again goes without being named: attempts that no settings of today lead to, what other attempts
could have used of a stage that is finished, temporary files of killed commands. Whatever costs time to make again has
to be named: attempts that can go on, whole stages, maps. A stage is no longer finished from the moment on that anything
of it goes, so that `vitrail run` makes it anew, and never takes half of one for the whole.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitrail.core.cache import cache_folder
from vitrail.core.disk import folder_bytes, size_text
from vitrail.core.lock import locked
from vitrail.distribute.presence import refuse_beside_others
from vitrail.errors import RunError, SettingsError
from vitrail.pipeline.outcome import Outcome
from vitrail.pipeline.status import steps_so_far
from vitrail.stage import open_run

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from vitrail.stage import Step

SEARCH = "search"
"""A folder of a run that may be named as stages are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removable:
    """Something that can be removed.

    Attributes
    ----------
    path
        A file or folder.
    title
        What it is.
    option
        What names it on the command line; empty of what goes without being named.
    record
        The `stage.json` that goes first; None where no finished stage is touched.
    size
        Bytes, and whether these are all.
    """

    path: Path
    title: str
    option: str = ""
    record: Path | None = None
    size: tuple[int, bool]

    def __str__(self) -> str:
        more = "" if self.size[1] else "more than "
        return f"{more}{size_text(self.size[0]):>9}  {self.path}: {self.title}"

    def remove(self) -> None:
        """Remove it; what is gone already is no error."""
        if self.record is not None:
            self.record.unlink(missing_ok=True)
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What was named to be removed, beside what nothing will read again.

    Attributes
    ----------
    stages
        Names of stages, or `search`.
    interrupted
        Whether attempts go that could go on.
    maps
        Whether whole-slide maps go.
    """

    stages: Collection[str] = ()
    interrupted: bool = False
    maps: bool = False


def clean_run(folder: Path, named: Named, may_remove: Callable[[Sequence[str]], bool]) -> Outcome:
    """Remove what a run need not keep.

    Parameters
    ----------
    folder
        The run.
    named
        What goes beside what nothing will read again.
    may_remove
        Is asked with a line for each thing and their sum, and answers whether they go.

    Returns
    -------
    Outcome
        What went, and what could be named to go.

    Raises
    ------
    RunError
        The folder is no run, somebody is at work in it, or something cannot be removed.
    SettingsError
        A stage is named that there is not.
    """
    run = open_run(folder)
    with locked(folder):
        refuse_beside_others(folder)
        # which attempts can go on depends on every slide; without any, no slide is read
        steps, _problems = steps_so_far(run, quick=not any((folder / ".partial").glob("*")))
        names = [*(step.stage.name for step in steps), SEARCH]
        if wrong := [name for name in named.stages if name not in names]:
            raise SettingsError("--stage", f"there is no stage {wrong[0]!r}", f"There are: {', '.join(names)}")
        items = list(_removable(folder, steps))
        chosen = [item for item in items if _goes(item, named)]
        outcome = _removed(folder, chosen, may_remove)
    left = [item for item in items if item not in chosen]
    lines = [f"{item}; it stays without {item.option}" for item in left]
    results = dict(outcome.results) | {"run": folder, "stays": [_as_json(item) for item in left]}
    return Outcome(lines=[*lines, *outcome.lines, str(folder)], results=results)


def clean_cache(may_remove: Callable[[Sequence[str]], bool]) -> Outcome:
    """Remove the user's cache: choices of the fastest way to compute, and what else any process can make again.

    Parameters
    ----------
    may_remove
        As of `clean_run`.

    Returns
    -------
    Outcome
        What went.

    Raises
    ------
    RunError
        Something cannot be removed.
    """
    cache = cache_folder("trials")
    if cache is None or not cache.parent.is_dir():
        return Outcome(lines=["there is no cache"], results={"removed": [], "bytes": 0})
    folder = cache.parent
    titles = {"trials": "which ways of computing were fastest here"}
    items = [
        Removable(path=path, title=titles.get(path.name, "can be made again"), size=folder_bytes(path))
        for path in sorted(folder.iterdir())
        if not path.is_symlink()
    ]
    outcome = _removed(folder, items, may_remove)
    return Outcome(lines=[*outcome.lines, str(folder)], results=outcome.results)


def _goes(item: Removable, named: Named) -> bool:
    """Tell whether something goes."""
    if item.option.startswith("--stage"):
        return item.option.split()[1] in named.stages
    maps = named.maps and "predict" not in named.stages
    return {"": True, "--interrupted": named.interrupted, "--maps": maps}[item.option]


def _removable(folder: Path, steps: list[Step]) -> Iterator[Removable]:
    """Yield all that can be removed from a run, what is no longer of use first."""
    by_folder = {step.stage.folder: step for step in steps}
    for path in sorted((folder / ".partial").glob("*")):
        stem, is_scratch = path.name.removesuffix(".scratch"), path.name.endswith(".scratch")
        step = by_folder.get(stem if is_scratch else stem.rpartition("-")[0])
        size = folder_bytes(path)
        if path.is_symlink() or step is None:
            continue
        name = step.stage.name
        if path.name.endswith("-retired") and not step.folder.exists():
            continue  # a kill came between two renames: it is all that is there, and the next run puts it back
        if step.is_finished or (path != step.partial and not is_scratch):
            yield Removable(path=path, title=f"left over of {name}, of no use any more", size=size)
        else:
            option, title = "--interrupted", f"an interrupted attempt at {name}, which vitrail run takes up"
            yield Removable(path=path, title=title, option=option, size=size)
    for parent in (folder, *(step.folder for step in steps), folder / "predictions" / "maps"):
        for path in sorted(parent.glob(".*.tmp")):
            if path.is_file() and not path.is_symlink():
                size = path.stat().st_size, True
                yield Removable(path=path, title="left over of a command that was killed", size=size)
    search = folder / SEARCH
    if (size := folder_bytes(search / ".partial"))[0]:
        title = "interrupted trainings of the search, which vitrail search takes up"
        yield Removable(path=search / ".partial", title=title, option="--interrupted", size=size)
    for step in steps:
        name, record = step.stage.name, step.folder / "stage.json"
        if name == "predict" and (size := folder_bytes(step.folder / "maps"))[0]:
            title = "whole-slide maps, with which the predictions are no longer finished"
            yield Removable(path=step.folder / "maps", title=title, option="--maps", record=record, size=size)
        if step.folder.is_dir() and not step.folder.is_symlink():
            title, size = f"all of {name}", folder_bytes(step.folder)
            yield Removable(path=step.folder, title=title, option=f"--stage {name}", record=record, size=size)
    if search.is_dir() and not search.is_symlink():
        title, record = "all of the search", search / "stage.json"
        yield Removable(path=search, title=title, option=f"--stage {SEARCH}", record=record, size=folder_bytes(search))


def _removed(folder: Path, items: list[Removable], may_remove: Callable[[Sequence[str]], bool]) -> Outcome:
    """Remove things if they may go, and say so."""
    total = sum(item.size[0] for item in items)
    if not items:
        return Outcome(lines=["nothing to remove"], results={"removed": [], "bytes": 0})
    listed = [str(item) for item in items]
    if not may_remove([*listed, f"{size_text(total):>9}  in all"]):
        results = {"removed": [], "bytes": 0, "removable": [_as_json(item) for item in items]}
        return Outcome(lines=["nothing was removed"], results=results)
    with _removing(folder):
        for item in items:
            item.remove()
        with suppress(OSError):  # not empty
            (folder / ".partial").rmdir()
    results = {"removed": [_as_json(item) for item in items], "bytes": total}
    return Outcome(lines=[f"removed: {size_text(total)}"], results=results)


@contextmanager
def _removing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = f"cannot be removed ({error.strerror or error})"
        raise RunError(error.filename or folder, problem, "Check its permissions, and who uses it") from None


def _as_json(item: Removable) -> dict[str, Any]:
    return {"path": item.path, "title": item.title, "option": item.option, "bytes": item.size[0]}
