"""One process at a time in a folder."""

from __future__ import annotations

import os
import platform
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from vitrail.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LOCK = ".lock"
"""The file's name; it is empty where nobody is at work."""


@contextmanager
def locked(folder: Path, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a folder's lock; the system lets go of it when the process ends, however it ends.

    Where the system or the file system has no such locks (Windows, some network drives), nothing is held.

    Parameters
    ----------
    folder
        A run, or another folder that a command writes to; it must be there.
    wait
        Called as often as it has to be, until no other process holds the lock; None does not wait.

    Raises
    ------
    RunError
        Another process holds it, and this one does not wait.
    """
    try:
        import fcntl  # noqa: PLC0415 - not on every system
    except ImportError:
        yield
        return
    with (folder / LOCK).open("a+", encoding="utf-8") as lock:
        is_first = True
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if wait is None and is_first:  # somebody may only look whether it is held, see holder_of
                    is_first = False
                    time.sleep(0.05)
                elif wait is None:
                    holder = _named(lock)
                    problem = f"another vitrail is at work in this run{holder and f' ({holder})'}"
                    raise RunError(folder, problem, "Wait for it, or stop it") from None
                else:
                    wait()
            except OSError:
                break  # a file system without locks
            else:
                break
        with suppress(OSError):  # a full disk: then it is not said who is at work
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {platform.node()}")
            lock.flush()
        try:
            yield
        finally:
            with suppress(OSError):
                lock.truncate(0)


def holder_of(folder: Path) -> str | None:
    """Return who holds a folder's lock, in words; None where nobody does, or where that cannot be told.

    Parameters
    ----------
    folder
        A run; nothing is written there.

    Returns
    -------
    str | None
        Such as `process 123 on host`; `a process` where it has not said who it is.
    """
    try:
        import fcntl  # noqa: PLC0415 - not on every system

        with (folder / LOCK).open(encoding="utf-8", errors="replace") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _named(lock) or "a process"
    except (ImportError, OSError):
        return None
    return None


def _named(lock: TextIO) -> str:
    """Return what the holder of a lock has written into it."""
    try:
        lock.seek(0)
        return lock.read(200).strip()
    except (OSError, ValueError):
        return ""
