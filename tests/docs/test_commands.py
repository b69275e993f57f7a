"""The commands of docs/commands.md work as they are written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from helpers.command import vitrail
from helpers.old_run import unpack

PAGE = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")


def test_every_command_of_the_page_works(tmp_path, monkeypatch):
    for name in ("CACHE", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    unpack(tmp_path).rename(tmp_path / "study" / "study")
    monkeypatch.chdir(tmp_path / "study")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    assert len(lines) >= 10
    for line in lines:
        assert vitrail(*shlex.split(line)[1:]) == 0, line


def test_the_example_of_defaults_is_one(tmp_path, monkeypatch):
    from vitrail.settings.user import read_user_defaults  # noqa: PLC0415 - reads the environment of this test

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "vitrail").mkdir()
    example = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0]
    (tmp_path / "vitrail" / "config.toml").write_text(example)
    assert read_user_defaults().changes() == ["slides.mpp=0.25", "compute.workers=2"]
    assert read_user_defaults().commands["predict"] == {"out": "maps"}
