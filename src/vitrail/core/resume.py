"""Parts of long work that survive a kill: each a file, whole or absent; the work goes on behind the last one."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.core.files import read_json, read_table, write_array, write_json, write_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray


class Parts:
    """A folder of finished parts.

    Parameters
    ----------
    folder
        Made when the first part is written. Its name must stand for all that decides the parts: where anything
        changes, it has to be another folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def array(self, name: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return an array, made by `make` unless an earlier attempt has."""
        path = self._path(f"{name}.npy")
        if not path.is_file():
            write_array(path, make())
        values: NDArray[Any] = np.load(path)
        return values

    def mapped(self, name: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Do what `array` does, and return a memory map of the file."""
        path = self._path(f"{name}.npy")
        if not path.is_file():
            write_array(path, make())
        values: NDArray[Any] = np.load(path, mmap_mode="r")
        return values

    def table(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Return a table, made by `make` unless an earlier attempt has (RunError where it is damaged)."""
        path = self._path(f"{name}.parquet")
        if not path.is_file():
            write_table(path, make())
        return read_table(path)

    def record(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return JSON values, made by `make` unless an earlier attempt has (RunError where it is damaged)."""
        path = self._path(f"{name}.json")
        if not path.is_file():
            write_json(path, make())
        return read_json(path)

    def discard(self) -> None:
        """Remove all parts, once what they are parts of is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / name
