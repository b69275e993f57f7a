"""What an installation weighs is counted once, torch apart, and each environment is removed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest


@pytest.fixture
def install():
    return importlib.import_module("bench.install")


def test_sizes_are_those_of_the_files_that_packages_record(install):
    sizes = install.sizes(sys.executable)
    assert sizes["numpy"] > 10e6
    assert "pip" not in sizes


def test_each_row_counts_what_its_extra_brings(install, monkeypatch, tmp_path, capsys):
    base = {"numpy": 50e6, "torch": 700e6, "nvidia-cublas": 500e6, "torchmetrics": 1e6}
    commands = []

    def run(*command):
        command = [str(each) for each in command]
        commands.append(command)
        if "build" in command:
            (Path(command[command.index("--out-dir") + 1]) / "vitrail-0.1.0-py3-none-any.whl").touch()
        if "venv" in command:
            Path(command[-1]).mkdir()
        return 2.0

    def sizes(python):
        assert python.is_relative_to(tmp_path)
        return base | ({"dask": 14e6} if "cluster" in str(python) else {})

    monkeypatch.setattr(install, "run", run)
    monkeypatch.setattr(install, "sizes", sizes)
    options = [
        "--uv",
        "uv",
        "--extras",
        "cluster",
        "--constraint",
        "c.txt",
        "--index",
        "file:///a",
        "--index",
        "file:///b",
    ]
    monkeypatch.setattr(sys, "argv", ["install", *options, "--torch-backend", "cpu", "--folder", str(tmp_path)])
    install.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1:] == [
        ["base", "2", "51", "2", "1200", "2.0", "2.0"],
        ["+", "cluster", "1", "14", "0", "0", "2.0", "2.0"],
    ]
    installs = [command for command in commands if "pip" in command]
    assert len(installs) == 4
    assert all(command.count("--index-strategy") == 1 and "cpu" in command for command in installs)
    assert sum("vitrail[cluster] @ file://" in " ".join(command) for command in installs) == 2
    assert [*tmp_path.iterdir()] == []
