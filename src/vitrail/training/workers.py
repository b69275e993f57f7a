"""Trainings side by side, in processes of this machine."""

from __future__ import annotations

import os
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, TypeVar

from vitrail.core.parallel import attempts, cores
from vitrail.errors import VitrailError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from vitrail.settings.schema import ComputeSettings

    Job = TypeVar("Job")

DEATHS = 2
"""How many workers a training may cost; with one more it is given up. A dask scheduler has its own limit."""


def in_workers(
    work: Callable[[Job], None], jobs: Sequence[Job], compute: ComputeSettings
) -> Generator[tuple[Job, VitrailError | None], None, None]:
    """Train side by side; what has begun is ended when the generator is closed.

    Parameters
    ----------
    work
        A function of a module.
    jobs
        What to call it with; they are pickled.
    compute
        How many processes work, see `worker_environments`.

    Yields
    ------
    tuple[Job, VitrailError | None]
        A job that has ended, and what made it fail, if that is something a user can mend.

    Raises
    ------
    RunError
        The workers could not start.
    Exception
        What a job raises that is no `VitrailError`: a fault of the program.
    """
    with closing(attempts(work, jobs, worker_environments(compute, len(jobs)), DEATHS)) as ended:
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
        How many: one a GPU where there are some, else `workers`, 0 meaning one a core; never more than jobs.
    jobs
        How many trainings there are.

    Returns
    -------
    list[dict[str, str]]
        One a worker: variables that differ from those of this process.
    """
    import torch  # noqa: PLC0415 - who sends trainings to a cluster does without

    gpus: list[str] = []
    if compute.device in {"auto", "cuda"} and torch.cuda.is_available():
        gpus = [str(number) for number in range(torch.cuda.device_count())]
        named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        gpus = named.split(",")[: len(gpus)] if named else gpus
    workers = min(compute.workers or len(gpus) or cores(), len(gpus) or jobs, jobs)
    threads = {"OMP_NUM_THREADS": "1"}
    return [threads | ({"CUDA_VISIBLE_DEVICES": gpus[i]} if gpus else {}) for i in range(workers)]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: on the CPU the same numbers come out whatever else runs."""
    import torch  # noqa: PLC0415 - the same

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
