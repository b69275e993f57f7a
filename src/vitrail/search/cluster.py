"""Work on a dask cluster that is there already; needs the extra `cluster`, and is imported only where it is asked for.

A worker that dies is replaced and its job given to another; a job whose worker dies again and again is given up, and
the others go on.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from distributed import Client, KilledWorker, as_completed

import vitrail
from vitrail.errors import RunError, VitrailError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    Job = TypeVar("Job")

_PATIENCE = 30
"""Seconds that a scheduler, and its first worker, may take to answer."""


@contextmanager
def connected(folder: Path, scheduler: str) -> Iterator[Client]:
    """Connect to a cluster all of whose workers see a folder and have this version of Vitrail.

    Parameters
    ----------
    folder
        What they must see.
    scheduler
        The cluster's address.

    Yields
    ------
    Client
        The connection, which ends with the block.

    Raises
    ------
    RunError
        The scheduler cannot be reached, has no worker, or a worker lacks the folder or this version.
    """
    try:
        client = Client(scheduler, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        cure = "Start one with: dask scheduler, and give the address that it prints"
        raise RunError(scheduler, f"no dask scheduler can be reached ({reason})", cure) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=_PATIENCE)
        except TimeoutError:
            cure = f"Start some with: dask worker {scheduler}"
            raise RunError(scheduler, "the scheduler has no workers", cure) from None
        probe = folder / ".seen"
        probe.touch()
        try:
            answers = client.run(_look, str(probe))
        except ImportError as error:
            cure = "Install it there, too"
            raise RunError(scheduler, f"a worker cannot import Vitrail ({error})", cure) from None
        finally:
            probe.unlink(missing_ok=True)
        for worker, (version, sees_folder) in sorted(answers.items()):
            if version != vitrail.__version__:
                problem = f"it has Vitrail {version}, and this is {vitrail.__version__}"
                raise RunError(f"worker {worker}", problem, "Install the same version everywhere")
            if not sees_folder:
                cure = "Put the run on a file system that all workers share"
                raise RunError(f"worker {worker}", f"it does not see {folder}", cure)
        yield client


def _look(probe: str) -> tuple[str, bool]:
    """Return a worker's version of Vitrail, and whether it sees a file."""
    return vitrail.__version__, os.path.exists(probe)  # noqa: PTH110 - runs on the worker, with a text


def in_cluster(
    client: Client, work: Callable[[Job], None], jobs: Sequence[Job]
) -> Generator[tuple[Job, VitrailError | None], None, None]:
    """Yield each job, in the order in which they end, with what made it fail, if that is something a user can mend.

    No more jobs are handed out than there are workers, so that a worker's death concerns one job alone. Jobs that
    have not begun are taken back when the generator is closed.

    Parameters
    ----------
    client
        From `connected`.
    work
        A function of a module that workers can import.
    jobs
        What to call it with; they are pickled.

    Yields
    ------
    tuple[Job, VitrailError | None]
        A job that has ended, and what made it fail.

    Raises
    ------
    RunError
        The cluster is gone.
    Exception
        What a job raises that is no `VitrailError`: a fault of the program.
    """
    waiting, running = deque(jobs), dict[Any, Any]()
    done: Any = as_completed([], loop=client.loop)

    def hand_out() -> None:
        while waiting and len(running) < max(len(client.nthreads()), 1):
            job = waiting.popleft()
            future = client.submit(work, job, pure=False)
            running[future] = job
            done.add(future)

    try:
        hand_out()
        for future in done:
            job = running.pop(future)
            if future.status == "cancelled" or client.status != "running":
                cure = "Run the same command again: it goes on from here"
                raise RunError("dask scheduler", "the cluster is gone", cure)
            error = future.exception()
            if isinstance(error, KilledWorker):
                problem = "it cost several workers their lives, mostly for want of memory"
                error = RunError("worker process", problem, "Run the same command again, on workers with more memory")
            if error is not None and not isinstance(error, VitrailError):
                raise error
            future.release()  # else it would be done again when the worker that did it dies
            yield job, error
            hand_out()
    finally:
        if running and client.status == "running":
            client.cancel(list(running), force=True)
