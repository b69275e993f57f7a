"""Threads of this process that share its cores: for work that leaves Python to others, such as decoding or products."""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from vitrail.core.parallel import cores

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    Job = TypeVar("Job")
    Result = TypeVar("Result")

_MOST_THREADS = 8
"""Python itself runs in one thread at a time: a tenth of the time of a region of a slide, so that more gain little."""

_AHEAD = 2
"""Jobs that are begun for each thread before their results are asked for."""


def in_threads(work: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
    """Do short jobs in this thread and in those that the process keeps for it, one for each further core.

    Within a job that several threads share there is no help: each does its own by itself. Nobody waits for a thread
    that has not begun, so that jobs end however many callers there are.

    Parameters
    ----------
    work
        What to do; with several threads at once.
    jobs
        What to call it with.

    Returns
    -------
    list[Result]
        What it returned, in the order of the jobs.

    Raises
    ------
    Exception
        What `work` raised first, in the order of the jobs; none is begun after a failure.
    """
    helpers = 0 if _sharing.on else min(thread_count(), len(jobs)) - 1
    if helpers < 1:
        return [work(job) for job in jobs]
    results: dict[int, Result] = {}
    failures: dict[int, BaseException] = {}
    waiting = iter(range(len(jobs)))  # the interpreter's lock lets each number go to one thread

    def help_out() -> None:
        for number in waiting:
            try:
                results[number] = work(jobs[number])
            except BaseException as error:  # noqa: BLE001 - it is raised where the jobs came from
                failures[number] = error
            if failures:
                return

    helping = list[Future[None]]()
    with suppress(RuntimeError):  # the interpreter is ending, and starts no thread any more
        for _ in range(helpers):
            helping.append(_pool().submit(help_out))
    help_out()
    for helper in helping:
        if not helper.cancel():  # one that has not begun is not needed any more
            helper.result()
    if failures:
        raise failures[min(failures)]
    return [results[number] for number in range(len(jobs))]


def map_in_threads(work: Callable[[Job], Result], jobs: Sequence[Job]) -> Generator[Result, None, None]:
    """Do jobs as `in_threads` does, a few ahead of what is asked for, and yield the results in the order of the jobs.

    Parameters
    ----------
    work
        What to do; with several threads at once.
    jobs
        What to call it with.

    Yields
    ------
    Result
        What it returned.

    Raises
    ------
    Exception
        What `work` raised, where its result would have come.
    """
    helpers = 0 if _sharing.on else min(thread_count(), len(jobs)) - 1
    if helpers < 1:
        yield from map(work, jobs)
        return
    following = iter(jobs)
    tasks = deque(_Task(job, _pool().submit(work, job)) for job in islice(following, _AHEAD * (helpers + 1)))
    try:
        while tasks:
            while not tasks[0].result.done():  # meanwhile this thread does what no other has begun
                task = next((task for task in tasks if task.result.cancel()), None)
                if task is None:
                    break
                task.do(work)
            result = tasks.popleft().result.result()
            tasks.extend(_Task(job, _pool().submit(work, job)) for job in islice(following, 1))
            yield result
    finally:
        wait([task.result for task in tasks if not task.result.cancel()])


@dataclass(slots=True)
class _Task:
    """A job, and its result once it is there."""

    job: Any
    result: Future[Any]

    def do(self, work: Callable[[Any], Any]) -> None:
        """Do it in this thread, without help."""
        self.result, _sharing.on = Future(), True
        try:
            self.result.set_result(work(self.job))
        except Exception as error:  # noqa: BLE001 - it is raised where the result would have come
            self.result.set_exception(error)
        finally:
            _sharing.on = False


def thread_count() -> int:
    """Return how many threads are worth having: one a core, up to a number."""
    return min(cores(), _MOST_THREADS)


class _Sharing(threading.local):
    """Whether this thread is at a job that several threads share."""

    on = False


_sharing = _Sharing()


def _help() -> None:
    _sharing.on = True


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    """Return the threads that help, started as they are needed; they end with the interpreter, however that ends."""
    return ThreadPoolExecutor(max(1, thread_count() - 1), "vitrail-helper", _help)


if hasattr(os, "register_at_fork"):  # not on Windows
    # A forked child has none of its parent's threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)
