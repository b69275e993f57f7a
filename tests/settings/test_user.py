"""The user's own defaults: read, checked, changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vitrail.core.cache import cache_folder
from vitrail.errors import SettingsError
from vitrail.settings.user import change_user_defaults, config_file, read_user_defaults


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "vitrail" / "config.toml"


def test_where_the_file_is(monkeypatch, tmp_path):
    for name in ("XDG_CONFIG_HOME", "APPDATA", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config_file() == tmp_path / ".config" / "vitrail" / "config.toml"
    assert cache_folder("trials") == tmp_path / ".cache" / "vitrail" / "trials"
    monkeypatch.setenv("APPDATA", "roaming")  # Windows
    assert config_file() == Path("roaming") / "vitrail" / "config.toml"

    def homeless():
        raise RuntimeError

    monkeypatch.delenv("APPDATA")
    monkeypatch.setattr(Path, "home", homeless)
    assert config_file() is None
    assert read_user_defaults().changes() == []
    with pytest.raises(SettingsError, match="no home folder"):
        change_user_defaults(["seed=1"])


def test_what_is_set_is_read_and_comments_stay(file):
    assert read_user_defaults().settings == {}
    change_user_defaults(["compute.workers=2", "tiles.side_px = 96", "commands.view.port=8000", "seed=3"])
    file.write_text(file.read_text().replace("workers = 2", "workers = 2  # the machine has two"))
    defaults = change_user_defaults(["encoder.weights=embedded", "encoder.name=tf_efficientnet_lite0"])
    assert defaults == read_user_defaults()
    assert sorted(defaults.changes()) == [
        "compute.workers=2",
        'encoder.name="tf_efficientnet_lite0"',
        'encoder.weights="embedded"',
        "seed=3",
        "tiles.side_px=96",
    ]
    assert defaults.commands == {"view": {"port": 8000}}
    assert "# the machine has two" in file.read_text()
    assert change_user_defaults([], ["compute.workers", "commands.view.port"]).commands == {"view": {}}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[compute\n", "not valid TOML"),
        ("[compute]\nwrkers = 2\n", r"there is no setting 'compute.wrkers'. Did you mean 'workers'\?"),
        ("[compute]\nworkers = 'many'\n", "compute.workers = 'many'"),
        ("commands = 1\n", r"commands is a value, not a table. Write \[commands\]"),
        ("[commands]\nloud = true\n", "there is no default 'commands.loud'. There are: quiet, verbose, init"),
        ("[commands]\nquiet = 'yes'\n", "commands.quiet is 'yes'. Write true or false"),
        ("[commands.view]\nport = true\n", "commands.view.port is 'True'. Write a whole number"),
        ("[commands.run]\nset = ['seed=1']\n", "there is no default 'commands.run'"),
        ("[commands.predict]\nbackground = true\n", "there is no default 'commands.predict.background'"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_file(file, text, line):
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(SettingsError, match=line) as raised:
        read_user_defaults().changes()
    assert str(raised.value).startswith(str(file))


@pytest.mark.parametrize(
    ("changes", "unset"),
    [
        (["nonsense"], []),
        (["compute.workers.more=1"], []),
        (["commands=1"], []),
        (["commands.view.port"], []),
        (["commands.predict.out=\udcff"], []),
        (["commands.quiet.much=1"], []),
        (["commands.view.port=none"], []),
        (["seed=-1"], []),
        ([], ["compute.workers"]),
    ],
)
def test_what_cannot_be_set_leaves_the_file_as_it_was(file, changes, unset):
    change_user_defaults(["seed=1", "commands.quiet=false"])
    before = file.read_bytes()
    with pytest.raises(SettingsError):
        change_user_defaults(changes, unset)
    assert file.read_bytes() == before


@pytest.mark.skipif(os.name != "posix", reason="a named pipe")
def test_a_pipe_in_its_place_is_not_waited_for(file):
    file.parent.mkdir()
    os.mkfifo(file)
    with pytest.raises(SettingsError, match="a named pipe"):
        read_user_defaults()
