"""Any number of commands do the same jobs, with nothing between them but a folder that all of them see.

A job is claimed by a file that is created only where there is none. What a dead command had claimed is claimed anew
under the next number: of those who try only one can create that file, and no one can take away a claim that is
newer than the one he looked at, as he could by renaming. Nothing here needs locks of the file system or equal clocks.

Two may come to do one job: who was silent for long, and is taken for dead, may only have been asleep. Both write whole
files with the same bytes, and who fails because the other has finished or tidied up counts it as done.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import vitrail.errors
from vitrail.core.digest import json_digest
from vitrail.core.files import beside_others, write_text
from vitrail.core.lock import locked
from vitrail.core.progress import Silent
from vitrail.distribute.jobs import SOON, await_files
from vitrail.distribute.presence import BEAT, SILENCE, Presence, remove
from vitrail.errors import RunError, VitrailError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from vitrail.core.progress import Progress
    from vitrail.distribute.jobs import Ended, Jobs

_WAIT = 0.1, 2.0
"""Seconds between two looks at what others do: the first wait and the longest."""

_DEATHS = 2
"""How many commands a job may cost, as this one has seen; with one more it is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    """A claim that this command has made.

    Attributes
    ----------
    path
        Its file.
    older
        Claims of dead commands for the same.
    """

    path: Path
    older: tuple[Path, ...]

    def release(self) -> None:
        """Remove it, the older ones first: as long as one is there, the newest is this one."""
        for path in (*self.older, self.path):
            remove(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """How a job has ended: what made it fail, or None."""

    error: VitrailError | None


class _Lost(Exception):  # noqa: N818 - no error: another command does the job now
    """Another command has taken this one for dead, and does its job."""


class Claims:
    """Does jobs together with other commands, which may come and die at any time; used with `with`.

    Parameters
    ----------
    folder
        What is worked at; all commands see it.
    shard
        Which part of the jobs to begin with, and of how many: (1, n) to (n, n). Then come those that nobody has
        claimed yet.
    progress
        Told how far each job is, and for whom this command waits.
    beat, silence
        Seconds, see `presence.BEAT` and `presence.SILENCE`.

    Attributes
    ----------
    is_shared
        True.
    """

    is_shared = True

    def __init__(
        self,
        folder: Path,
        shard: tuple[int, int] = (1, 1),
        progress: Progress | None = None,
        *,
        beat: float = BEAT,
        silence: float = SILENCE,
    ) -> None:
        self.folder, self.shard, self.progress = folder, shard, progress or Silent()
        self._presence = Presence(folder, beat, silence)
        self._silence, self._writing = silence, ExitStack()
        self._nameless: dict[str, float] = {}
        self._early_claims: dict[str, int] = {}
        self._early_ends: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Be counted among those at work."""
        self._presence.__enter__()
        self._writing.enter_context(beside_others())
        # what failed before this command began is tried again
        self._early_claims = {key: max(numbers) for key, numbers in self._claims().items()}
        self._early_ends = {path.stem: _content(path) for path in self._presence.folder.glob("*.end")}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave; the last one tidies up."""
        key = key_of("leave", "")
        try:
            # one after the other, so that the last one sees that it is
            while (claim := self._try(key)) is None:
                time.sleep(_WAIT[0] / 10)
            self._presence.tidy(claim.path)
            self._presence.__exit__(kind, error, trace)
            claim.release()
        except OSError:  # the disk is gone: then there is nothing to tidy up, and another error says why
            pass
        finally:
            self._writing.close()
            self._presence.__exit__(kind, error, trace)

    def agree(self, purpose: str) -> None:
        """Make sure that those at work make the same; called within `alone`.

        Parameters
        ----------
        purpose
            Digest of all that decides what comes out.

        Raises
        ------
        RunError
            Another command works here with other settings or inputs.
        """
        for other in self._presence.others():
            if other.purpose not in {"", purpose}:
                problem = f"{other} is at work here with other settings, inputs or networks"
                raise RunError(self.folder, problem, "Wait for it, or give all commands the same")
        self._presence.announce(purpose=purpose)

    def has_company(self) -> bool:
        """Tell whether others that have agreed are at work; called within `alone`."""
        return any(other.purpose for other in self._presence.others())

    @contextmanager
    def phase(self, title: str) -> Iterator[None]:
        """Be one of those that do something together; begun within `alone`, so that `await_phase` cannot miss it.

        Parameters
        ----------
        title
            The same for all that do the same.
        """
        self._presence.announce(phase=title)
        try:
            yield
        finally:
            self._presence.announce(phase="")

    def await_phase(self, title: str) -> None:
        """Wait until no other living command is in a phase; called within `alone`, so that none can begin it."""
        wait = self._waiter()
        while True:
            inside = [other for other in self._presence.others() if other.phase == title]
            # who died elsewhere is waited for as long as it was not silent for long enough
            inside = [other for other in inside if not self._presence.is_dead(other.token)]
            if not inside:
                return
            wait(f"waits for {inside[0]}, who is in the middle of the same")

    def run(self, jobs: Jobs[Any]) -> Generator[Ended, None, None]:
        """Do what nobody else does, take over what the dead have left, and wait for the rest."""
        keys = {name: key_of(jobs.title, name) for name in self._in_turn(jobs)}
        wait = self._waiter()
        while keys:
            claims, is_idle, names = self._claims(), True, [*keys]
            for at, name in enumerate(names):
                end = self._end(keys[name])
                if end is not None:
                    if end.error is None:
                        await_files(jobs, name)
                    del keys[name]
                    yield name, end.error
                    is_idle = False
                    continue
                if keys[name] in claims and not self._is_free(keys[name], claims[keys[name]]):
                    continue
                try:
                    ended = self._claim_and_do(jobs, names[at:], keys, claims)
                except _Lost:
                    continue
                if ended is None:  # somebody was faster
                    continue
                del keys[name]
                yield ended[0]
                is_idle = False
                if ended[1]:  # which took its time: others have gone on
                    wait = self._waiter()
                    break
            if is_idle and keys:
                wait(self._whom(jobs.title, keys))

    @contextmanager
    def alone(self, folder: Path) -> Iterator[None]:
        """Return a block that only one of several commands is in at a time; the others wait.

        Both a claim, which counts between machines whose file system has no locks, or has them on each machine for
        itself; and the lock that commands without `--shard` hold.
        """
        key, wait = key_of("alone", os.path.relpath(folder, self.folder)), self._waiter()
        while (claim := self._try(key)) is None:
            wait(
                f"{folder}: waits for {self._holder(key)}, who joins what all have done, or makes what one makes alone"
            )
        try:
            waiting = f"waits for another vitrail, which is at work in {folder} without --shard"
            with locked(folder, wait=lambda: wait(waiting)):
                yield
        finally:
            claim.release()

    def _in_turn(self, jobs: Jobs[Any]) -> list[str]:
        """Return the unfinished jobs: this command's part, then the others from behind, where their owners are last."""
        todo, (part, parts) = set(jobs.unfinished()), self.shard
        own = dict.fromkeys([*jobs.jobs][part - 1 :: parts])
        rest = [name for name in reversed([*jobs.jobs]) if name not in own]
        return [name for name in (*own, *rest) if name in todo]

    def _claim_and_do(
        self, jobs: Jobs[Any], names: list[str], keys: dict[str, str], claims: dict[str, list[int]]
    ) -> tuple[Ended, bool] | None:
        """Claim the first of jobs and do it; return how it ended, and whether it was done here; None: others have it.

        Parameters
        ----------
        jobs
            All jobs.
        names
            The job, and those that come next.
        keys
            All keys by name.
        claims
            All claims that were there a moment ago.
        """
        name, key = names[0], keys[names[0]]
        numbers = claims.get(key, [])
        claim = self._create(key, numbers)
        if claim is None:
            return None
        try:
            end = self._end(key)  # of a file in this folder, which a network drive has just asked its server about
            if end is not None and end.error is None:
                await_files(jobs, name)
            if end is not None or jobs.is_done(jobs.jobs[name]):
                return (name, end.error if end else None), False
            if max(numbers, default=-1) - self._early_claims.get(key, -1) > _DEATHS:
                problem = "it cost several commands their lives, mostly for want of memory"
                failure = RunError(name, problem, "Run the same command again, with more memory")
                self._record(key, failure)
                return (name, failure), False
            if jobs.soon:
                free = (next_name for next_name in names[1:] if keys[next_name] not in claims)
                jobs.soon(jobs.jobs[name], [jobs.jobs[next_name] for next_name in islice(free, SOON)])
            return (name, self._do(jobs, name, key, claim)), True
        finally:
            claim.release()

    def _do(self, jobs: Jobs[Any], name: str, key: str, claim: _Claim) -> VitrailError | None:
        """Do a job, and return why it failed, if that is something a user can mend."""
        job = jobs.jobs[name]
        # once more where the one before may live after all, and may have tidied up what this one was at
        for is_last in (False, True) if claim.older else (True,):
            try:
                jobs.work(job, self.progress)
            except Exception as error:
                if jobs.is_done(job):  # by that one
                    return None
                if not self._is_newest(key, claim):
                    raise _Lost from error
                if not is_last:
                    continue
                if isinstance(error, VitrailError):
                    self._record(key, error)
                    return error
                said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                problem = f"it ended {self._presence.worker} with a fault ({said})"
                self._record(key, RunError(name, problem, "Look at the output of that process"))
                raise
            else:
                break
        self._record(key, None)
        return None

    def _try(self, key: str) -> _Claim | None:
        """Claim what is free; None: it is not."""
        numbers = self._claims().get(key, [])
        return self._create(key, numbers) if not numbers or self._is_free(key, numbers) else None

    def _is_free(self, key: str, numbers: list[int]) -> bool:
        """Tell whether the newest claim for something is a dead command's."""
        path = self._path(key, f"{max(numbers)}.claim")
        token = _content(path)
        if token:
            return self._presence.is_dead(token)
        # it was just made or removed; or its maker died in that moment, and it stays so
        now = time.monotonic()
        return now - self._nameless.setdefault(path.name, now) > self._silence

    def _create(self, key: str, numbers: list[int]) -> _Claim | None:
        """Create the next claim for something; None: another has."""
        path = self._path(key, f"{max(numbers, default=-1) + 1}.claim")
        try:
            with path.open("x", encoding="ascii") as file:
                file.write(self._presence.worker.token)
        except (FileExistsError, PermissionError):  # Windows says the latter of a file that is just being removed
            return None
        except FileNotFoundError:  # this one was taken for dead, and the last one has tidied up
            self._presence.announce()
            return None
        older = tuple(self._path(key, f"{number}.claim") for number in numbers)
        if numbers and not _is_there(self._path(key, f"{max(numbers)}.claim")):
            # another has taken that one over, and has ended since: what was looked at is no longer so
            remove(path)
            return None
        return _Claim(path=path, older=older)

    def _is_newest(self, key: str, claim: _Claim) -> bool:
        """Tell whether nobody has taken over what this command has claimed."""
        newest = max(self._claims().get(key, [-1]))
        return claim.path == self._path(key, f"{newest}.claim")

    def _claims(self) -> dict[str, list[int]]:
        """Return the numbers of all claims."""
        self._presence.refresh()
        claims: dict[str, list[int]] = {}
        for path in self._presence.folder.glob("*.claim"):
            key, number = path.stem.split(".")
            claims.setdefault(key, []).append(int(number))
        return claims

    def _path(self, key: str, ending: str) -> Path:
        return self._presence.folder / f"{key}.{ending}"

    def _record(self, key: str, error: VitrailError | None) -> None:
        kind, texts = (type(error).__name__, error.args) if error else ("", ())
        record = {"kind": kind, "error": texts, "by": self._presence.worker.token, "time": time.time()}
        write_text(self._path(key, "end"), json.dumps(record), shared=True)

    def _end(self, key: str) -> _End | None:
        """Return how a job has ended since this command began; None: it has not."""
        content = _content(self._path(key, "end"))
        if not content or content == self._early_ends.get(key):
            return None
        record = json.loads(content)
        kind = getattr(vitrail.errors, record["kind"], RunError)
        return _End(error=kind(*record["error"]) if record["kind"] else None)

    def _whom(self, title: str, keys: dict[str, str]) -> str:
        """Say for whom this command waits."""
        claims = self._claims()
        for name, key in keys.items():
            if key in claims:
                more = f", and {len(keys) - 1} more" if len(keys) > 1 else ""
                return f"{title}: waits for {self._holder(key)}, who is at {name}{more}"
        return f"{title}: waits for others"

    def _holder(self, key: str) -> str:
        """Name who has claimed something."""
        numbers = self._claims().get(key, [0])
        return self._presence.named(_content(self._path(key, f"{max(numbers)}.claim")))

    def _waiter(self) -> Callable[[str], None]:
        """Return a wait that says its first reason, and grows longer from call to call."""
        seconds, said = _WAIT[0], False

        def wait(reason: str) -> None:
            nonlocal seconds, said
            if not said and seconds > 4 * _WAIT[0]:  # what takes but a moment is not spoken of
                self.progress.say(reason)
                said = True
            time.sleep(seconds)
            seconds = min(2 * seconds, _WAIT[1])

        return wait


def key_of(title: str, name: str) -> str:
    """Return a job's name for files: of one length, and the same on every machine.

    Parameters
    ----------
    title, name
        Of the jobs, and of one of them.

    Returns
    -------
    str
        24 hexadecimal digits.
    """
    return json_digest([title, name])[:24]


def _content(path: Path) -> str:
    """Return the text of a small file; empty where it is gone, or is being written or removed."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _is_there(path: Path) -> bool:
    """Tell whether a file is there; a network drive asks its server only when a file is opened."""
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False
