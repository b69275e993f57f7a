"""Slides are copied ahead within a budget; what cannot be copied is read in place."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest

from vitrail.distribute import staging as module
from vitrail.distribute.presence import Worker
from vitrail.distribute.staging import Staging
from vitrail.errors import SettingsError


@pytest.fixture
def slides(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_is_elsewhere", lambda *_: True)
    (tmp_path / "far").mkdir()
    paths = [tmp_path / "far" / f"{name}.tif" for name in "abcd"]
    for path in paths:
        path.write_bytes(path.stem.encode() * 1000)
    return paths


def wait_for(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def copies(folder):
    return sorted(path.name for path in folder.glob("*/*/*.tif"))


def test_the_next_ones_are_copied_as_far_as_the_budget_goes(slides, tmp_path):
    local, said = tmp_path / "local", []
    with Staging(local, 2000, said.append) as staging:
        staging.soon(slides[0], slides[1:])
        with staging.reading(slides[0]) as path:
            assert path == slides[0]  # nobody spoke of it before
            wait_for(lambda: copies(local) == ["b.tif", "c.tif"])
        staging.soon(slides[2], slides[3:])
        wait_for(lambda: copies(local) == ["c.tif", "d.tif"])
        with staging.reading(slides[1]) as path:
            assert path == slides[1]  # its copy was no longer wanted
        with staging.reading(slides[2]) as path:
            assert path != slides[2]
            assert path.name == "c.tif"
            assert path.read_bytes() == slides[2].read_bytes()
        assert copies(local) == ["d.tif"]
        staging.soon(slides[3], [])
        with staging.reading(slides[3]) as path:
            assert path.read_bytes() == slides[3].read_bytes()
    assert [*local.iterdir()] == []
    assert said == []


def test_what_does_not_fit_or_is_gone_is_read_in_place(slides, tmp_path):
    said = []
    slides[1].write_bytes(b"b" * 3000)
    slides[2] = slides[2].with_suffix(".mrxs")
    with Staging(tmp_path / "local", 2000, said.append) as staging:
        staging.soon(slides[3], slides[:3])
        wait_for(lambda: said)
        with staging.reading(slides[1]) as path:
            assert path == slides[1]
        with staging.reading(slides[2]) as path:
            assert path == slides[2]
    assert said == ["b.tif: read in place, since it could not be copied (it has 0.0 GB, more than compute.stage_gb)"]


def test_a_copy_that_fails_is_said_and_leaves_nothing(slides, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 0}))
    with Staging(tmp_path / "local", 2000, said.append) as staging:
        staging.soon(slides[1], slides[:1])
        with staging.reading(slides[0]) as path:
            assert path == slides[0]
        assert copies(tmp_path / "local") == []


def test_slides_of_the_same_file_system_are_not_copied(slides, tmp_path, monkeypatch):
    monkeypatch.undo()
    with Staging(tmp_path / "local", 2000, pytest.fail) as staging:
        staging.soon(slides[3], slides[:3])
        with staging.reading(slides[0]) as path:
            assert path == slides[0]


def test_what_a_killed_command_has_left_is_removed_and_a_living_ones_stays(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    for token, pid in (("dead", process.pid), ("living", Worker.here().pid)):
        folder = tmp_path / f"vitrail-slides-{token}"
        folder.mkdir()
        (folder / "worker.json").write_text(json.dumps(asdict(replace(Worker.here(), token=token, pid=pid))))
    with Staging(tmp_path, 1, pytest.fail):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["vitrail-slides-living"]


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(SettingsError, match=r"Name another compute\.stage_folder"),
        Staging(tmp_path / "file", 1, print),
    ):
        pass
