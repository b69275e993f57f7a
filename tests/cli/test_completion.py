"""What shells are offered at Tab, by the variables with which they ask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from vitrail.cli.completion import complete_default, complete_model, complete_run, complete_setting, complete_slide
from vitrail.settings.load import described_settings

PROGRAM = (
    "import sys; from vitrail.__main__ import program\n"
    "try: program()\n"
    "finally: print(*sorted({'torch', 'pandas', 'numpy', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with two runs, one of them with a network, and something else."""
    for name in ("study", "studio/inner"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "study.toml").touch()
    (tmp_path / "study" / "classifier").mkdir()
    (tmp_path / "study" / "classifier" / "model.json").touch()
    (tmp_path / "slide.svs").touch()
    (tmp_path / ".hidden").mkdir()
    monkeypatch.chdir(tmp_path)


def asked(words, shell):
    """Ask as a shell does, and return what is offered; nothing heavy may be imported for it."""
    ask = {
        "bash": {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": words},
        "fish": {"_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    environment = os.environ | {"_VITRAIL_COMPLETE": f"complete_{shell}"} | ask
    command = [sys.executable, "-c", PROGRAM]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)  # noqa: S603 - our own
    assert ended.stderr.strip() == ""
    return ended.stdout.splitlines()


@pytest.mark.usefixtures("home")
def test_bash():
    assert asked("vitrail run stu", "bash") == ["study", "studio/"]
    assert asked("vitrail run study --until s", "bash") == ["split", "segmenter", "shift"]
    assert asked("vitrail init new --preset ", "bash") == ["paper", "quick", "best"]
    assert "compute.workers=" in asked("vitrail run study --set compute.w", "bash")


@pytest.mark.usefixtures("home")
def test_zsh():
    (line,) = asked("vitrail run study --set compute.work", "zsh")
    assert '"compute.workers=":"' in line


@pytest.mark.usefixtures("home")
def test_fish():
    (line,) = asked("vitrail predict slide.svs --classifier study/c", "fish")
    assert line == "study/classifier\ta model"
    settings = asked("vitrail init new --set compute.", "fish")
    assert len(settings) == sum(key.startswith("compute.") for key in described_settings())
    assert all(line.count("\t") == 1 for line in settings)  # a description is one line


@pytest.mark.usefixtures("home")
def test_what_is_offered():
    assert complete_run("") == [("study", "a run"), ("studio/", "a folder")]
    assert complete_run("studio/") == [("studio/inner", "a run")]
    assert complete_run("./stud")[0] == ("./study", "a run")
    assert complete_run("nowhere/x") == []
    assert complete_model("study/") == [("study/classifier", "a model")]
    assert ("slide.svs", "a file") in complete_slide("sl")
    assert [key for key, _ in complete_setting("tiles.side")] == ["tiles.side_um=", "tiles.side_px="]
    assert ("commands.view.port=", "your default of an option") in complete_default("commands.v")
    assert all(len(text) <= 60 and "\n" not in text for _key, text in complete_setting(""))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_that_a_shell_reads(shell):
    environment = os.environ | {"_VITRAIL_COMPLETE": f"source_{shell}"}
    command = [sys.executable, "-c", PROGRAM]
    script = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout  # noqa: S603 - our own
    assert f"_VITRAIL_COMPLETE=complete_{shell}" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)  # noqa: S603 - whether it is a script at all
