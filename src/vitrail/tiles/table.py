"""The tile table on disk: `tiles.parquet`, `images.npy` and `masks.npy`; row i of the one is row i of the others.

Columns of `tiles.parquet`: `slide_id`, `patient_id`; `x`, `y`, `side` of the tile's region in level-0 pixels;
`label` (`tumor` or `non_tumor`); and `tumor`, `non_tumor`, `other`, `background`, the shares of the mask's pixels.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vitrail.errors import RunError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class TileTable:
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


def read_tiles(folder: Path) -> TileTable:
    """Open the tile table of a run's `tiles` folder; the arrays are memory maps.

    Raises
    ------
    RunError
        A file is missing, or the three do not belong together.
    """
    try:
        rows = pd.read_parquet(folder / "tiles.parquet")
        images, masks = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "masks"))
    except (FileNotFoundError, ValueError) as error:
        raise RunError(folder, f"no complete tile table ({error})", "Cut the tiles with: vitrail tiles RUN") from None
    if not len(rows) == len(images) == len(masks):
        raise RunError(folder, "rows and arrays differ in number", "Remove this folder and run: vitrail tiles RUN")
    return TileTable(rows=rows, images=images, masks=masks)


def tiles_of(table: TileTable, slide_id: str) -> TileTable:
    """Return the tiles of one slide, whose rows lie together."""
    (where,) = (table.rows["slide_id"] == slide_id).to_numpy().nonzero()
    part = slice(int(where[0]), int(where[-1]) + 1)
    return TileTable(rows=table.rows[part], images=table.images[part], masks=table.masks[part])


def new_array(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Create an `.npy` of bytes on disk to be filled row by row.

    Its space is taken at once: a memory map that outgrows the disk would end the process without a word.

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
