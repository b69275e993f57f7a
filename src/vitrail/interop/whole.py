"""Files that are whole or absent."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from vitrail.errors import VitrailError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class ExchangeError(VitrailError):
    """A file for other programs that cannot be written, or is not what it should be."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to, and rename it once the block ends well; else remove it.

    Raises
    ------
    ExchangeError
        The disk is full, or the file cannot be written for another reason of the system.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def not_written(path: Path, error: OSError) -> ExchangeError:
    """Say why a file could not be written."""
    reason = error.strerror or str(error)
    return ExchangeError(
        path, f"cannot be written ({reason})", "Check that its folder exists, may be written to and has room"
    )
