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
    caches = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    try:
        return (Path(caches) if caches else Path.home() / ".cache") / "vitrail" / name
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
