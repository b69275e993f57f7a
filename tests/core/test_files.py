"""Only regular files are opened: whatever else stands in the place of one is one line, at once."""

from __future__ import annotations

import csv
import os
import re
import socket
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vitrail.core.files import read_csv, read_json, read_regular, read_table, regular_file, write_csv
from vitrail.errors import CohortError, RunError


def pipe(folder):
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def listening(folder):
    del folder  # its name may be too long for a socket
    path = Path(tempfile.mkdtemp()) / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return path


def linked_device(folder):
    (folder / "zero").symlink_to("/dev/zero")
    return folder / "zero"


@pytest.mark.parametrize("read", [regular_file, read_regular])
@pytest.mark.parametrize(
    ("place", "problem"),
    [
        (lambda folder: folder, "a folder, not a file"),
        (lambda folder: folder / "gone", "no such file"),
        (lambda _: Path(__file__) / "below", "no such file"),
        (lambda _: Path("/dev/zero"), "a device, not a file"),
        (lambda folder: folder / ("a" * 400), "cannot be opened (File name too long)"),
        (lambda folder: folder / "a\0b", "cannot be opened (no file can have this name)"),
        (pipe, "a named pipe, not a file"),
        (listening, "a socket, not a file"),
        (linked_device, "a device, not a file"),
    ],
)
def test_what_is_no_file_is_not_opened(read, place, problem, tmp_path):
    with pytest.raises(CohortError) as caught:
        read(place(tmp_path), CohortError, "Name a file")
    assert caught.value.problem == problem
    assert "\n" not in str(caught.value)


def test_files_and_links_to_files_are(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert regular_file(tmp_path / "link", CohortError, "") == tmp_path / "link"
    assert read_regular(tmp_path / "link", CohortError, "") == b"content"


def test_a_file_that_is_too_large_is_not_read_to_its_end(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CohortError, match="has 1048576 MiB, more than 2"):
        read_regular(tmp_path / "sparse", CohortError, "Name a file", 2 << 20)


def test_a_line_stays_one_that_can_be_read_whatever_is_in_it():
    line = str(CohortError("slides.csv", "column \x1b[31m\n\ud800" + "x" * 10**6 + "end", "Mend it"))
    assert line.startswith("slides.csv: column \\x1b[31m \\ud800xxx")
    assert line.endswith("xxend. Mend it.")
    assert len(line) < 1000


TEXTS = (
    "=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\tx", "\rx", "a\rb", "\n=x", "'=1", "''@", "'", "''", "'plain",
    "plain", "", "-1.5", "+2", "-1e-3", "-.5", "- 1", "-", "a=b", "é=", 'a,b;"c"', "two\nlines", "NA", "nan", "1/2",
)  # fmt: skip


def tables():
    return pd.DataFrame({
        "slide_id": TEXTS,
        "=header": ["x"] * len(TEXTS),
        "number": np.linspace(-1, 1, len(TEXTS)),
        "count": np.arange(len(TEXTS)) - 3,
        "kind": pd.Categorical(TEXTS),
    })  # fmt: skip


def test_no_text_of_a_table_is_a_formula_and_numbers_are_numbers(tmp_path):
    write_csv(tmp_path / "a.csv", tables())
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    shown = [cell for row in [header, *rows] for cell in row if cell[:1] in set("=+-@\t\r\n")]
    assert [float(cell) for cell in shown] == [
        float(cell) for row in tables().astype(str).to_numpy() for cell in row if re.fullmatch(r"[+-][\d.e-]+", cell)
    ]
    assert [float(row[2]) for row in rows] == tables()["number"].tolist()
    assert [int(row[3]) for row in rows] == tables()["count"].tolist()


def test_a_table_is_read_back_as_it_was(tmp_path):
    write_csv(tmp_path / "a.csv", tables())
    pd.testing.assert_frame_equal(read_csv(tmp_path / "a.csv", ("=header", "kind")), tables().astype(str))


def test_a_table_that_was_written_before_apostrophes_is_read_as_it_is(tmp_path):
    (tmp_path / "a.csv").write_text("slide_id\n=1\nplain\n")
    assert read_csv(tmp_path / "a.csv", ())["slide_id"].tolist() == ["=1", "plain"]


READERS = {"a.csv": lambda path: read_csv(path, ("x",)), "a.json": read_json, "a.parquet": read_table}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"\xff\xfe\x00 no UTF-8",
        lambda _: b"",
        lambda whole: whole[: len(whole) // 2],
        lambda _: b"[" * 100_000,
        lambda _: b'"' * 101,
        lambda _: b"1",
        lambda whole: whole[:4] + b"\xff" * (len(whole) - 8) + whole[-4:],
        None,
    ],
)
def test_a_damaged_file_of_a_run_is_one_line_with_its_stages_folder(tmp_path, name, spoil):
    stage, path = tmp_path / "stage", tmp_path / "stage" / "maps" / name
    path.parent.mkdir(parents=True)
    (stage / "stage.json").write_text("{}")
    write_csv(stage / "maps" / "a.csv", pd.DataFrame({"x": ["one, two", "three"]}))
    (stage / "maps" / "a.json").write_text('{"x": [1, 2]}')
    pd.DataFrame({"x": range(1000)}).to_parquet(stage / "maps" / "a.parquet")
    READERS[name](path)
    path.write_bytes(spoil(path.read_bytes())) if spoil else path.unlink()
    with pytest.raises(RunError) as caught:
        READERS[name](path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith(f"Remove the folder {stage}, and run the same command again.")
    assert len(str(caught.value).splitlines()) == 1
