"""Tiles on their way into training: statistics of the colours, order, batches read ahead."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from vitrail.classes import LABELS
from vitrail.core.ahead import work_ahead
from vitrail.errors import TileError
from vitrail.models.preprocessing import intensities

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from vitrail.tiles.store import TileTable

    Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTiles:
    """The tiles that a network is trained on, and those that choose its best epoch.

    Attributes
    ----------
    tiles
        The whole table.
    train, validation
        Row numbers.
    """

    tiles: TileTable
    train: Rows
    validation: Rows

    def check(self) -> None:
        """Make sure that there is something to learn and something to choose by.

        Raises
        ------
        TileError
            A label has no training tile, or there is no validation tile.
        """
        trained = set(self.tiles.rows["label"].to_numpy()[self.train])
        for label in LABELS:
            if label.key not in trained:
                cure = "Annotate such tissue on more slides, or split the patients differently"
                raise TileError("training tiles", f"none of them is {label.key}", cure)
        if not len(self.validation):
            raise TileError("validation tiles", "there are none", "Give the validation part more patients")


def training_tiles(tiles: TileTable, split: NDArray[np.str_]) -> TrainingTiles:
    """Take the tiles to train on and those to validate with.

    Parameters
    ----------
    tiles
        The whole table.
    split
        One of `train`, `validation` and `test` a row.

    Returns
    -------
    TrainingTiles
        The row numbers of the first two.
    """
    return TrainingTiles(
        tiles=tiles, train=np.flatnonzero(split == "train"), validation=np.flatnonzero(split == "validation")
    )


def channel_statistics(images: NDArray[np.uint8], rows: Rows) -> tuple[list[float], list[float]]:
    """Compute mean and standard deviation per colour channel of intensities 0 to 1, exactly and in one pass.

    The paper standardises "by subtracting the mean value and dividing by the standard deviation of the training
    data".

    Parameters
    ----------
    images
        `[n, h, w, 3]`, which may be a memory map.
    rows
        Those that count.

    Returns
    -------
    tuple[list[float], list[float]]
        Means and standard deviations, three each; of a channel that hardly varies, one grey level as the latter.
    """
    total, squares = np.zeros(3, np.uint64), np.zeros(3, np.uint64)
    ordered = np.sort(rows)
    for begin in range(0, len(ordered), 64):
        pixels = images[ordered[begin : begin + 64]].reshape(-1, 3)
        total += pixels.sum(0, dtype=np.uint64)
        squares += np.square(pixels, dtype=np.uint16).sum(0, dtype=np.uint64)
    count = len(ordered) * images[0].size // 3
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return [float(m) / 255 for m in mean], [max(float(s) / 255, 1 / 255) for s in std]


def shuffled(rows: Rows, seed: int) -> Rows:
    """Return the rows in an order drawn from a seed."""
    return np.random.default_rng(seed).permutation(rows)


def cut(rows: Rows, batch: int) -> list[Rows]:
    """Cut rows into batches; a last one of a single image joins the one before, for batch normalisation needs two.

    Parameters
    ----------
    rows
        In the order in which they are to come.
    batch
        Rows in a batch.

    Returns
    -------
    list[Rows]
        No row is left out.
    """
    starts = list(range(0, len(rows), batch))
    if batch > 1 and len(starts) > 1 and len(rows) - starts[-1] == 1:
        del starts[-1]
    return [rows[begin:end] for begin, end in zip(starts, [*starts[1:], len(rows)], strict=True)]


class Part(NamedTuple):
    """Tiles of a batch that pass through the network together.

    Attributes
    ----------
    tiles
        Of all processes.
    own
        Those of this process, among its tiles of the batch.
    is_idle
        Whether there are fewer tiles than processes, and none is left for this one: it works at the first tile, so that
        all processes take the same steps, and what it finds there does not count.
    """

    tiles: int
    own: slice
    is_idle: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Share:
    """What one of several processes works at of a batch, and in how many parts; all of it where it is alone.

    Attributes
    ----------
    total
        Tiles of the batch.
    rows
        Those of this process; None where these are all.
    parts
        Worked at one after the other.
    """

    total: int
    rows: NDArray[np.int64] | None
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, total: int, *, parts: int = 1, rank: int = 0, ranks: int = 1) -> Share:
        """Cut a batch into parts and deal each to the processes, in order; a part has two tiles at least.

        Parameters
        ----------
        total
            Tiles of the batch.
        parts
            At most.
        rank, ranks
            Number of this process, from 0, and how many there are.

        Returns
        -------
        Share
            Of this process. The parts are the same ones whatever the number of processes.
        """
        count = max(1, min(parts, total // 2))  # batch normalisation needs two
        rows, own = list[int](), list[Part]()
        for first, last in pairwise(total * number // count for number in range(count + 1)):
            tiles = last - first
            begin, end = (first + tiles * number // ranks for number in (rank, rank + 1))
            numbers = range(begin, end) or range(first, first + 1)
            own.append(Part(tiles, slice(len(rows), len(rows) + len(numbers)), is_idle=begin == end))
            rows += numbers
        return cls(total=total, rows=np.array(rows) if ranks > 1 else None, parts=tuple(own))

    def take(self, whole: Tensor) -> Tensor:
        """Return this process's tiles of a tensor that has an entry for each tile of the batch."""
        return whole if self.rows is None else whole[torch.from_numpy(self.rows).to(whole.device)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """Reads batches from the memory maps, the next one while the network works on this one.

    Attributes
    ----------
    images
        `[n, side_px, side_px, 3]`.
    targets
        One entry an image: labels `[n]` or masks `[n, side_px, side_px]`.
    device
        Where the batches go.
    """

    images: NDArray[np.uint8]
    targets: NDArray[np.float32] | NDArray[np.uint8]
    device: torch.device

    def __call__(self, batches: list[Rows]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield intensities 0 to 1, `[b, 3, h, w]` in channels-last memory, and targets, in the order given."""
        for images, targets in work_ahead(self._read, batches):
            yield intensities(images.to(self.device, non_blocking=True)), targets.to(self.device, non_blocking=True)

    def _read(self, rows: Rows) -> tuple[Tensor, Tensor]:
        pair = torch.from_numpy(np.asarray(self.images[rows])), torch.from_numpy(np.asarray(self.targets[rows]))
        return (pair[0].pin_memory(), pair[1].pin_memory()) if self.device.type == "cuda" else pair
