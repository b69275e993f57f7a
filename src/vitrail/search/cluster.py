"""Work on a dask cluster: one of this machine, made for it, or one that is there already.

A worker that dies is replaced and its job given to another; a job whose worker dies again and again is given up, and
the others go on. Local workers leave Ctrl-C to their parent and end with it.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import dask
from distributed import Client, KilledWorker, Nanny, Scheduler, SpecCluster, Worker, as_completed

import vitrail
from vitrail.core.parallel import cores, end_with_parent, interrupts_blocked
from vitrail.errors import RunError, VitrailError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from distributed import Future

    from vitrail.settings.schema import ComputeSettings

    Job = TypeVar("Job")

DEATHS = 2
"""How many workers a job may cost; with one more it is given up. A remote scheduler has its own limit."""

_PATIENCE = 30
_NEVER = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where work is done.

    Attributes
    ----------
    folder
        What all workers must see.
    workers
        How many, of a local cluster.
    gpus
        What each local worker's CUDA_VISIBLE_DEVICES is, in turn; none leaves it as it is.
    scheduler
        Address of a cluster that is there already; None makes a local one.
    """

    folder: Path
    workers: int = 1
    gpus: tuple[str, ...] = ()
    scheduler: str | None = None


def place_for(folder: Path, compute: ComputeSettings, jobs: int, scheduler: str | None = None) -> Place:
    """Choose where to work: on the scheduler's cluster, or on one of this machine.

    Its workers are one a GPU where there are some, else `compute.workers`, 0 meaning one a core; never more than jobs.
    """
    if scheduler:
        return Place(folder=folder, scheduler=scheduler)
    gpus = _gpus(compute.device)
    workers = min(compute.workers or len(gpus) or cores(), len(gpus) or jobs, jobs)
    return Place(folder=folder, workers=workers, gpus=gpus)


def _gpus(device: str) -> tuple[str, ...]:
    """Return this machine's CUDA devices as CUDA_VISIBLE_DEVICES names them."""
    import torch  # noqa: PLC0415 - a remote cluster is told apart without it

    if device not in {"auto", "cuda"} or not torch.cuda.is_available():
        return ()
    there = [str(number) for number in range(torch.cuda.device_count())]
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return tuple(named.split(",")[: len(there)] if named else there)


@contextmanager
def connected(place: Place) -> Iterator[Client]:
    """Give a client of the cluster, all of whose workers see the folder; a local cluster ends with the block.

    Raises
    ------
    RunError
        The scheduler cannot be reached, has no worker, or a worker lacks the folder or this version of Vitrail; or
        local workers do not start.
    """
    with _remote(place.scheduler) if place.scheduler else _local(place) as client:
        _check(client, place)
        yield client


@contextmanager
def _remote(address: str) -> Iterator[Client]:
    try:
        client = Client(address, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        cure = "Start one with: dask scheduler, and give the address that it prints"
        raise RunError(address, f"no dask scheduler can be reached ({reason})", cure) from None
    with client:
        yield client


@contextmanager
def _local(place: Place) -> Iterator[Client]:
    with (
        tempfile.TemporaryDirectory(prefix="vitrail-", ignore_cleanup_errors=True) as scratch,
        _quiet(),
        _started(place, scratch) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep dask's own lines about workers that died off the terminal: what matters is told in one of ours."""
    loggers = [logging.getLogger(name) for name in ("distributed", "tornado.application")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(_NEVER)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


class LocalWorker(Worker):
    """A worker of this machine, which ends with the process that started it.

    Dask's own workers wait for their parent's end in a thread, which cannot act while the worker imports torch.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        end_with_parent()
        super().__init__(*args, **options)


def _started(place: Place, scratch: str) -> SpecCluster:
    options = {"host": "127.0.0.1", "protocol": "tcp://", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    worker = options | {
        "worker_class": LocalWorker,
        "nthreads": 1,
        "memory_limit": 0,
        "local_directory": scratch,
        "silence_logs": _NEVER,
    }
    specs = {i: {"cls": Nanny, "options": worker | {"env": _environment(place, i)}} for i in range(place.workers)}
    limits: dict[str, object] = {
        "distributed.scheduler.allowed-failures": DEATHS,
        "distributed.scheduler.worker-saturation": 1.0,
        "temporary-directory": scratch,  # of the scheduler, too
    }
    with dask.config.set(limits), interrupts_blocked():
        try:
            return SpecCluster(
                workers=specs, scheduler={"cls": Scheduler, "options": options | {"port": 0}}, silence_logs=_NEVER
            )
        except RuntimeError as error:
            cure = 'In a script, call Vitrail under if __name__ == "__main__": only'
            raise RunError("worker processes", f"they could not start ({error})", cure) from None


def _environment(place: Place, number: int) -> dict[str, str]:
    gpu = {"CUDA_VISIBLE_DEVICES": place.gpus[number % len(place.gpus)]} if place.gpus else {}
    return {"OMP_NUM_THREADS": "1"} | gpu


def _check(client: Client, place: Place) -> None:
    where = place.scheduler or "worker processes"
    try:
        client.wait_for_workers(1, timeout=_PATIENCE)
    except TimeoutError:
        raise RunError(where, "the scheduler has no workers", f"Start some with: dask worker {where}") from None
    probe = place.folder / ".seen"
    probe.touch()
    try:
        found = client.run(_look, str(probe))
    except ImportError as error:
        raise RunError(where, f"a worker cannot import Vitrail ({error})", "Install it there, too") from None
    finally:
        probe.unlink(missing_ok=True)
    for worker, (version, seen) in sorted(found.items()):
        _check_worker(worker, version, place.folder if not seen else None)


def _check_worker(worker: str, version: str, missing: Path | None) -> None:
    if version != vitrail.__version__:
        problem = f"it has Vitrail {version}, and this is {vitrail.__version__}"
        raise RunError(f"worker {worker}", problem, "Install the same version everywhere")
    if missing:
        problem = f"it does not see {missing}"
        raise RunError(f"worker {worker}", problem, "Put the run on a file system that all workers share")


def _look(probe: str) -> tuple[str, bool]:
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
            job, problem = running.pop(future), _problem(future, client)
            future.release()  # else it would be done again when the worker that did it dies
            yield job, problem
            hand_out()
    finally:
        if running and client.status == "running":
            client.cancel(list(running), force=True)


def _problem(future: Future[Any], client: Client) -> VitrailError | None:
    if future.status == "cancelled" or client.status != "running":
        raise RunError("dask scheduler", "the cluster is gone", "Run the same command again: it goes on from here")
    error = future.exception()
    if error is None or isinstance(error, VitrailError):
        return error
    if isinstance(error, KilledWorker):
        problem = "it cost several workers their lives, mostly for want of memory"
        return RunError("worker process", problem, "Run the same command again, with fewer workers (compute.workers)")
    raise error
