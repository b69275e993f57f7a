from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from vitrail.core.cache import cache_folder, read_cached, write_cached


def test_one_rule_for_all_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    assert cache_folder("kind") == tmp_path / "one" / "vitrail" / "kind"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "two"))
    assert cache_folder("kind") == tmp_path / "two" / "vitrail" / "kind"
    monkeypatch.delenv("LOCALAPPDATA")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_folder("kind") == tmp_path / ".cache" / "vitrail" / "kind"

    def no_home():
        raise RuntimeError

    monkeypatch.setattr(Path, "home", no_home)
    assert cache_folder("kind") is None


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b[:40] + b"?" + b[41:], lambda _: b""]
)
def test_what_is_not_as_it_was_written_is_not_there(tmp_path, damage):
    path = tmp_path / "folder" / "file"
    assert read_cached(path) is None
    write_cached(path, bytes(range(256)), 1000)
    assert read_cached(path) == bytes(range(256))
    path.write_bytes(damage(path.read_bytes()))
    assert read_cached(path) is None


def test_what_was_not_used_for_longest_makes_room(tmp_path):
    for number in range(3):
        write_cached(tmp_path / str(number), bytes(68), 300)  # 100 with its digest
        os.utime(tmp_path / str(number), (number, number))
    assert read_cached(tmp_path / "0") == bytes(68)  # used just now
    write_cached(tmp_path / "3", bytes(68), 300)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "2", "3"]
    write_cached(tmp_path / "4", bytes(301), 300)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "2", "3"]


def test_where_nothing_can_be_written_nothing_is(tmp_path):
    (tmp_path / "file").write_text("where the folder should be")
    write_cached(tmp_path / "file" / "kept", b"content", 1000)
    assert read_cached(tmp_path / "file" / "kept") is None


def rewritten(path):
    for _ in range(30):
        write_cached(path, bytes(1 << 16), 1 << 20)
        write_cached(path.with_name(f"{os.getpid()}"), bytes(1 << 19), 1 << 20)
        content = read_cached(path)
        assert content in {None, bytes(1 << 16)}
    return True


def test_processes_may_write_and_remove_at_once(tmp_path):
    with ProcessPoolExecutor(3) as pool:
        assert all(pool.map(rewritten, [tmp_path / "file"] * 3))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1 << 20
