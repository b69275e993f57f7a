"""Files that are whole or absent: written under a temporary name, then renamed; and read only where they are files.

A named pipe in the place of a file would be waited for without end, and `/dev/zero` read without end.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import re
import shutil
import socket
import stat
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal

from vitrail.errors import ExchangeError, RunError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
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
        raise error(repr(str(path)), "cannot be opened (no file can have this name)", cure) from reason
    if not stat.S_ISREG(mode):
        raise error(path, f"{_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file", cure)
    return path


def read_regular(path: Path, error: type[VitrailError], cure: str, most_bytes: int = MOST_TEXT_BYTES) -> bytes:
    """Read a regular file.

    Parameters
    ----------
    path, error, cure
        As of `regular_file`.
    most_bytes
        A larger file is refused.

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


_BESIDE_OTHERS = [0]
"""How many blocks of `beside_others` this process is in."""


@contextmanager
def beside_others() -> Iterator[None]:
    """Let all temporary names of this process be its own: within the block others may write the same files.

    Otherwise they are the same in every process, so that what a killed one leaves is overwritten by the next.
    """
    _BESIDE_OTHERS[0] += 1
    try:
        yield
    finally:
        _BESIDE_OTHERS[0] -= 1


def temporary_path(path: Path, ending: str, *, shared: bool = False) -> Path:
    """Return a hidden name beside a file's.

    Parameters
    ----------
    path
        The file.
    ending
        Of the name.
    shared
        Whether it is to be this process's own; also so within `beside_others`.

    Returns
    -------
    Path
        In the same folder.
    """
    writer = f".{socket.gethostname()}-{os.getpid()}" if shared or _BESIDE_OTHERS[0] else ""
    return path.with_name(f".{path.name}{writer}.{ending}")


