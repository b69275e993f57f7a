"""Reading ahead: the next images come from the disk while a network is at work on these."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

Job = TypeVar("Job")
Result = TypeVar("Result")


def read_ahead(read: Callable[[Job], Result], jobs: Iterable[Job], ahead: int = 1) -> Generator[Result, None, None]:
    """Do jobs in a thread, one after the other, a few ahead of what is asked for.

    Parameters
    ----------
    read
        What to do, such as reading from a disk, which leaves Python to others meanwhile.
    jobs
        What to call it with.
    ahead
        How many jobs.

    Yields
    ------
    Result
        What `read` returns, in the order of the jobs.
    """
    with ThreadPoolExecutor(1) as reader:
        following = iter(jobs)
        waiting = deque(reader.submit(read, job) for job in islice(following, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(reader.submit(read, job) for job in islice(following, 1))
            yield result
