"""A run is a folder; each of its stages is a folder in it, and is made exactly when it has to be.

The rule: `stage.json` is written last and holds a digest of the stage's name and version, its whole branches of the
settings, the seed, what it reads from outside, and the digests of the stages it needs. The same digest: nothing to do.
Another: the stage is made anew in `.partial/<folder>-<digest>`, which a killed run finds again and continues, and only
the finished folder takes the old one's place, by renaming.
"""

from __future__ import annotations

import json
import shutil
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import vitrail
from vitrail.core.digest import json_digest
from vitrail.core.files import read_json, write_text
from vitrail.distribute.claims import Claims
from vitrail.errors import RunError
from vitrail.settings.load import Settings, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vitrail.core.progress import Progress
    from vitrail.distribute.jobs import Executor


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run folder and its settings."""

    folder: Path
    settings: Settings

    @property
    def cohort(self) -> Path:
        """The run's `slides.csv`."""
        return self.folder / "slides.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a stage is given to do its work.

    Attributes
    ----------
    run
        The run; finished stages are in its folder.
    folder
        Where to write. What an interrupted attempt at the same work left is still there.
    scratch
        Where to keep what other attempts can use, too, whatever their settings; gone once the stage is finished.
    progress
        To be told how far the work is.
    executor
        What does independent pieces of the work; None leaves it to the stage, on this machine.
    """

    run: Run
    folder: Path
    scratch: Path
    progress: Progress
    executor: Executor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A step of the pipeline.

    Attributes
    ----------
    name, folder
        The stage's name on the command line, and its folder in the run.
    version
        Raised when the stage's code comes to mean something else.
    settings
        The branches of the settings that it reads.
    needs
        Names of the stages that it reads.
    inputs
        Gives what it reads from outside the run's stages, as JSON: digests of files.
    make
        Does the work.
    share
        Does those pieces of the work that several commands can do together, and that `make` then finds done; None
        where there are none.
    """

    name: str
    folder: str
    version: int
    settings: tuple[str, ...]
    needs: tuple[str, ...]
    inputs: Callable[[Run], Any]
    make: Callable[[Work], None]
    share: Callable[[Work], None] | None = None


def open_run(folder: Path) -> Run:
    """Open a run folder.

    Parameters
    ----------
    folder
        Its path.

    Returns
    -------
    Run
        The folder and its settings.

    Raises
    ------
    RunError
        The folder is no run.
    SettingsError
        Its `study.toml` is wrong.
    """
    if not (folder / "study.toml").is_file():
        raise RunError(
            folder, "not a run folder (no study.toml)", f"Make one with: vitrail init {folder} --slides slides.csv"
        )
    return Run(folder=folder, settings=read_settings(folder / "study.toml"))


def chain(stages: tuple[Stage, ...], until: str) -> tuple[Stage, ...]:
    """Return a stage and all that it needs, in the order of `stages`."""
    by_name = {stage.name: stage for stage in stages}
    needed, queue = set[str](), [until]
    while queue:
        stage = by_name[queue.pop()]
        needed.add(stage.name)
        queue += stage.needs
    return tuple(stage for stage in stages if stage.name in needed)


def bring_up_to_date(
    stages: tuple[Stage, ...], run: Run, progress: Progress, executor: Executor | None = None
) -> list[str]:
    """Make every stage that is not up to date.

    The caller holds the run with `locked`, unless the executor shares the work with other commands: these do the parts
    of a stage together, each as far as `Stage.share` says, and then make it one after the other, which is to say that
    the first one does.

    Parameters
    ----------
    stages
        From `chain`: each comes after those that it needs.
    run
        Where.
    progress
        To be told how far the work is.
    executor
        What does independent pieces of the work; None leaves it to each stage, on this machine.

    Returns
    -------
    list[str]
        The names of the stages that were made.

    Raises
    ------
    VitrailError
        Whatever a stage raises; the stages before it, and what it had done itself, are kept.
    """
    made, digests, settings = [], dict[str, str](), run.settings.digest_values()
    for stage in stages:
        recipe = {
            "stage": stage.name,
            "version": stage.version,
            "seed": run.settings.seed,
            # a branch is empty where it holds later settings alone, all at their defaults
            "settings": {name: settings[name] for name in stage.settings if settings[name] != {}},
            "inputs": stage.inputs(run),
            "needs": {name: digests[name] for name in stage.needs},
        }
        digests[stage.name] = json_digest(recipe)
        if _is_finished(run.folder / stage.folder, digests[stage.name]):
            progress.say(f"{stage.name}: up to date")
            continue
        if isinstance(executor, Claims):
            if not _make_together(stage, run, recipe, progress, executor):
                continue
        else:
            _make(stage, run, recipe, progress, executor)
        made.append(stage.name)
    return made


