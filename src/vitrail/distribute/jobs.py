"""Independent pieces of work that leave files, and what does them.

Whoever does a job, and how often it was begun, the same files come out: so it may be done here, in processes of this
machine, by any number of commands that claim jobs on a shared disk, or on a cluster.
"""

from __future__ import annotations

import time
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from vitrail.core.parallel import attempts
from vitrail.core.progress import Silent
from vitrail.errors import RunError, VitrailError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from vitrail.core.progress import Progress

Job = TypeVar("Job")

_VISIBLE_AFTER = 120
"""Seconds that a shared disk may take to show here what was written elsewhere; NFS remembers for up to 60."""

SOON = 8
"""Jobs that `Jobs.soon` is told of at most."""

Ended = tuple[str, VitrailError | None]
"""The name of a job that has ended, and what made it fail, if that is something a user can mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs(Generic[Job]):
    """Pieces of work of one kind.

    Attributes
    ----------
    title
        What is done, for progress, such as `"tiles"`.
    work
        A function of a module. It leaves files, each whole or absent, and does nothing where they are there. What it
        is given besides the job is told how far it is.
    jobs
        What it is called with, by a name that may stand in a path and is the same in every process that does the same
        work; pickled where another process works.
    is_done
        Whether a job's files are there.
    soon
        Told, before each job, that one and the next ones that this process will probably do, for what can be made
        ready meanwhile; None where there is nothing such. Only who does the jobs in the process that asked for them
        tells it.
    """

    title: str
    work: Callable[[Job, Progress], None]
    jobs: Mapping[str, Job]
    is_done: Callable[[Job], bool]
    soon: Callable[[Job, Sequence[Job]], None] | None = None

    def unfinished(self) -> list[str]:
        """Return the names of the jobs whose files are not there."""
        return [name for name, job in self.jobs.items() if not self.is_done(job)]


def await_files(jobs: Jobs[Any], name: str) -> None:
    """Wait until this machine sees what another has written: a network drive may be behind.

    Parameters
    ----------
    jobs, name
        The jobs, and which of them another process has done.

    Raises
    ------
    RunError
        It never does.
    """
    until = time.monotonic() + _VISIBLE_AFTER
    while not jobs.is_done(jobs.jobs[name]):
        if time.monotonic() > until:
            problem = f"what another process wrote of it ({jobs.title}) is not seen here"
            raise RunError(name, problem, "Put all on a file system that all share, and run the same command again")
        time.sleep(0.5)


class Executor(Protocol):
    """What does jobs.

    Attributes
    ----------
    is_shared
        Whether other commands do the same jobs at the same time, so that files that all of them write together must be
        written within `alone`.
    """

    @property
    def is_shared(self) -> bool:
        """Whether other commands do the same jobs."""

    def run(self, jobs: Jobs[Any]) -> Generator[Ended, None, None]:
        """Do all jobs that are not done; the generator ends when all of them have ended, whoever did them.

        Yields
        ------
        Ended
            Each job that was not done at the start, once it has ended, in any order.

        Raises
        ------
        RunError
            The workers could not start, or are gone.
        Exception
            What a job raises that is no `VitrailError`: a fault of the program.
        """

    def alone(self, folder: Path) -> AbstractContextManager[None]:
        """Return a block that only one of several commands is in at a time; the others wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """One job after the other, in this process.

    Attributes
    ----------
    progress
        Told how far each job is.
    """

    progress: Progress = field(default_factory=Silent)
    is_shared: bool = False

    def run(self, jobs: Jobs[Any]) -> Generator[Ended, None, None]:
        """Do the jobs in their order."""
        names = jobs.unfinished()
        for at, name in enumerate(names, 1):
            if jobs.soon:
                jobs.soon(jobs.jobs[name], [jobs.jobs[next_name] for next_name in names[at : at + SOON]])
            try:
                jobs.work(jobs.jobs[name], self.progress)
            except VitrailError as error:
                yield name, error
            else:
                yield name, None

    def alone(self, folder: Path) -> AbstractContextManager[None]:  # noqa: ARG002 - the protocol's argument
        """Return a block that does nothing: there is nobody else."""
        return nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """Processes of this machine do the jobs side by side.

    Attributes
    ----------
    environments
        One worker for each: the variables of the environment that it changes before it imports the work.
    deaths
        How many workers a job may cost; with one more it is given up.
    """

    environments: Sequence[Mapping[str, str]]
    deaths: int = 2
    is_shared: bool = False

    def run(self, jobs: Jobs[Any]) -> Generator[Ended, None, None]:
        """Do the jobs as workers come free; what has begun is ended when the generator is closed."""
        todo = [(name, jobs.work, jobs.jobs[name]) for name in jobs.unfinished()]
        with closing(attempts(_do, todo, self.environments[: len(todo)], self.deaths)) as ended:
            for (name, _work, _job), attempt in ended:
                error = attempt.exception()
                if error is not None and not isinstance(error, VitrailError):
                    raise error
                yield name, error

    def alone(self, folder: Path) -> AbstractContextManager[None]:  # noqa: ARG002 - the protocol's argument
        """Return a block that does nothing: the processes work for this one."""
        return nullcontext()


def _do(named: tuple[str, Callable[[Any, Progress], None], Any]) -> None:
    _name, work, job = named
    work(job, Silent())
