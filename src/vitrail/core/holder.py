"""Who holds a folder's lock: its name stands in the lock's file as long as it does."""

from __future__ import annotations

import os
import platform
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK = ".lock"
"""The file's name; it is empty where nobody is at work."""


@contextmanager
def holder_named(lock: IO[bytes]) -> Iterator[None]:
    """Write this process's name into a lock that it holds; it is gone behind the block.

    Parameters
    ----------
    lock
        The file, opened by `ab+`. Where it cannot be written, as on a full disk, it is not said who is at work.
    """
    with suppress(OSError):
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}".encode())
        lock.flush()
    try:
        yield
    finally:
        with suppress(OSError):
            lock.truncate(0)


def name_in(lock: IO[bytes]) -> str:
    """Return the name that is in a lock's file, in words; empty where none is."""
    try:
        lock.seek(0)
        return lock.read(200).decode(errors="replace").strip()
    except OSError:
        return ""


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

        with (folder / LOCK).open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return name_in(lock) or "a process"
    except (ImportError, OSError):
        return None
    return None
