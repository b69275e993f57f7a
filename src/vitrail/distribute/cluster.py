"""Jobs on a dask cluster that is there already; needs the extra `cluster`, which is imported only when work begins.

A worker that dies is replaced by its nanny and its job given to another; a job whose workers die again and again is
given up, and the others go on. A worker process does one job at a time, whatever its threads, and computes with as
many as the command that asks would: where a machine has several workers, `OMP_NUM_THREADS=1 vitrail ...` is quicker.

One GPU a worker is what starts the workers' business: `dask cuda worker` (dask-cuda) gives each of a machine's GPUs
one, and so does a `CUDA_VISIBLE_DEVICES=i dask worker --nthreads 1` for each.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections import deque
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import vitrail
from vitrail.core.files import beside_others
from vitrail.core.parallel import Threads
from vitrail.core.progress import Silent
from vitrail.distribute.jobs import await_files
from vitrail.errors import RunError, SettingsError, VitrailError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from contextlib import AbstractContextManager

    from distributed import Client

    from vitrail.core.progress import Progress
    from vitrail.distribute.jobs import Ended, Jobs

_PATIENCE = 30
"""Seconds that a scheduler, and its first worker, may take to answer."""

_ALONE = 600
"""Seconds that a scheduler may be without workers, while others start in their place."""

_WAIT = 0.01, 1.0
"""Seconds between two looks at whether a job has ended: the first wait and the longest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The workers of a dask scheduler do the jobs; a connection lasts as long as one `run`.

    Parameters
    ----------
    scheduler
        Its address.
    folder
        What the workers must see, as they must all that the jobs name; it is there.

    Raises
    ------
    SettingsError
        Dask is not installed here.
    """

    scheduler: str
    folder: Path
    is_shared: bool = False

    def __post_init__(self) -> None:
        if find_spec("distributed") is None:
            cure = "Run: pip install 'vitrail[cluster]'"
            raise SettingsError("--scheduler", "needs dask and distributed, which are not installed", cure)

    def check(self) -> None:
        """Make sure that the cluster can be reached, and that its workers fit.

        Raises
        ------
        RunError
            They do not: the message says why.
        """
        with self._connected():
            pass

    def ask(self, question: Callable[..., Any], *values: Any) -> dict[str, Any]:
        """Call a function on every worker.

        Parameters
        ----------
        question
            A function of a module, which takes little time.
        *values
            What to call it with.

        Returns
        -------
        dict[str, Any]
            What it returns, by the worker's address.

        Raises
        ------
        RunError
            The cluster cannot be reached, or its workers do not fit.
        """
        with self._connected() as client:
            answers: dict[str, Any] = client.run(question, *values)
        return answers

    def run(self, jobs: Jobs[Any]) -> Generator[Ended, None, None]:
        """Do the jobs as workers come free; those that have not begun are taken back when the generator is closed.

        No more jobs are handed out than there are workers, so that a worker's death concerns one job alone.
        """
        todo = jobs.unfinished()
        if not todo:
            return
        from distributed import KilledWorker, as_completed  # noqa: PLC0415 - an extra

        # only what has torch computes; and its last digits depend on the number of threads
        threads = Threads.here() if "torch" in sys.modules else None
        with self._connected() as client:
            waiting, running = deque(todo), dict[Any, str]()
            done: Any = as_completed([], loop=client.loop)

            def hand_out() -> int:
                workers = len(client.nthreads())
                while waiting and len(running) < max(workers, 1):
                    name = waiting.popleft()
                    future = client.submit(_do, jobs.work, jobs.jobs[name], Path.cwd(), threads, pure=False)
                    running[future] = name
                    done.add(future)
                return workers

            try:
                hand_out()
                seen, wait = time.monotonic(), _WAIT[0]
                while running:
                    if not done.has_ready() and client.status == "running":
                        time.sleep(wait)
                        wait = min(2 * wait, _WAIT[1])
                        with suppress(OSError):  # the scheduler is gone, and the client is about to say so
                            if hand_out():  # also to workers that have come
                                seen = time.monotonic()
                        if time.monotonic() > seen + _ALONE:
                            cure = f"Start some with: dask worker {self.scheduler}, and run the same command again"
                            raise RunError(self.scheduler, "all workers are gone", cure)
                        continue
                    wait = _WAIT[0]
                    future = next(done)
                    name = running.pop(future)
                    if future.status == "cancelled" or client.status != "running":
                        cure = "Run the same command again: it goes on from here"
                        raise RunError("dask scheduler", "the cluster is gone", cure)
                    error = future.exception()
                    if isinstance(error, KilledWorker):
                        problem = "it cost several workers their lives, mostly for want of memory"
                        cure = "Run the same command again, on workers with more memory"
                        error = RunError("worker process", problem, cure)
                    if error is not None and not isinstance(error, VitrailError):
                        raise error
                    future.release()  # else it would be done again when the worker that did it dies
                    if error is None:
                        await_files(jobs, name)
                    yield name, error
                    hand_out()
                    seen = time.monotonic()
            finally:
                if running and client.status == "running":
                    client.cancel(list(running), force=True)

    def alone(self, folder: Path) -> AbstractContextManager[None]:  # noqa: ARG002 - the protocol's argument
        """Return a block that does nothing: the workers work for this command."""
        return nullcontext()

    @contextmanager
    def _connected(self) -> Iterator[Client]:
        """Connect to the cluster, all of whose workers must see the folder and have this version of Vitrail."""
        from distributed import Client  # noqa: PLC0415 - an extra

        reason, client = "", None
        try:
            client = Client(self.scheduler, timeout=_PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:120]
        if client is None:
            gc.collect()  # dask's half-made client would lock itself out were it collected while another one starts
            cure = "Start one with: dask scheduler, and give the address that it prints"
            raise RunError(self.scheduler, f"no dask scheduler can be reached ({reason})", cure)
        with client:
            try:
                client.wait_for_workers(1, timeout=_PATIENCE)
            except TimeoutError:
                cure = f"Start some with: dask worker {self.scheduler}"
                raise RunError(self.scheduler, "the scheduler has no workers", cure) from None
            probe = self.folder.absolute() / f".seen-{os.getpid()}"
            probe.touch()
            try:
                answers = client.run(_look, str(probe), on_error="return")
            finally:
                probe.unlink(missing_ok=True)
            for worker, answer in sorted(answers.items()):
                if isinstance(answer, ImportError):
                    problem = f"it cannot import Vitrail ({answer})"
                    raise RunError(f"worker {worker}", problem, "Install it there, too")
                if isinstance(answer, OSError):
                    continue  # it died just now, and another one takes its place
                if isinstance(answer, BaseException):
                    raise answer
                version, sees_folder = answer
                if version != vitrail.__version__:
                    problem = f"it has Vitrail {version}, and this is {vitrail.__version__}"
                    raise RunError(f"worker {worker}", problem, "Install the same version everywhere")
                if not sees_folder:
                    cure = "Put the run on a file system that all workers share"
                    raise RunError(f"worker {worker}", f"it does not see {self.folder}", cure)
            yield client


_alone_here = Lock()  # torch's seeds and threads are the process's, and a worker may run several threads


def _do(work: Callable[[Any, Progress], None], job: Any, folder: Path, threads: Threads | None) -> None:
    """Do a job, on the worker, in the working folder of who asks and with as many threads: all comes out the same."""
    with (
        _alone_here,
        beside_others(),
        threads.applied() if threads else nullcontext(),
    ):  # a worker that was taken for dead may do the same
        before = Path.cwd()
        with suppress(OSError):  # not there: then paths should be absolute, or files will be missed
            os.chdir(folder)
        try:
            work(job, Silent())
        finally:
            os.chdir(before)


def _look(probe: str) -> tuple[str, bool]:
    """Return a worker's version of Vitrail, and whether it sees a file."""
    return vitrail.__version__, os.path.exists(probe)  # noqa: PTH110 - runs on the worker, with a text
