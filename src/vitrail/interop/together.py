"""Exported files: whole, or not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitrail.models.store import replace

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files that belong together, under temporary names first.

    The last file vouches for the others: while they are replaced it is absent, and where there is no space for all of
    them, those of an earlier export stay as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = {name: folder / f".{name}.tmp" for name in files}
    *others, last = files
    try:
        for name, content in files.items():
            temporary[name].write_bytes(content)
        if others:
            (folder / last).unlink(missing_ok=True)
        for name, path in temporary.items():
            replace(path, folder / name)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
