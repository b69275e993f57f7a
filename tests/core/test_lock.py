"""One process at a time in a folder, where the system can tell."""

from __future__ import annotations

import sys

import pytest

from vitrail.core.lock import locked
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
    with locked(tmp_path), locked(tmp_path):
        pass


def test_a_file_system_without_locks_holds_none(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    pytest.importorskip("fcntl")
    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path), locked(tmp_path):
        pass
