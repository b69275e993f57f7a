"""docs/outputs.md tells the columns of a real run."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import pandas as pd
import pytest

from vitrail.explain.checks.results import COLUMNS
from vitrail.explain.nuclei.results import COLUMNS as NUCLEI
from vitrail.review.queue import COLUMNS as QUEUE
from vitrail.shift.results import COLUMNS as SHIFT

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")
TABLES = re.findall(r"^`([^`\s]+\.(?:parquet|csv))`.*\n\n\| Column.*\n\|.*\n((?:\|.*\n)+)", TEXT, re.MULTILINE)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ROOT / "tests" / "fixtures" / "run-2026-11.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "study" / "run"


def test_it_tells_of_all_stages():
    assert len(TABLES) >= 12


def test_it_tells_of_every_table_of_nuclei():
    assert {name.removesuffix(".parquet") for name, _ in TABLES if name.startswith("nuclei/")} == {
        f"nuclei/{name}" for name in NUCLEI
    }


@pytest.mark.parametrize(("name", "rows"), TABLES, ids=[name for name, _ in TABLES])
def test_its_columns_are_those_of_a_run(run, name, rows):
    told = [column for row in rows.splitlines() for column in re.findall(r"`([^`]+)`", row.split("|")[1])]
    folder, _, table = name.partition("/")
    if folder in (later := {"checks": COLUMNS, "nuclei": NUCLEI, "shift": SHIFT}):  # more than when this run was made
        columns = later[folder]
        assert sorted(told) == sorted(columns[table.removesuffix(".parquet")])
        return
    if folder == "review":  # there were no raters
        assert sorted(told) == sorted(QUEUE)
        return
    read = pd.read_parquet if name.endswith(".parquet") else pd.read_csv
    assert sorted(told) == sorted(read(run / name).columns)


def test_every_table_of_the_report_is_named(run):
    named = [name.replace("*", "") for name in re.findall(r"`([a-z_]+\*?\.csv)`", TEXT.partition("## report/")[2])]
    stems = [name.removesuffix(".csv") for name in named]
    tables = [path.stem for path in (run / "report" / "tables").glob("*.csv")]
    assert [
        name
        for name in tables
        if not any(name == stem or (stem.endswith("_") and name.startswith(stem)) for stem in stems)
    ] == []
