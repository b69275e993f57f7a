"""Where the cells of a search are trained: in processes of this machine, or on a dask cluster."""

from __future__ import annotations

import os
from contextlib import closing
from importlib.util import find_spec
from typing import TYPE_CHECKING

from vitrail.core.parallel import attempts, cores
from vitrail.errors import SettingsError, VitrailError
from vitrail.search.trial import run_cell

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from vitrail.search.trial import CellJob
    from vitrail.settings.schema import ComputeSettings

DEATHS = 2
"""How many workers a cell may cost; with one more it is given up. A dask scheduler has its own limit."""


def check_scheduler(folder: Path, scheduler: str) -> None:
    """Make sure that a cluster can be reached, and that all its workers see the folder.

    Parameters
    ----------
    folder
        Of the search.
    scheduler
        The cluster's address.

    Raises
    ------
    SettingsError
        The package dask is not installed here.
    RunError
        As `cluster.connected`.
    """
    if find_spec("distributed") is None:
        cure = "Run: pip install 'vitrail[cluster]'"
        raise SettingsError("--scheduler", "needs dask and distributed, which are not installed", cure)
    from vitrail.search.cluster import connected  # noqa: PLC0415 - an extra

    with connected(folder, scheduler):
        pass


def train_cells(
    jobs: Sequence[CellJob], compute: ComputeSettings, folder: Path, scheduler: str | None = None
) -> Generator[tuple[CellJob, VitrailError | None], None, None]:
    """Train cells side by side; each leaves its own file. What has begun is ended when the generator is closed.

    Parameters
    ----------
    jobs
        The cells.
    compute
        How many of this machine's processes work: one a GPU where there are some, else `workers`, 0 meaning one a
        core; never more than jobs.
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
    with closing(attempts(run_cell, jobs, worker_environments(compute, len(jobs)), DEATHS)) as ended:
        for job, attempt in ended:
            error = attempt.exception()
            if error is not None and not isinstance(error, VitrailError):
                raise error
            yield job, error


def worker_environments(compute: ComputeSettings, jobs: int) -> list[dict[str, str]]:
    """Return the environment of each worker process of this machine: one thread, and its own GPU where there are some.

    Parameters
    ----------
    compute
        How many, as for `train_cells`.
    jobs
        How many cells there are.

    Returns
    -------
    list[dict[str, str]]
        One a worker: variables that differ from those of this process.
    """
    import torch  # noqa: PLC0415 - who sends cells to a cluster does without

    gpus: list[str] = []
    if compute.device in {"auto", "cuda"} and torch.cuda.is_available():
        gpus = [str(number) for number in range(torch.cuda.device_count())]
        named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        gpus = named.split(",")[: len(gpus)] if named else gpus
    workers = min(compute.workers or len(gpus) or cores(), len(gpus) or jobs, jobs)
    one_thread = {"OMP_NUM_THREADS": "1"}
    return [one_thread | ({"CUDA_VISIBLE_DEVICES": gpus[i]} if gpus else {}) for i in range(workers)]
