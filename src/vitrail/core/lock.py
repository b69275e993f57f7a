"""One process at a time in a folder, or at a file."""

from __future__ import annotations

import errno
import os
import time
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO

from vitrail.core.holder import LOCK, holder_named, name_in
from vitrail.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def locked(folder: Path, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a folder's lock; the system lets go of it when the process ends, however it ends.

    Where the file system has no such locks, as on some network drives, nothing is held.

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
    is_first = True
    with (folder / LOCK).open("ab+") as file:

        def refuse() -> None:
            nonlocal is_first
            if is_first:  # somebody may only be looking who holds it, which takes no time
                is_first = False
                time.sleep(0.05)
                return
            name = name_in(file)
            problem = f"another vitrail is at work in this run{name and f' ({name})'}"
            raise RunError(folder, problem, "Wait for it, or stop it")

        with locked_file(file, wait or refuse), holder_named(file):
            yield


@contextmanager
def locked_file(file: BinaryIO, wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of an open file, where the system and the file system have such locks.

    Parameters
    ----------
    file
        Opened for writing. What is in it can be read and written by others meanwhile.
    wait
        Called as often as it has to be, until no other process holds the lock; what it raises goes on.
    """
    try:
        import fcntl  # noqa: PLC0415 - not on every system
    except ImportError:
        try:
            windows = import_module("msvcrt")
        except ImportError:  # neither POSIX nor Windows
            yield
            return
        while not _changes_byte(windows, file, windows.LK_NBLCK):
            wait()
        try:
            yield
        finally:  # else Windows lets go of it some time after the file is closed
            _changes_byte(windows, file, windows.LK_UNLCK)
        return
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
        except OSError:  # a file system without locks
            break
        else:
            break
    yield


def _changes_byte(windows: Any, file: BinaryIO, how: int) -> bool:
    """Lock or free a byte far behind the content, since Windows lets nobody else read or write what is locked.

    False: another process has locked it. Where the file system has no locks nothing is done.
    """
    number = file.fileno()
    place = os.lseek(number, 0, os.SEEK_CUR)
    try:
        os.lseek(number, _FAR, os.SEEK_SET)
        windows.locking(number, how, 1)
    except OSError as error:
        return error.errno not in {errno.EACCES, errno.EDEADLK}
    finally:
        os.lseek(number, place, os.SEEK_SET)
    return True


_FAR = (1 << 31) - 2  # within the 32 bits of its positions
