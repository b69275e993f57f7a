"""Where the cells of a search are trained: in processes of this machine, or on a dask cluster."""

from __future__ import annotations

from contextlib import closing
from importlib.util import find_spec
from typing import TYPE_CHECKING

from vitrail.errors import SettingsError
from vitrail.search.trial import run_cell
from vitrail.training.workers import in_workers

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from vitrail.errors import VitrailError
    from vitrail.search.trial import CellJob
    from vitrail.settings.schema import ComputeSettings


def require_dask() -> None:
    """Raise a SettingsError unless dask is installed here."""
    if find_spec("distributed") is None:
        cure = "Run: pip install 'vitrail[cluster]'"
        raise SettingsError("--scheduler", "needs dask and distributed, which are not installed", cure)


def train_cells(
    jobs: Sequence[CellJob], compute: ComputeSettings, folder: Path, scheduler: str | None = None
) -> Generator[tuple[CellJob, VitrailError | None], None, None]:
    """Train cells side by side; each leaves its own file. What has begun is ended when the generator is closed.

    Parameters
    ----------
    jobs
        The cells.
    compute
        How many of this machine's processes work, see `worker_environments`.
    folder
        Of the search; a cluster's workers must see it.
    scheduler
        Address of a dask cluster; None works on this machine.

    Yields
    ------
    tuple[CellJob, VitrailError | None]
        A cell that has ended, and why it could not be trained, if so.

    Raises
    ------
    RunError
        The workers could not start, or the cluster is gone.
    Exception
        What a cell raises that is no `VitrailError`: a fault of the program.
    """
    if scheduler:
        from vitrail.search.cluster import connected, in_cluster  # noqa: PLC0415 - an extra

        with connected(folder, scheduler) as client, closing(in_cluster(client, run_cell, jobs)) as results:
            yield from results
        return
    with closing(in_workers(run_cell, jobs, compute)) as ended:
        yield from ended
