"""One process at a time in a folder."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from vitrail.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


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
    with (folder / ".lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if wait is None:
                    cure = "Wait for it, or stop it"
                    raise RunError(folder, "another vitrail is at work in this run", cure) from None
                wait()
            except OSError:
                break  # a file system without locks
            else:
                break
        yield
