"""Only regular files are opened: whatever else stands in the place of one is one line, at once."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest

from vitrail.errors import CohortError
from vitrail.files import read_regular, regular_file


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
        (lambda folder: folder / "a\0b", "cannot be opened (embedded null byte)"),
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
