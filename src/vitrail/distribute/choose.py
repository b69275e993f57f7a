"""What `--shard` and `--scheduler` choose: where independent work is done."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vitrail.distribute.claims import Claims
from vitrail.distribute.cluster import Cluster
from vitrail.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vitrail.core.progress import Progress
    from vitrail.distribute.jobs import Executor


@contextmanager
def executor_for(
    shard: str | None, scheduler: str | None, folder: Path, progress: Progress
) -> Iterator[Executor | None]:
    """Give what does the jobs of a command.

    Parameters
    ----------
    shard
        The option `--shard`, such as `3/16`: commands share the work through the folder.
    scheduler
        The option `--scheduler`, the address of a dask cluster.
    folder
        What is worked at; all workers see it.
    progress
        Told how far the work is.

    Yields
    ------
    Executor | None
        None where a command works alone, in its own way.

    Raises
    ------
    SettingsError
        The shard is none, both are given, or dask is not installed.
    RunError
        The cluster cannot be used.
    """
    if shard is not None and scheduler is not None:
        raise SettingsError("--shard", "and --scheduler are given, and each spreads the work", "Give one of them")
    if shard is not None:
        with Claims(folder, shard_of(shard), progress) as claims:
            yield claims
    elif scheduler is not None:
        cluster = Cluster(scheduler=scheduler, folder=folder)
        folder.mkdir(parents=True, exist_ok=True)
        cluster.check()
        yield cluster
    else:
        yield None


def shard_of(text: str) -> tuple[int, int]:
    """Read a shard.

    Parameters
    ----------
    text
        Such as `3/16`: the third of sixteen parts, counted from 1.

    Returns
    -------
    tuple[int, int]
        Which part, and of how many.

    Raises
    ------
    SettingsError
        It is no shard.
    """
    numbers = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text, re.ASCII)
    if numbers is None:
        raise SettingsError(
            "--shard", f"{text!r} is no part of the work", "Give one such as 3/16, the third of sixteen"
        )
    part, parts = int(numbers[1]), int(numbers[2])
    if not 1 <= part <= parts:
        cure = f"Give 1/{max(parts, 1)} to {max(parts, 1)}/{max(parts, 1)}; of a SLURM array, --array=1-{max(parts, 1)}"
        raise SettingsError("--shard", f"{text} is no part: they are counted from 1 to their number", cure)
    return part, parts
