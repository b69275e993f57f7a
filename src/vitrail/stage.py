"""A run is a folder; each of its stages is a folder in it, and is made exactly when it has to be.

The rule: `stage.json` is written last and holds a digest of the stage's name and version, its whole branches of the
settings, the seed, what it reads from outside, and the digests of the stages it needs. The same digest: nothing to do.
Another: the stage is made anew in `.partial/<folder>-<digest>`, which a killed run finds again and continues, and only
the finished folder takes the old one's place, by renaming.
"""

from __future__ import annotations

import json
import logging
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
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vitrail.core.progress import Progress
    from vitrail.distribute.jobs import Executor


_log = logging.getLogger(__name__)


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
    changed
        Says in words what of its inputs is another than it was, from the run, the former and the present inputs; None
        where no more can be said than that something is.
    reads_files
        Whether its inputs are digests of large files, which take a while.
    """

    name: str
    folder: str
    version: int
    settings: tuple[str, ...]
    needs: tuple[str, ...]
    inputs: Callable[[Run], Any]
    make: Callable[[Work], None]
    share: Callable[[Work], None] | None = None
    changed: Callable[[Run, Any, Any], str] | None = None
    reads_files: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What it means for one stage to bring a run up to date.

    Attributes
    ----------
    stage
        The stage.
    recipe
        All that decides what it makes, as `stage.json` will hold it.
    digest
        Of the recipe.
    folder
        Where the finished stage is, or will be.
    record
        What the `stage.json` there holds; None where the stage was never finished.
    """

    stage: Stage
    recipe: dict[str, Any]
    digest: str
    folder: Path
    record: dict[str, Any] | None

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing to do."""
        return self.record is not None and self.record.get("digest") == self.digest

    @property
    def partial(self) -> Path:
        """Where an attempt at exactly this is made; what a killed one left is there, and can go on."""
        return self.folder.parent / ".partial" / f"{self.stage.folder}-{self.digest[:16]}"

    @property
    def scratch(self) -> Path:
        """Where attempts keep what others can use, too."""
        return self.folder.parent / ".partial" / f"{self.stage.folder}.scratch"

    def reasons(self, run: Run) -> list[str]:
        """Say why the stage has to be made anew.

        Parameters
        ----------
        run
            The run.

        Returns
        -------
        list[str]
            Each in a few words; none where it is finished, or was never made.
        """
        if self.record is None or self.is_finished:
            return []
        old, new = self.record, self.recipe
        words = [f"Vitrail makes it in another way (version {old.get('version')} -> {new['version']})"]
        reasons = words if old.get("version") != new["version"] else []
        if old.get("seed") != new["seed"]:
            reasons.append(f"seed {old.get('seed')} -> {new['seed']}")
        reasons += _changed_settings(old.get("settings"), new["settings"])
        # digests of inputs may hold settings, too: then no more can be told from them
        former, present = old.get("inputs"), _as_stored(new["inputs"])
        if not reasons and former != present:
            said = self.stage.changed(run, former, present) if self.stage.changed else ""
            reasons.append(said or "what it reads from outside the run is another")
        needed = old.get("needs") or {}
        again = [name for name, digest in new["needs"].items() if needed.get(name) != digest]
        return [*reasons, *([f"{', '.join(again)} change{'s' * (len(again) == 1)}"] if again else [])]


def _as_stored(values: Any) -> Any:
    return json.loads(json.dumps(values))


def _changed_settings(old: Any, new: dict[str, Any]) -> list[str]:
    """Say which settings changed; one that a record does not hold was at its default, or not there yet."""
    former, present = _flat(old if isinstance(old, dict) else {}), _flat(_as_stored(new))
    return [
        f"{key} {_shown(former, key)} -> {_shown(present, key)}"
        for key in dict.fromkeys([*present, *former])
        if (key in former, former.get(key)) != (key in present, present.get(key))
    ]


def _flat(values: dict[str, Any], group: str = "") -> dict[str, Any]:
    flat = dict[str, Any]()
    for name, value in values.items():
        flat |= _flat(value, f"{group}{name}.") if isinstance(value, dict) else {f"{group}{name}": value}
    return flat


def _shown(values: dict[str, Any], key: str) -> str:
    text = json.dumps(values[key], ensure_ascii=False) if key in values else "default"
    return text if len(text) <= 60 else f"{text[:60]}..."


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


def steps(stages: tuple[Stage, ...], run: Run) -> Iterator[Step]:
    """Yield what is to be done for each stage; each is looked at when its turn comes, and nothing is written.

    Parameters
    ----------
    stages
        From `chain`: each comes after those that it needs.
    run
        Where.

    Yields
    ------
    Step
        Of each stage, finished or not.

    Raises
    ------
    VitrailError
        What a stage reads from outside cannot be read.
    """
    digests, settings = dict[str, str](), run.settings.digest_values()
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
        folder = run.folder / stage.folder
        yield Step(stage=stage, recipe=recipe, digest=digests[stage.name], folder=folder, record=_record(folder))


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
    made = []
    for step in steps(stages, run):
        stage, recipe = step.stage, step.recipe
        if step.is_finished:
            progress.say(f"{stage.name}: up to date")
            continue
        if _log.isEnabledFor(logging.INFO):
            attempt = ", going on where an attempt at it ended" if step.partial.is_dir() else ""
            why = "; ".join(step.reasons(run)) or "it was never made"
            _log.info("%s: made now%s: %s", stage.name, attempt, why)
        begun = time.time()
        if isinstance(executor, Claims):
            if not _make_together(stage, run, recipe, progress, executor):
                continue
        else:
            _make(stage, run, recipe, progress, executor)
        made.append(stage.name)
        _log.info("%s: made in %.1f s", stage.name, time.time() - begun)
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


def _record(folder: Path) -> dict[str, Any] | None:
    """Return what a finished stage's `stage.json` holds; None where there is none, or it is damaged."""
    try:
        return read_json(folder / "stage.json")
    except RunError:
        return None


def _is_finished(folder: Path, digest: str) -> bool:
    return (_record(folder) or {}).get("digest") == digest


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
