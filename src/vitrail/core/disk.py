"""How much of the disk a folder takes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def folder_bytes(folder: Path, most: int = 50_000) -> tuple[int, bool]:
    """Add up the sizes of a folder's files; links are not followed.

    Parameters
    ----------
    folder
        It need not be there, and may change meanwhile.
    most
        Files and folders that are looked at; a larger folder is not added up to its end.

    Returns
    -------
    tuple[int, bool]
        Bytes, and whether these are all.
    """
    total, count, folders = 0, 0, [folder]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                count += 1
                if count > most:
                    return total, False
                with suppress(OSError):  # it has just gone
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(Path(entry.path))
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
    return total, True


def size_text(size: float) -> str:
    """Return a number of bytes in words that are short: `12 kB`, `3.4 MB`, `5.6 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit in {"bytes", "kB"} else f"{size:.1f} {unit}"
