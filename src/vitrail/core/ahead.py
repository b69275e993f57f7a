"""Working ahead: the next results are made in threads while these are at work elsewhere."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

Job = TypeVar("Job")
Result = TypeVar("Result")


def work_ahead(
    work: Callable[[Job], Result], jobs: Iterable[Job], ahead: int = 1, threads: int = 1
) -> Generator[Result, None, None]:
    """Do jobs in threads, a few ahead of what is asked for.

    Several of these make a pipeline: the results of one are the jobs of the next. Each has at most `ahead` results that
    nobody asked for yet, so that memory is bounded.

    Parameters
    ----------
    work
        What to do, such as to read from a disk, or to compute, which leaves Python to others meanwhile.
    jobs
        What to call it with; asked for one at a time, by whoever asks for results.
    ahead
        How many jobs.
    threads
        How many of them at the same time; they begin in order.

    Yields
    ------
    Result
        What `work` returns, in the order of the jobs. What it raises, or the jobs do, comes where the result would have
        come. When the generator is closed, jobs that have not begun are left out, and no others are waited for.
    """
    pool, following, waiting = ThreadPoolExecutor(threads), iter(jobs), deque[Future[Result]]()

    def submit() -> None:
        try:
            job = next(following)
        except StopIteration:
            return
        except Exception as error:  # noqa: BLE001 - raised behind the results of the jobs before
            failed = Future[Result]()
            failed.set_exception(error)
            waiting.append(failed)
        else:
            waiting.append(pool.submit(work, job))

    try:
        for _ in range(ahead):
            submit()
        while waiting:
            result = waiting.popleft().result()
            submit()
            yield result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C need not wait for a network
