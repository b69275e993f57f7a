"""The tile table on disk: `tiles.parquet`, `images.npy` and `masks.npy`; row i of the one is row i of the others.

Columns of `tiles.parquet`: `slide_id`, `patient_id`; `x`, `y`, `side` of the tile's region in level-0 pixels;
`label` (`tumor` or `non_tumor`); and `tumor`, `non_tumor`, `other`, `background`, the shares of the mask's pixels.
Where tissue outside the outlines counts as non-tumor, also `unlabelled`: whether a tile is non-tumor for that alone.
"""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from vitrail.core.files import read_table, replacing
from vitrail.core.shown import Shown
from vitrail.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TileTable(Shown):
    """All tiles of a cohort, their pixels left on disk until they are asked for.

    Attributes
    ----------
    rows
        One row a tile.
    images
        `[n, side_px, side_px, 3]`, RGB.
    masks
        `[n, side_px, side_px]`, values of `TissueClass`.
    """

    rows: pd.DataFrame
    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        slides, side = self.rows["slide_id"].nunique(), self.images.shape[1]
        return f"<TileTable: {len(self):,} tiles of {slides} slides, {side} px wide>"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTiles:
    """The tiles of one slide, wherever they lie on disk.

    Attributes
    ----------
    rows
        One row a tile.
    images, masks
        The `.npy` files that hold them, maybe among others.
    first
        Where in these files they begin.
    """

    rows: pd.DataFrame
    images: Path
    masks: Path
    first: int = 0

    @property
    def span(self) -> slice:
        """Their rows in the files."""
        return slice(self.first, self.first + len(self.rows))


def read_tiles(folder: Path) -> TileTable:
    """Open a tile table; the arrays are memory maps.

    Parameters
    ----------
    folder
        The folder `tiles` of a run.

    Returns
    -------
    TileTable
        All tiles.

    Raises
    ------
    RunError
        A file is missing, or the three do not belong together.
    """
    try:
        rows = read_table(folder / "tiles.parquet")
        images, masks = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "masks"))
    except (FileNotFoundError, ValueError) as error:
        cure = f"Remove this folder, and run: vitrail tiles {folder.parent}"
        raise RunError(folder, f"no complete tile table ({error})", cure) from None
    if not len(rows) == len(images) == len(masks):
        raise RunError(folder, "rows and arrays differ in number", "Remove this folder and run: vitrail tiles RUN")
    return TileTable(rows=rows, images=images, masks=masks)


def tiles_of(table: TileTable, slide_id: str) -> TileTable:
    """Return the tiles of one slide, whose rows lie together."""
    (numbers,) = (table.rows["slide_id"] == slide_id).to_numpy().nonzero()
    span = slice(int(numbers[0]), int(numbers[-1]) + 1)
    return TileTable(rows=table.rows[span], images=table.images[span], masks=table.masks[span])


def tiles_by_slide(folder: Path) -> dict[str, StoredTiles]:
    """Return the tiles of each slide of a tile table; those of a slide lie together.

    Raises
    ------
    RunError
        As `read_tiles`.
    """
    rows = read_tiles(folder).rows
    files = {name: folder / f"{name}.npy" for name in ("images", "masks")}
    spans = {str(name): (int(numbers[0]), len(numbers)) for name, numbers in rows.groupby("slide_id").indices.items()}
    return {name: StoredTiles(rows=rows[at : at + count], first=at, **files) for name, (at, count) in spans.items()}


@contextmanager
def writing_rows(path: Path, shape: tuple[int, ...]) -> Iterator[Callable[[int, NDArray[np.uint8]], None]]:
    """Write an `.npy` of bytes row by row, in any order; see `vitrail.core.files.replacing`.

    Parameters
    ----------
    path
        The file, which other processes may be writing, too.
    shape
        Of the array.

    Yields
    ------
    Callable[[int, NDArray[np.uint8]], None]
        Is given the number of a row and its values.
    """
    with replacing(path, shared=True) as temporary, temporary.open("wb") as file:
        _start_array(file, shape)
        start = file.tell()

        def write(row: int, values: NDArray[np.uint8]) -> None:
            file.seek(start + row * values.nbytes)
            file.write(np.ascontiguousarray(values).data)

        yield write


def join_arrays(path: Path, shape: tuple[int, ...], sources: Iterable[tuple[Path, slice]]) -> None:
    """Write an `.npy` of bytes from rows of others.

    Parameters
    ----------
    path
        The file.
    shape
        Of the array.
    sources
        Files and which of their rows, in order.

    Raises
    ------
    RunError
        One of them ends before the last of its rows.
    """
    block = memoryview(bytearray(_BLOCK))
    with replacing(path) as temporary, temporary.open("wb") as target:
        _start_array(target, shape)
        for source, rows in sources:
            with source.open("rb", buffering=0) as file:
                np.lib.format.read_magic(file)
                stored, _, _ = np.lib.format.read_array_header_1_0(file)
                row = math.prod(stored[1:])
                file.seek(rows.start * row, os.SEEK_CUR)
                left = (rows.stop - rows.start) * row
                while left and (count := file.readinto(block[: min(left, _BLOCK)])):
                    target.write(block[:count])
                    left -= count
            if left:
                raise RunError(source, "is cut short", "Remove it and run the same command again")


def _start_array(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Begin an `.npy` of bytes; what is in it follows, row by row, by plain writes.

    A memory map would do, too, but what was written to it stays in the process's memory until the system wants it back.
    """
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def new_array(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Create an `.npy` of bytes on disk to be filled row by row.

    Its space is taken at once: a memory map that outgrows the disk would end the process without a word.

    Parameters
    ----------
    path
        The file.
    shape
        Of the array.

    Returns
    -------
    NDArray[np.uint8]
        The memory map.

    Raises
    ------
    OSError
        The disk is full.
    """
    array: NDArray[np.uint8] = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
