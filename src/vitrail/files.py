"""Files that are whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray


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
