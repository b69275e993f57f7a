"""Files that are whole or absent: written under a temporary name, then renamed; and read only where they are files.

A named pipe in the place of a file would be waited for without end, and `/dev/zero` read without end.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from vitrail.errors import VitrailError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

MOST_TEXT_BYTES = 64 << 20
"""Of a table, settings or a model's description; real ones have kilobytes."""


def regular_file(path: Path, error: type[VitrailError], cure: str) -> Path:
    """Make sure that a path leads to a regular file, before it is opened.

    Parameters
    ----------
    path
        What a user gave; links are followed.
    error
        What to raise otherwise.
    cure
        What the user can do about it.

    Returns
    -------
    Path
        The same path.

    Raises
    ------
    VitrailError
        There is no such file, it cannot be reached, or it is a folder, a named pipe, a socket or a device.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise error(path, "no such file", cure) from None
    except OSError as reason:
        raise error(path, f"cannot be opened ({reason.strerror})", cure) from reason
    except ValueError as reason:  # a name that no file can have
        raise error(repr(str(path)), f"cannot be opened ({reason})", cure) from reason
    if not stat.S_ISREG(mode):
        raise error(path, f"{_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file", cure)
    return path


def read_regular(path: Path, error: type[VitrailError], cure: str, most_bytes: int = MOST_TEXT_BYTES) -> bytes:
    """Read a regular file of at most so many bytes; see `regular_file`.

    Returns
    -------
    bytes
        The whole content.

    Raises
    ------
    VitrailError
        As `regular_file`; or the file is larger, or cannot be read.
    """
    regular_file(path, error, cure)
    try:
        size = path.stat().st_size
        if size > most_bytes:
            raise error(path, f"has {size >> 20} MiB, more than {most_bytes >> 20}", cure)
        with path.open("rb") as file:
            return file.read(size)  # and no more, should it grow
    except OSError as reason:
        raise error(path, f"cannot be opened ({reason.strerror})", cure) from reason


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    temporary = _temporary(path)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_table(path: Path, rows: pd.DataFrame) -> None:
    """Write a Parquet file."""
    temporary = _temporary(path)
    rows.to_parquet(temporary)
    temporary.replace(path)


def write_array(path: Path, values: NDArray[Any]) -> None:
    """Write a `.npy` file."""
    import numpy as np  # noqa: PLC0415 - settings are read without it

    temporary = _temporary(path)
    with temporary.open("wb") as file:
        np.save(file, values)
    temporary.replace(path)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")
