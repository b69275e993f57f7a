"""Work in parallel processes: fresh ones, that import little and leave Ctrl-C to their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, TypeVar

from vitrail.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Job = TypeVar("Job")
    Result = TypeVar("Result")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int = 0) -> Iterator[tuple[Job, Result]]:
    """Yield each job with its result, in the order in which they end.

    Parameters
    ----------
    work
        A function of a module.
    jobs
        What to call it with; they are pickled.
    workers
        How many processes; 0 means one a core. With one, the work is done in this process.

    Raises
    ------
    RunError
        A worker died, mostly for want of memory.
    """
    workers = min(workers or cores(), len(jobs))
    if workers <= 1:
        yield from ((job, work(job)) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_interrupts) as pool:
        futures = {pool.submit(work, job): job for job in jobs}
        try:
            yield from ((futures[future], future.result()) for future in as_completed(futures))
        except BrokenProcessPool:
            cure = "Run the same command again; if it dies again, with --set compute.workers=1"
            raise RunError("worker process", "it died, mostly for want of memory", cure) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _leave_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