def remove_temporary(path: Path) -> None:
    """Remove what killed processes have left on the way to a file, under names of their own.

    Parameters
    ----------
    path
        The file; no living process writes it.
    """
    for ending in ("tmp", "tiles"):
        for stray in path.parent.glob(f".{glob.escape(path.name)}.*.{ending}"):
            stray.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path, *, shared: bool = False, flush: bool = False) -> Iterator[Path]:
    """Give a temporary name to write to, and rename it once the block ends well; else remove it.

    Whoever looks at `path` sees the old file or the whole new one, also after a kill.

    Parameters
    ----------
    path
        The file that is to be there in the end.
    shared
        Whether other processes, perhaps on other machines, may write the same file at the same time; also so within
        `beside_others`.
    flush
        Whether the content must be on the disk before it gets its name, so that it outlives a power failure.

    Yields
    ------
    Path
        The name to write to, in the same folder.
    """
    temporary = temporary_path(path, "tmp", shared=shared)
    try:
        yield temporary
        if flush:
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
        _rename(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


_PATIENCE = 5 if os.name == "nt" else 0
"""How often a renaming that is refused is tried again, with twice the wait each time. Windows refuses to replace a file
that another program has open, as scanners for viruses and indexers do for a moment."""


def _rename(temporary: Path, path: Path) -> None:
    for attempt in range(_PATIENCE):
        try:
            temporary.replace(path)
        except PermissionError:
            time.sleep(0.02 * 2**attempt)
        else:
            return
    temporary.replace(path)


@contextmanager
def exporting(path: Path) -> Iterator[Path]:
    """Write as `replacing` does, to a path that a user named.

    Parameters
    ----------
    path
        The file that is to be there in the end.

    Yields
    ------
    Path
        The name to write to.

    Raises
    ------
    ExchangeError
        The disk is full, or the file cannot be written for another reason of the system.
    """
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise not_written(path, error) from error


@contextmanager
def exporting_folder(path: Path, mark: Collection[str]) -> Iterator[Path]:
    """Give a temporary name to make a folder at, and rename it once the block ends well; else remove it.

    An earlier folder of that name is replaced, where it is one that was written so.

    Parameters
    ----------
    path
        The folder that is to be there in the end; its parents are made.
    mark
        Names of files: a folder with one of them was written so.

    Yields
    ------
    Path
        The name to make a folder at, beside it.

    Raises
    ------
    ExchangeError
        There is something else of that name, the disk is full, or the folder cannot be written for another reason of
        the system.
    """
    if path.exists() and not any((path / name).is_file() for name in mark):
        raise ExchangeError(path, f"is there already, without {' or '.join(mark)} in it", "Name another folder")
    temporary, retired = temporary_path(path, "tmp"), temporary_path(path, "old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for stray in (temporary, retired):
            shutil.rmtree(stray, ignore_errors=True)
        try:
            yield temporary
            if path.exists():
                path.rename(retired)
            temporary.rename(path)
        finally:
            for stray in (temporary, retired):
                shutil.rmtree(stray, ignore_errors=True)
    except OSError as error:
        raise not_written(path, error) from error


def not_written(path: Path, error: OSError) -> ExchangeError:
    """Say why a file could not be written."""
    reason = error.strerror or str(error)
    return ExchangeError(
        path, f"cannot be written ({reason})", "Check that its folder exists, may be written to and has room"
    )


def write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files that belong together, under temporary names first.

    The last file vouches for the others: while they are replaced it is absent, and where there is no space for all of
    them, those of an earlier export stay as they are.

    Parameters
    ----------
    folder
        Where; made where it is missing.
    files
        Content by name; the last name comes last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    last = [*files][-1]
    with ExitStack() as written:
        for name, content in reversed([*files.items()]):  # renamed in the other order: the last one last
            written.enter_context(replacing(folder / name, flush=True)).write_bytes(content)
        if len(files) > 1:
            (folder / last).unlink(missing_ok=True)


def write_text(path: Path, text: str, *, shared: bool = False, flush: bool = False) -> None:
    """Write a text file; see `replacing`."""
    with replacing(path, shared=shared, flush=flush) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object; a number that is not finite is a ValueError."""
    write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def write_table(path: Path, rows: pd.DataFrame) -> None:
    """Write a Parquet file."""
    with replacing(path) as temporary:
        rows.to_parquet(temporary)


def write_array(path: Path, values: NDArray[Any]) -> None:
    """Write a `.npy` file."""
    import numpy as np  # noqa: PLC0415 - settings are read without it

    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, values)


def write_arrays(path: Path, **arrays: Any) -> None:
    """Write a compressed `.npz` file."""
    import numpy as np  # noqa: PLC0415 - settings are read without it

    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def write_csv(path: Path, rows: pd.DataFrame, float_format: str | None = None) -> None:
    """Write a CSV file, in which no text is a formula.

    Spreadsheet programs take a cell that begins with = + - @, a tab or a line break for a formula, whoever wrote it. An
    apostrophe before such a text, and before one that begins with apostrophes and then so, makes it text. Numbers stay
    as they are, also where they are text.

    Parameters
    ----------
    path
        Where to.
    rows
        The table; its index is not written.
    float_format
        How numbers are written; None writes every digit.
    """
    safe = rows.set_axis([_without_formula(name) for name in rows.columns], axis="columns")
    texts = [at for at, kind in enumerate(rows.dtypes) if kind.kind not in "biufc"]
    for at in texts:
        safe.isetitem(at, rows.iloc[:, at].astype(object).map(_without_formula).to_numpy())

    def text(quoting: Literal[0, 2]) -> str:
        return safe.to_csv(index=False, lineterminator="\n", float_format=float_format, quoting=quoting)

    plain = text(csv.QUOTE_MINIMAL)
    write_text(path, text(csv.QUOTE_NONNUMERIC) if "\r" in plain else plain)  # unquoted it would end a row


def read_csv(path: Path, columns: Collection[str]) -> pd.DataFrame:
    """Read what `write_csv` wrote into a run; all cells are text, and empty ones empty text.

    Parameters
    ----------
    path
        Its path.
    columns
        Those that must be there; others may be.

    Returns
    -------
    pd.DataFrame
        The table.

    Raises
    ------
    RunError
        The file is missing, no text, no table, or lacks a column.
    """
    import pandas as pd  # noqa: PLC0415 - settings are read without it

    content = read_regular(path, RunError, _again(path))
    try:
        rows = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    except ValueError as error:  # also where bytes are no UTF-8
        raise damaged(path, error) from None
    rows = rows.replace(_APOSTROPHE, "", regex=True)
    rows.columns = rows.columns.str.replace(_APOSTROPHE, "", regex=True)
    missing = [name for name in columns if name not in rows]
    if missing:
        raise damaged(path, f"without a column {missing[0]}")
    return rows


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet file of a run; one that is missing or damaged is a RunError."""
    import pandas as pd  # noqa: PLC0415 - settings are read without it
    from pyarrow import ArrowException  # noqa: PLC0415 - the same

    try:
        return pd.read_parquet(regular_file(path, RunError, _again(path)))
    except (OSError, ValueError, LookupError, TypeError, ArrowException) as error:
        raise damaged(path, error) from None


def read_json(path: Path, keys: Collection[str] = ()) -> dict[str, Any]:
    """Read a JSON object of a run.

    Parameters
    ----------
    path
        Its path.
    keys
        Those that must be there; others may be.

    Returns
    -------
    dict[str, Any]
        The object.

    Raises
    ------
    RunError
        The file is missing, too large or damaged, or lacks a key.
    """
    content = read_regular(path, RunError, _again(path))
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:  # also where bytes are no UTF-8
        raise damaged(path, error) from None
    if not isinstance(values, dict):
        raise damaged(path, "no JSON object")
    missing = [key for key in keys if key not in values]
    if missing:
        raise damaged(path, f"without {missing[0]!r}")
    return values


def damaged(path: Path, reason: object) -> RunError:
    """Return the error of a file of a run that is not as it was written."""
    return RunError(path, f"is damaged ({' '.join(str(reason).split())[:200]})", _again(path))


def _again(path: Path) -> str:
    """Say how a file of a run is made again: without its folder, its stage is not finished."""
    stage = next((folder for folder in path.parents if (folder / "stage.json").is_file()), None)
    what = f"the folder {stage}" if stage else "this file"
    return f"Remove {what}, and run the same command again"


_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_APOSTROPHE = r"\A'(?='*[=+\-@\t\r\n])"
"""The one that `write_csv` sets before a text that would be a formula."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def _without_formula(cell: Any) -> Any:
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell
