"""Work in parallel processes: fresh ones, that import little, leave Ctrl-C to their parent and end with it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, TypeVar

from vitrail.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
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
        with interrupts_blocked():  # the workers start here
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


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C in the threads and processes that start in this block, and in those that they start, now or later.

    One that comes meanwhile is delivered at the end of the block. A worker is safe from its first moment on; a handler
    of its own would come too late for one that still imports its modules.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # to start it later would unblock the signal in the thread that does
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(started: Event) -> None:
    """Prepare a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    started.set()


def end_with_parent() -> None:
    """Let this worker process end as soon as its parent does, however that ends, whatever this one is doing.

    Linux kills it at once. Elsewhere a thread waits for the parent's end; it can act only when the interpreter lets it,
    not within an import or a long calculation.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    threading.Thread(target=_wait_for_parent, daemon=True).start()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent.pid:  # it ended before it was asked for
            os._exit(1)


_PR_SET_PDEATHSIG = 1


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
