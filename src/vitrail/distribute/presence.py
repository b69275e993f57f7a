"""Who is at work in a folder: a file for each command, which it touches as long as it lives.

The folder may lie on a disk that many machines share. Whether a command lives is judged without comparing the clocks
of machines: on the same machine by its process alone; from elsewhere by whether its file was touched within some time
of the observer's own clock.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.core.files import write_text
from vitrail.errors import RunError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

FOLDER = ".claims"
"""In the folder that is worked at."""

BEAT = 5.0
"""Seconds between two touches."""

SILENCE = 60.0
"""Seconds without a touch after which a command elsewhere is taken for dead. Network drives may answer late by half of
it."""

_PATIENCE = 5
"""Times `SILENCE` of the disk's clock, without a touch, after which a command is not counted among those at work, by
one that has not watched it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A command at work.

    Attributes
    ----------
    token
        Its name, random.
    host
        The machine's name.
    machine
        What tells processes with one number apart: the machine, when it was started, and the container.
    pid, started
        The process, and when it began, in ticks of the machine's; 0 where that cannot be told.
    purpose
        Digest of all that decides what comes out; empty until it is settled.
    phase
        What it does together with others; empty where it does nothing such.
    """

    token: str
    host: str
    machine: str
    pid: int
    started: int
    purpose: str = ""
    phase: str = ""

    @classmethod
    def here(cls) -> Self:
        """Return this process as a worker with a token of its own."""
        own = _process(os.getpid())
        return cls(
            token=secrets.token_hex(8),
            host=platform.node(),
            machine=_machine(),
            pid=os.getpid(),
            started=own[1] if own else 0,
        )

    def __str__(self) -> str:
        """Name it for people."""
        return f"process {self.pid} on {self.host}"

    def lives(self) -> bool | None:
        """Tell whether its process lives; None where that cannot be told, as of another machine's."""
        if os.name != "posix" or self.machine != _machine():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # it is another user's
            return None
        own = _process(self.pid)
        return None if own is None else own[0] not in "ZX" and own[1] == self.started


class Presence:
    """A command's own file in a folder, and those of others; used with `with`.

    Parameters
    ----------
    folder
        What is worked at, by a path that may differ from machine to machine.
    beat, silence
        Seconds, see `BEAT` and `SILENCE`.

    Attributes
    ----------
    folder
        Where the files are.
    worker
        This command.
    """

    def __init__(self, folder: Path, beat: float = BEAT, silence: float = SILENCE) -> None:
        self.folder, self.worker = folder / FOLDER, Worker.here()
        self._beat, self._silence = beat, silence
        self._touches: dict[str, tuple[int, float]] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._touch, name="heartbeat", daemon=True)
        self._writing = threading.Lock()

    def __enter__(self) -> Self:
        """Write the file, and begin to touch it."""
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the file; and the folder, unless it is in use. It may be done again."""
        self._ending.set()
        self._thread.join()
        remove(self._path(self.worker.token))
        with suppress(OSError):  # not empty: others are at work
            self.folder.rmdir()

    def announce(self, *, purpose: str | None = None, phase: str | None = None) -> None:
        """Let others know what this command is at; None leaves a value as it is."""
        worker = self.worker
        changed = replace(
            worker,
            purpose=worker.purpose if purpose is None else purpose,
            phase=worker.phase if phase is None else phase,
        )
        with self._writing:
            self.worker = changed
        self._write()

    def is_dead(self, token: str) -> bool:
        """Tell whether a command has ended, or was silent for so long as this one has watched it.

        Parameters
        ----------
        token
            Its token.

        Returns
        -------
        bool
            Whether what it was at may be done by another. Who only was asleep does no harm when it wakes.
        """
        if token == self.worker.token:
            return False
        worker, touched = self._look(token)
        if touched is None:
            return True
        lives = worker.lives() if worker else None
        if lives is not None:
            return not lives
        now = time.monotonic()
        last, since = self._touches.get(token, (None, now))
        if touched != last:
            self._touches[token] = touched, now
            return False
        return now - since > self._silence

    def others(self) -> list[Worker]:
        """Return who else is at work, as far as that can be told at once."""
        with suppress(OSError):
            os.utime(self._path(self.worker.token))
        _own, now = self._look(self.worker.token)
        return self._recent(now)

    def seen_from_outside(self) -> list[Worker]:
        """Return who is at work by this machine's clock, which may go wrong by minutes; nothing is written."""
        return self._recent(time.time_ns())

    def _recent(self, now: int | None) -> list[Worker]:
        workers = []
        for path in self.folder.glob("*.worker"):
            worker, touched = self._look(path.stem)
            if worker is None or touched is None or worker.token == self.worker.token:
                continue
            lives = worker.lives()
            # both times are of the clock that the disk's server has, where this one has a file there, too
            is_recent = now is None or now - touched < _PATIENCE * max(self._silence, self._beat) * 1e9
            if is_recent if lives is None else lives:
                workers.append(worker)
        return workers

    def refresh(self) -> None:
        """Make a network drive ask its server what is in the folder: so it does when a file is made there."""
        path = self.folder / f"{self.worker.token}.look"
        with suppress(OSError):
            path.touch()
        remove(path)

    def tidy(self, own: Path | None = None) -> None:
        """Remove what the dead have left, unless others live; called where no one can begin to work meanwhile.

        Parameters
        ----------
        own
            A further file of this command's, which stays.
        """
        files = [*self.folder.iterdir()]  # before it is asked who lives: who comes later keeps his own
        if all(self.is_dead(other.token) for other in self.others()):
            for path in files:
                if path not in {own, self._path(self.worker.token)}:
                    remove(path)

    def named(self, token: str) -> str:
        """Name a command for people."""
        worker, _touched = self._look(token)
        return "a process that has just ended" if worker is None else str(worker)

    def _path(self, token: str) -> Path:
        return self.folder / f"{token}.worker"

    def _look(self, token: str) -> tuple[Worker | None, int | None]:
        """Return a command and when it touched its file, in nanoseconds of the disk's clock; None: not there."""
        try:
            with self._path(token).open("rb") as file:  # a network drive asks its server when a file is opened
                touched = os.fstat(file.fileno()).st_mtime_ns
                content = file.read()
        except FileNotFoundError:
            return None, None
        except OSError:  # it is just being replaced, or the server does not answer: no reason to call anyone dead
            return None, 0
        try:
            return Worker(**json.loads(content)), touched
        except (ValueError, TypeError):  # of another version
            return None, touched

    def _write(self) -> None:
        with self._writing:
            text = json.dumps(asdict(self.worker))
            for attempt in range(5):
                with suppress(FileNotFoundError, PermissionError):  # the last one has just removed the folder; Windows
                    self.folder.mkdir(parents=True, exist_ok=True)
                    write_text(self._path(self.worker.token), text, shared=True)
                    return
                time.sleep(0.05 * 2**attempt)
        raise RunError(self.folder, "cannot be written to", "Check its permissions and the disk")

    def _touch(self) -> None:
        while not self._ending.wait(self._beat):
            try:
                os.utime(self._path(self.worker.token))
            except FileNotFoundError:  # the last one before this one has tidied up
                with suppress(RunError, OSError):
                    self._write()
            except OSError:  # the disk's server does not answer; it may soon
                pass


