"""The README stays true: its tree, its commands, its code."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from conftest import FAST, tissue, write_cohort
from test_run import vitrail
from vitrail import demo
from vitrail.config import change_settings

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def tree_files():
    """Read the indented tree as paths."""
    tree = re.search(r"<!-- tree -->\n```\n(.*?)```", TEXT, re.DOTALL).group(1)
    parents, files = [], []
    for line in tree.splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 4, line.split()[0]
        parents[depth:] = [name]
        files += [] if name.endswith("/") else ["".join(parents)]
    return files


def test_the_tree_is_the_trees():
    files = {p.relative_to(ROOT).as_posix() for p in (ROOT / "src").rglob("*.py") if p.name != "__init__.py"}
    files |= {p.relative_to(ROOT).as_posix() for p in (ROOT / "bench").glob("*.py") if p.name != "__init__.py"}
    files |= {p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").iterdir()}
    told = tree_files()
    assert sorted(told) == sorted(files)


def test_every_command_of_the_readme_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "PATIENTS", 4)
    monkeypatch.setattr(demo, "SIDE_PX", 1024)
    monkeypatch.setattr(demo, "NEW_PX", 1024)
    monkeypatch.setattr(demo, "SETTINGS", FAST)
    write_cohort(tmp_path)
    Image.fromarray(tissue(0, 32)).save(tmp_path / "tile.png")
    commands = [
        line.partition("#")[0] for block in blocks("sh") for line in block.splitlines() if line.startswith("vitrail")
    ]
    assert len(commands) >= 10
    for command in commands:
        assert vitrail(*shlex.split(command)[1:]) == 0, command
        if " init " in command:
            change_settings(tmp_path / "study" / "study.toml", FAST)
    names = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102 - our own README
    told = re.search(r"A run is a folder\n\n```\n(.*?)```", TEXT, re.DOTALL).group(1)
    for folder in re.findall(r"^(\w+)/ ", told, re.MULTILINE):
        assert (tmp_path / "study" / folder / "stage.json").is_file()


@pytest.mark.parametrize("target", ["demo", "test"])
def test_makes_two_commands_are_there(target):
    assert f"make {target}" in TEXT
    shown = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603, S607 - our own
    assert {"demo": "vitrail demo", "test": "pytest"}[target] in shown.stdout
