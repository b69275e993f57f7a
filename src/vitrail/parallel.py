"""Work in parallel processes: fresh ones, that import little, leave Ctrl-C to their parent and end with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, TypeVar

from vitrail.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from multiprocessing.synchronize import Event

    Job = TypeVar("Job")
    Result = TypeVar("Result")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    work: Callable[[Job], Result], jobs: Sequence[Job], workers: int = 0
) -> Generator[tuple[Job, Result], None, None]:
    """Yield each job with its result, in the order in which they end.

    The workers import the main module of the program anew. A script must therefore call this, and whatever calls it,
    under `if __name__ == "__main__":`.

    The workers are ended at once, in the middle of their jobs, when a job raises, at Ctrl-C, when the generator is
    closed, and when this process is killed. To be sure of it where the loop's own body may raise, loop within
    `contextlib.closing`.

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
        The workers could not start, or one died, mostly for want of memory.
    """
    workers = min(workers or cores(), len(jobs))
    if workers <= 1:
        yield from ((job, work(job)) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    started, ended = context.Event(), False
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(started,))
    try:
        futures = {pool.submit(work, job): job for job in jobs}
        yield from ((futures[future], future.result()) for future in as_completed(futures))
        ended = True
    except BrokenProcessPool:
        raise _died() if started.is_set() else _never_started() from None
    finally:
        if not ended:
            _terminate(pool)
        pool.shutdown(cancel_futures=True)


def _died() -> RunError:
    cure = "Run the same command again; if it dies again, with --set compute.workers=1"
    return RunError("worker process", "it died, mostly for want of memory", cure)


def _never_started() -> RunError:
    cure = 'In a script, call Vitrail under if __name__ == "__main__": only, or work with one worker'
    return RunError("worker processes", "the worker processes could not start", cure)


def _terminate(pool: ProcessPoolExecutor) -> None:
    """End the workers without waiting for their jobs."""
    running = pool._processes  # noqa: SLF001 - an executor has no public way to stop a running job before Python 3.14
    for process in list((running or {}).values()):
        process.terminate()


def _begin(started: Event) -> None:
    """Prepare a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    started.set()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
