"""A finished run, and a user without defaults."""

from __future__ import annotations

import json
import shutil

import pytest

from helpers.command import vitrail
from helpers.old_run import unpack


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    return unpack(tmp_path_factory.mktemp("run")).parent


@pytest.fixture
def run(unpacked, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(unpacked, tmp_path / "study") / "run"


@pytest.fixture
def user(tmp_path, monkeypatch):
    """The user's config.toml, which is not there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "vitrail" / "config.toml"


@pytest.fixture
def answer(capsys):
    """Call the command line with --json; return exit code, object, and what was said on standard error."""

    def call(*arguments):
        capsys.readouterr()  # of calls before
        code = vitrail(*arguments)
        said = capsys.readouterr()
        return code, json.loads(said.out), said.err

    return call
