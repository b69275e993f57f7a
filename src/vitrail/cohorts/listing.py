"""The files below a folder, and which of them are slides; nothing but DICOM files is opened.

Links are followed, each folder once, so that no loop of links is endless. Hidden files and folders, and what archives
of other systems leave (`__MACOSX`), are passed over.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.cohorts.draft import Unmatched
from vitrail.errors import CohortError
from vitrail.slides.names import is_slide_name

if TYPE_CHECKING:
    from collections.abc import Iterable

_LEFT_BY_ARCHIVES = "__MACOSX"
_HEADER = 1 << 16
_SERIES, _ROWS = b"\x20\x00\x0e\x00UI", b"\x28\x00\x10\x00US"
"""Series instance UID and rows, as tags of explicit little endian (DICOM PS3.5, 7.1.2; PS3.6, 0020,000E and 0028,0010).

Elements rise by their tags: the last UID before the rows is that of the file itself, not of one it refers to.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What lies below a folder.

    Attributes
    ----------
    root
        The folder.
    files
        Regular files and links that lead nowhere, sorted; their paths begin with the folder.
    unreadable
        Folders that could not be read, and files whose names are no text.
    """

    root: Path
    files: tuple[Path, ...]
    unreadable: tuple[Unmatched, ...]


def list_files(root: Path) -> Listing:
    """List all files below a folder.

    Parameters
    ----------
    root
        The folder.

    Returns
    -------
    Listing
        Its files.

    Raises
    ------
    CohortError
        There is no such folder, or it cannot be read.
    """
    if not root.is_dir():
        problem = "a file, not a folder" if root.is_file() else "no such folder"
        raise CohortError(root, problem, "Name the folder that the cohort lies in")
    files, unreadable, visited = list[Path](), list[Unmatched](), set[tuple[int, int]]()
    waiting, linked = [root], list[Path]()
    while waiting or linked:
        # a folder is listed under its own name rather than under that of a link to it
        folder = waiting.pop() if waiting else linked.pop()
        try:
            about = folder.stat()
            if (about.st_dev, about.st_ino) in visited:
                continue
            visited.add((about.st_dev, about.st_ino))
            with os.scandir(folder) as entries:
                present = sorted(entries, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            if folder == root:
                raise CohortError(root, f"cannot be read ({error.strerror})", "Check its permissions") from error
            unreadable.append(
                Unmatched(file=str(folder), reason="folder that cannot be read", detail=error.strerror or "")
            )
            continue
        for entry in present:
            if entry.name.startswith(".") or entry.name == _LEFT_BY_ARCHIVES:
                continue
            if not _is_text(entry.name):
                unreadable.append(Unmatched(file=f"{folder}/{entry.name!a}", reason="name that is no text"))
            elif entry.is_dir():
                (linked if entry.is_symlink() else waiting).append(folder / entry.name)
            elif entry.is_file() or (entry.is_symlink() and not (folder / entry.name).exists()):
                files.append(folder / entry.name)
    return Listing(root=root, files=tuple(sorted(files)), unreadable=tuple(unreadable))


def _is_text(name: str) -> bool:
    """Tell whether a table can hold a name; other systems leave some that are bytes alone."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def slide_files(files: Iterable[Path]) -> dict[Path, tuple[Path, ...]]:
    """Pick the slides out of files, by their names.

    A slide in DICOM is a series of files. Those of a series in one folder are taken together, and the largest, which
    holds the full resolution, stands for them.

    Parameters
    ----------
    files
        Any files.

    Returns
    -------
    dict[Path, tuple[Path, ...]]
        By the file that stands for a slide, sorted, the further files of the same slide.
    """
    slides: dict[Path, tuple[Path, ...]] = {}
    series: dict[tuple[Path, bytes], list[Path]] = {}
    for file in files:
        if not is_slide_name(file):
            continue
        if file.suffix.lower() == ".dcm" and file.is_file():
            series.setdefault((file.parent, _series_of(file)), []).append(file)
        else:
            slides[file] = ()
    for parts in series.values():
        largest = max(parts, key=lambda part: (part.stat().st_size, part))
        slides[largest] = tuple(part for part in parts if part != largest)
    return dict(sorted(slides.items()))


def _series_of(file: Path) -> bytes:
    """Return the series of a DICOM file; what says nothing of it is a series by itself."""
    try:
        with file.open("rb") as content:
            header = content.read(_HEADER)
    except OSError:
        return bytes(file)
    at = header.rfind(_SERIES, 0, max(header.find(_ROWS), 0))
    if at < 0:
        return bytes(file)
    begin = at + len(_SERIES) + 2
    return header[begin : begin + int.from_bytes(header[begin - 2 : begin], "little")]
