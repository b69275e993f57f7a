"""The README stays true: its tree, its commands, its code."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from helpers.cohort import FAST, tissue, write_cohort
from helpers.command import vitrail
from vitrail import demo
from vitrail.settings.load import change_settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


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
