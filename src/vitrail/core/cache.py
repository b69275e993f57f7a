"""The user's cache folder: what any process can make again, kept so that the next one need not."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from vitrail.core.files import replacing

_SHA = hashlib.sha256().digest_size


def cache_folder(name: str) -> Path | None:
    """Return the folder that one kind of results is kept in; it need not be there.

    Parameters
    ----------
    name
        Of the kind.

    Returns
    -------
    Path | None
        Below `XDG_CACHE_HOME`, on Windows `LOCALAPPDATA`, or else `~/.cache`; None of a user without a home folder.
    """
    folder = user_folder("XDG_CACHE_HOME", "LOCALAPPDATA", ".cache")
    return folder and folder / name


def user_folder(variable: str, windows: str, below_home: str) -> Path | None:
    """Return Vitrail's folder of one purpose among those of the user; it need not be there.

    Parameters
    ----------
    variable, windows
        Variables of the environment that name the folder of all programs: the XDG specification's, and Windows'.
    below_home
        Where it is in the home folder, if neither is set: on Linux and macOS.

    Returns
    -------
    Path | None
        None of a user without a home folder.
    """
    named = os.environ.get(variable) or os.environ.get(windows)
    try:
        return (Path(named) if named else Path.home() / below_home) / "vitrail"
    except RuntimeError:
        return None


def read_cached(path: Path) -> bytes | None:
    """Read what `write_cached` wrote, and count it as used now.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    bytes | None
        The content; None where the file is missing, cannot be read, or is not as it was written.
    """
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    content = stored[_SHA:]
    if hashlib.sha256(content).digest() != stored[:_SHA]:
        return None
    with suppress(OSError):
        os.utime(path)
    return content


def write_cached(path: Path, content: bytes, most_bytes: int) -> None:
    """Keep a content, and remove from its folder what has not been used for longest, until the rest is small enough.

    Several processes may do so at once. Where a file cannot be written, nothing is: whoever asks for it makes it again.

    Parameters
    ----------
    path
        Its name has to say all that the content follows from; the folder is made where it is missing.
    content
        What to keep; it begins with its SHA-256 on the disk.
    most_bytes
        Of all files in the folder together; a larger content is not kept.
    """
    if len(content) + _SHA > most_bytes:
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, shared=True) as temporary:
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
        _remove_oldest(path.parent, most_bytes)


def _remove_oldest(folder: Path, most_bytes: int) -> None:
    """Remove the files that were used longest ago, those of killed writers among them."""
    files = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process removed it
            about = path.stat()
            files.append((about.st_mtime_ns, path.name, about.st_size))
    total = sum(size for *_, size in files)
    for _, name, size in sorted(files):
        if total <= most_bytes:
            return
        (folder / name).unlink(missing_ok=True)
        total -= size