def _make_together(stage: Stage, run: Run, recipe: dict[str, Any], progress: Progress, claims: Claims) -> bool:
    """Do the parts of a stage beside other commands, and join them unless another has; return whether this one did."""
    digest = json_digest(recipe)
    with ExitStack() as held:
        with claims.alone(run.folder):
            if _is_finished(run.folder / stage.folder, digest):
                progress.say(f"{stage.name}: finished by another")
                return False
            if stage.share is not None:
                held.enter_context(claims.phase(digest))
        if stage.share is not None:
            stage.share(_work(stage, run, digest, progress, claims))
    with claims.alone(run.folder):
        claims.await_phase(digest)  # or the parts would vanish under those who still look at them
        if _is_finished(run.folder / stage.folder, digest):
            progress.say(f"{stage.name}: finished by another")
            return False
        _make(stage, run, recipe, progress, claims)
    return True


def _work(stage: Stage, run: Run, digest: str, progress: Progress, executor: Executor | None) -> Work:
    """Return what a stage needs to be made, its folders there."""
    partial = run.folder / ".partial" / f"{stage.folder}-{digest[:16]}"
    scratch = run.folder / ".partial" / f"{stage.folder}.scratch"
    for folder in (partial, scratch):
        folder.mkdir(parents=True, exist_ok=True)
    return Work(run=run, folder=partial, scratch=scratch, progress=progress, executor=executor)


def _is_finished(folder: Path, digest: str) -> bool:
    try:
        record = read_json(folder / "stage.json")
    except RunError:
        return False
    return bool(record.get("digest") == digest)


def _make(stage: Stage, run: Run, recipe: dict[str, Any], progress: Progress, executor: Executor | None = None) -> None:
    """Make a stage beside its final folder, and let it take that one's place."""
    digest, final = json_digest(recipe), run.folder / stage.folder
    work = _work(stage, run, digest, progress, executor)
    partial, retired = work.folder, work.folder.with_name(f"{stage.folder}-retired")
    if final.is_symlink():
        raise RunError(final, "is a link, and stages are renamed into place", "Link the whole run folder instead")
    if retired.exists() and not final.exists():  # a kill came between two renames: what it holds may be of use
        retired.rename(final)
    for stale in partial.parent.glob(f"{stage.folder}-*"):
        if stale != partial:
            shutil.rmtree(stale)
    if not _is_finished(partial, digest):  # else it was killed between two renames, with all its work done
        begun = time.time()
        if stage.share is not None and executor is not None and not executor.is_shared:
            stage.share(work)
        stage.make(work)
        record = recipe | {"digest": digest, "vitrail": vitrail.__version__, "seconds": round(time.time() - begun, 1)}
        write_text(partial / "stage.json", json.dumps(record, indent=1))
    try:
        if final.exists():
            final.rename(retired)
        partial.rename(final)
    except PermissionError as error:  # Windows renames no folder of which a file is open
        cure = "Close what shows this run, such as vitrail view, and run the same command again"
        raise RunError(final, f"cannot be replaced ({error.strerror})", cure) from error
    shutil.rmtree(retired, ignore_errors=True)
    shutil.rmtree(work.scratch, ignore_errors=True)
    with suppress(OSError):  # not empty: another stage was interrupted
        partial.parent.rmdir()
