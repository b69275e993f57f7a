"""docs/paper.md names only what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vitrail.settings.load import QUICK, Settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
CODE = sorted(set(re.findall(r"`([^`]+)`", TEXT)))
SETTINGS = [name for name in CODE if re.fullmatch(r"[a-z]+\.([a-z_0-9]+|\*)( = .+)?", name) and not name.endswith(
    (".md", ".csv", ".json", ".toml", ".npy", ".parquet", ".html"))]  # fmt: skip
FILES = [name for name in CODE if name.endswith(".py")]


def test_it_names_settings_and_files():
    assert len(SETTINGS) > 30
    assert len(FILES) > 30


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_exists(name):
    group, key = name.split(" = ")[0].split(".")
    branch = Settings.model_fields[group].annotation
    assert key == "*" or key in branch.model_fields


@pytest.mark.parametrize("name", FILES)
def test_every_file_exists(name):
    assert (ROOT / "src" / "vitrail" / name).is_file()


def test_what_quick_changes_is_told():
    section = TEXT.partition("## The preset quick")[2]
    changed = {f"{group}.{key}" for group, values in QUICK.items() for key in values if group != "search"}
    named = set(re.findall(r"`([a-z]+\.[a-z_0-9]+)`", section))
    assert changed <= named
    assert "`search.*`" in section


def test_every_figure_and_table_of_the_paper_is_named():
    wanted = [f"Fig. {number}" for number in (1, 2, 3, 4, 5, 6)] + ["Fig. S1", "Fig. S2", "Fig. S3", "Fig. S4"]
    assert [name for name in [*wanted, "(Fig. 2)", "Table 1", "Table 2"] if name not in TEXT] == []
