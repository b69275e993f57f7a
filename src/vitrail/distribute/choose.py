"""What `--shard` and `--scheduler` choose: where independent work is done."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vitrail.core.progress import Progress
    from vitrail.distribute.jobs import Executor


@contextmanager
def executor_for(
    shard: str | None, scheduler: str | None, folder: Path, progress: Progress
) -> Iterator[Executor | None]:
    """Yield what does the jobs; None where a command works alone, in its own way."""
    yield None
