"""docs/paper.md names only what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vitrail.config import Settings

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
CODE = sorted(set(re.findall(r"`([^`]+)`", TEXT)))
SETTINGS = [name for name in CODE if re.fullmatch(r"[a-z]+\.([a-z_]+|\*)( = .+)?", name) and not name.endswith(
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


def test_every_figure_and_table_of_the_paper_is_named():
    wanted = [f"Fig. {number}" for number in (1, 2, 3, 4, 5, 6)] + ["Fig. S1", "Fig. S2", "Fig. S3", "Fig. S4"]
    assert [name for name in [*wanted, "(Fig. 2)", "Table 1", "Table 2"] if name not in TEXT] == []
