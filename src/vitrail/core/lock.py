"""One process at a time in a folder."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vitrail.core.holder import LOCK, holder_named, name_in
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
    is_first = True
    with (folder / LOCK).open("ab+") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if wait is not None:
                    wait()
                elif is_first:  # somebody may only be looking who holds it, which takes no time
                    is_first = False
                    time.sleep(0.05)
                else:
                    name = name_in(lock)
                    problem = f"another vitrail is at work in this run{name and f' ({name})'}"
                    raise RunError(folder, problem, "Wait for it, or stop it") from None
            except OSError:
                break  # a file system without locks
            else:
                break
        with holder_named(lock):
            yield