def others_at_work(folder: Path) -> list[Worker]:
    """Return the commands that share the work in a folder; where there are none, what dead ones left is removed.

    Parameters
    ----------
    folder
        What is worked at; the caller holds it with `locked`.

    Returns
    -------
    list[Worker]
        Those that live, as far as that can be told at once.
    """
    if not (folder / FOLDER).is_dir():
        return []
    with Presence(folder) as presence:
        presence.tidy()
        return presence.others()


def workers_in(folder: Path) -> list[Worker]:
    """Return the commands that share the work in a folder, as far as that can be told; nothing is written.

    Parameters
    ----------
    folder
        What is worked at.

    Returns
    -------
    list[Worker]
        Those that live; of another machine's it is not known for minutes that they do not.
    """
    return Presence(folder).seen_from_outside() if (folder / FOLDER).is_dir() else []


def refuse_beside_others(folder: Path) -> None:
    """Raise a RunError where commands share the work in a folder, and this one was not asked to.

    Parameters
    ----------
    folder
        What is worked at; the caller holds it with `locked`.

    Raises
    ------
    RunError
        Some live.
    """
    others = others_at_work(folder)
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        problem = f"others share the work here: {others[0]}{more}"
        raise RunError(folder, problem, "Wait for them, or join them with --shard 1/2")


def remove(path: Path) -> None:
    """Remove a file, which Windows refuses as long as another process looks at it."""
    for attempt in range(5):
        try:
            path.unlink(missing_ok=True)
        except PermissionError:
            time.sleep(0.02 * 2**attempt)
        else:
            return


def _machine() -> str:
    """Return what is the same for all processes that see each other by their numbers."""
    container = ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux; two machines may have one name, as laptops do
        boot = f"{uuid.getnode():x}"
    with suppress(OSError):
        container = str(Path("/proc/self/ns/pid").readlink())
    return f"{platform.node()} {boot} {container}"


def _process(pid: int) -> tuple[str, int] | None:
    """Return the state of a process of this machine, and when it began; None where the system does not say so."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, LookupError, ValueError):
        return None
