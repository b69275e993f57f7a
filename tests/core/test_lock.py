"""One process at a time in a folder, where the system can tell."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import ExitStack

import pytest

from vitrail.core.lock import locked, locked_file
from vitrail.errors import RunError


def test_two_at_once_are_refused(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another vitrail is at work"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


def test_a_system_without_locks_holds_none(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", None)
    with locked(tmp_path), locked(tmp_path):
        pass


def test_a_file_system_without_locks_holds_none(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    pytest.importorskip("fcntl")
    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path), locked(tmp_path):
        pass


class Windows:
    """Stands for msvcrt: locks of bytes, of one process here."""

    LK_NBLCK, LK_UNLCK = 2, 0

    def __init__(self, refusal=errno.EACCES):
        self.held, self.refusal = set(), refusal

    def locking(self, number, how, count):
        at = os.fstat(number).st_ino, os.lseek(number, 0, os.SEEK_CUR), count
        if self.refusal == errno.EINVAL or (how == self.LK_NBLCK and at in self.held):
            raise OSError(self.refusal, "locking")
        if how == self.LK_UNLCK:
            self.held.remove(at)
        else:
            self.held.add(at)


@pytest.fixture
def windows(monkeypatch):
    def be(**options):
        monkeypatch.setitem(sys.modules, "fcntl", None)
        monkeypatch.setitem(sys.modules, "msvcrt", module := Windows(**options))
        return module

    return be


def test_on_windows_two_at_once_are_refused_and_the_next_one_is_not(tmp_path, windows):
    system = windows()
    with locked(tmp_path):
        with pytest.raises(RunError, match="another vitrail is at work"), locked(tmp_path):
            pass
        assert len(system.held) == 1
    assert system.held == set()
    with locked(tmp_path):
        pass


def test_on_windows_a_file_system_without_locks_holds_none(tmp_path, windows):
    system = windows(refusal=errno.EINVAL)
    with locked(tmp_path), locked(tmp_path):
        assert system.held == set()


def test_on_windows_content_is_not_locked_and_is_written_where_it_was(tmp_path, windows):
    system, path = windows(), tmp_path / "lines"
    path.write_bytes(b"one\n")
    with path.open("a+b") as file, locked_file(file, pytest.fail):
        ((_, at, _),) = system.held
        assert at > 1 << 30
        file.seek(0)
        assert file.read() == b"one\n"
        file.write(b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("on_windows", [False, True])
def test_who_waits_comes_next(tmp_path, windows, on_windows):
    if on_windows:
        windows()
    holding, waits = ExitStack(), []

    def wait():
        waits.append(1)
        if len(waits) == 3:
            holding.close()

    file = holding.enter_context((tmp_path / "file").open("ab"))
    holding.enter_context(locked_file(file, pytest.fail))
    with (tmp_path / "file").open("ab") as second, locked_file(second, wait):
        assert len(waits) == 3
