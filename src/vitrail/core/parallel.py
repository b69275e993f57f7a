"""Work in parallel processes: fresh ones, that import little, leave Ctrl-C to their parent and end with it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import Counter, deque
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, TypeVar

from vitrail.core.progress import say_decisions_as_parent
from vitrail.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from multiprocessing.connection import Connection

    Job = TypeVar("Job")
    Result = TypeVar("Result")


_CORES = "VITRAIL_CORES"
"""Variable of the environment: how many cores a process may use at most; worker processes share what is there."""


def cores() -> int:
    """Return how many cores this process may use: a worker process its share."""
    present = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get(_CORES, "")
    return max(1, min(present, int(share))) if share.isdecimal() else present


@dataclass(frozen=True, slots=True, kw_only=True)
class Threads:
    """How many threads compute on the CPU: the last digits of sums depend on it.

    Attributes
    ----------
    torch
        Those of torch.
    blas
        Those of the libraries that numpy and scikit-learn multiply with.
    """

    torch: int
    blas: int

    @classmethod
    def here(cls) -> Threads:
        """Return the numbers of this process."""
        import threadpoolctl  # type: ignore[import-untyped] # noqa: PLC0415 - as torch, only those who compute need it
        import torch  # noqa: PLC0415 - the same

        pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
        return cls(torch=torch.get_num_threads(), blas=max(pools, default=1))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Compute with these, whatever the process began with."""
        import threadpoolctl  # noqa: PLC0415 - the same
        import torch  # noqa: PLC0415 - the same

        before = torch.get_num_threads()
        torch.set_num_threads(self.torch)
        try:
            with threadpoolctl.threadpool_limits(self.blas, "blas"):
                yield
        finally:
            torch.set_num_threads(before)


def in_processes(
    work: Callable[[Job], Result], jobs: Sequence[Job], workers: int = 0
) -> Generator[tuple[Job, Result], None, None]:
    """Yield each job with its result, in the order in which they end; the first failure ends the work.

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

    Yields
    ------
    tuple[Job, Result]
        A job and what `work` returned.

    Raises
    ------
    RunError
        The workers could not start, or one died, mostly for want of memory.
    Exception
        What `work` raises.
    """
    workers = min(workers or cores(), len(jobs))
    if workers <= 1:
        yield from ((job, work(job)) for job in jobs)
        return
    with closing(attempts(work, jobs, [{}] * workers)) as ended:
        for job, attempt in ended:
            yield job, attempt.result()


def attempts(
    work: Callable[[Job], Result], jobs: Sequence[Job], environments: Sequence[Mapping[str, str]], deaths: int = 0
) -> Generator[tuple[Job, Future[Result]], None, None]:
    """Yield each job once it has ended, well or not, in the order in which they end; a failure ends no other job.

    A worker that dies is replaced, and its job given to another one. The workers are ended as those of `in_processes`.
    They import the main module of the program anew: a script must call this, and whatever calls it, under
    `if __name__ == "__main__":`.

    Parameters
    ----------
    work
        A function of a module.
    jobs
        What to call it with; they are pickled.
    environments
        One worker process for each: the variables of the environment that it changes before it imports `work`.
    deaths
        How many workers a job may cost; with one more it is given up.

    Yields
    ------
    tuple[Job, Future[Result]]
        A job, and its result or what it raised; a `RunError` where it was given up.

    Raises
    ------
    RunError
        The workers could not start.
    """
    cause, again = "mostly for want of memory", "Run the same command again"
    died = "worker process", f"it died, {cause}", f"{again}; if it dies again, with --set compute.workers=1"
    if deaths:
        problem = f"it cost several workers their lives, {cause}"
        died = "worker process", problem, f"{again}, with fewer workers (compute.workers)"
    guard = 'In a script, call Vitrail under if __name__ == "__main__": only, or work with one worker'
    never_started = "worker processes", "the worker processes could not start", guard
    share = {_CORES: str(max(1, cores() // max(1, len(environments))))}
    waiting, lost, begun, ended = deque(range(len(jobs))), Counter[int](), False, False
    workers: dict[Connection, _Worker] = {}
    try:
        with _interrupts_blocked():
            for environment in environments:
                worker = _Worker(work, share | dict(environment))
                workers[worker.pipe] = worker
        while waiting or any(worker.job is not None for worker in workers.values()):
            for pipe in wait(list(workers)):
                worker = workers[pipe]  # type: ignore[index] # these are the keys
                number, attempt = worker.job, Future[Any]()
                try:
                    result, error = worker.pipe.recv()
                except (EOFError, OSError):  # it died
                    worker.end()
                    del workers[worker.pipe]
                    if number is None and not worker.ready:  # the next one would do so, too
                        raise RunError(*(died if begun else never_started)) from None
                    if number is not None:
                        lost[number] += 1
                        if lost[number] <= deaths:
                            waiting.appendleft(number)
                            number = None
                    if waiting:
                        with _interrupts_blocked():
                            worker = _Worker(work, worker.environment)
                        workers[worker.pipe] = worker
                    attempt.set_exception(RunError(*died))
                else:
                    begun = worker.ready = True
                    worker.job = waiting.popleft() if waiting else None
                    if worker.job is not None:
                        with suppress(OSError):  # it died just now, which its pipe tells next
                            worker.pipe.send(jobs[worker.job])
                    attempt.set_exception(error) if error else attempt.set_result(result)
                if number is not None:
                    yield jobs[number], attempt
        ended = True
    finally:
        for worker in workers.values():
            worker.end(at_once=not ended)


class _Worker:
    """A process that does one job after the other.

    Parameters
    ----------
    work
        What it does with each.
    environment
        The variables of its environment that are others than here.

    Attributes
    ----------
    pipe
        This process's end of the pipe to it.
    job
        The number of the job that it is at.
    ready
        Whether it has begun to listen.
    """

    def __init__(self, work: Callable[[Any], Any], environment: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, end = context.Pipe()
        self.environment, self.ready = environment, False
        self.job: int | None = None
        self._process = context.Process(target=_serve, args=(end, dict(environment)), daemon=True)
        self._process.start()
        end.close()  # so that its death closes the pipe
        with suppress(OSError):
            self.pipe.send(work)

    def end(self, *, at_once: bool = False) -> None:
        """Let the process end, at once or behind its job, and wait for it."""
        if at_once or not self.ready:
            self._process.terminate()
        self.pipe.close()
        self._process.join()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
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


def _serve(pipe: Connection, environment: dict[str, str]) -> None:
    """Do in a worker process what comes through its pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    os.environ.update(environment)
    say_decisions_as_parent()
    with suppress(EOFError, BrokenPipeError):  # nothing more is wanted
        work = pipe.recv()
        pipe.send((None, None))
        while True:
            job = pipe.recv()
            try:
                answer = pickle.dumps((work(job), None))
            except Exception as error:  # noqa: BLE001 - it is raised where the job came from
                error.add_note(f"in a worker process:\n{traceback.format_exc()}")
                answer = pickle.dumps((None, error))
            pipe.send_bytes(answer)


def _end_with_parent() -> None:
    """Let this process end as soon as its parent does, however that ends, whatever this one is doing.

    Linux kills it at once. Elsewhere a thread waits for the parent's end; it can act only when the interpreter lets it,
    not within an import or a long calculation.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait_for_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent.pid:  # it ended before it was asked for
            os._exit(1)


_PR_SET_PDEATHSIG = 1
