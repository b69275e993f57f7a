"""Progress of long work: a bar with the time left on a terminal, plain lines elsewhere, nothing in a library call.

Long functions take a `Progress` and call `with progress.task(title, total) as step: step(1)`. What stands behind is
the caller's choice, never a global. All of it goes to standard error: standard output is for what came out.

What is decided on the way, and why (which reader, engine, device; what is done already), is logged by the modules that
decide, `logging.getLogger(__name__).info(...)`: a program hears it as it hears other libraries, and the command line
with `--verbose`, see `decisions_said`.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Step = Callable[..., None]


class Progress(Protocol):
    """Something that can be told how far a piece of work is."""

    def task(self, title: str, total: int, done: int = 0) -> AbstractContextManager[Step]:
        """Begin a piece of work of `total` steps of which `done` are finished; yields `step(n=1, note="")`."""

    def say(self, line: str) -> None:
        """Tell the user one line."""


class Silent:
    """Says nothing: the default of library calls."""

    @contextmanager
    def task(self, title: str, total: int, done: int = 0) -> Iterator[Step]:  # noqa: ARG002 - the protocol's arguments
        """Yield a step that does nothing."""
        yield lambda n=1, note="": None  # noqa: ARG005 - the protocol's arguments

    def say(self, line: str) -> None:
        """Keep quiet."""


class Bars:
    """Bars with the time left, for a terminal."""

    @contextmanager
    def task(self, title: str, total: int, done: int = 0) -> Iterator[Step]:
        """Show a bar until the work ends."""
        from rich import progress as rich  # noqa: PLC0415 - keeps start-up fast

        columns = (
            rich.TextColumn("{task.description:<10}"),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TimeElapsedColumn(),
            rich.TextColumn("left"),
            rich.TimeRemainingColumn(),
            rich.TextColumn("{task.fields[note]}"),
        )
        from rich.console import Console  # noqa: PLC0415 - the same

        with rich.Progress(*columns, console=Console(stderr=True)) as bars:
            bar = bars.add_task(title, total=total, completed=done, note="")
            last = [""]

            def step(n: int = 1, note: str = "") -> None:
                last[0] = note or last[0]
                bars.update(bar, advance=n, note=last[0])

            yield step

    def say(self, line: str) -> None:
        """Print the line."""
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - this is where the user is told


class Lines:
    """One plain line every few seconds, for log files.

    Parameters
    ----------
    every
        Seconds between two lines of one piece of work; its end is always printed.
    """

    def __init__(self, every: float = 10.0) -> None:
        self.every = every

    @contextmanager
    def task(self, title: str, total: int, done: int = 0) -> Iterator[Step]:
        """Print how far the work is, from time to time."""
        begun = last = time.monotonic()
        count, first = done, done

        def step(n: int = 1, note: str = "") -> None:
            nonlocal count, last
            count += n
            now = time.monotonic()
            if count >= total or now - last >= self.every:
                last = now
                left = (now - begun) / max(count - first, 1) * (total - count)
                self.say(
                    f"{title}: {count}/{total}, {now - begun:.0f} s, {left:.0f} s left{'  ' + note if note else ''}"
                )

        yield step

    def say(self, line: str) -> None:
        """Print the line."""
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - this is where the user is told


def for_terminal() -> Progress:
    """Return bars on a terminal and lines elsewhere."""
    return Bars() if sys.stderr.isatty() else Lines()


_VERBOSE = "VITRAIL_VERBOSE"
"""Variable of the environment by which worker processes hear that decisions are to be said."""


@contextmanager
def decisions_said() -> Iterator[None]:
    """Say on standard error what is decided and why, and every warning of Python's, here and in worker processes.

    Within the block; afterwards logging and warnings are as they were.
    """
    import logging  # noqa: PLC0415 - who asks for nothing starts sooner
    import warnings  # noqa: PLC0415 - the same

    class ToStandardError(logging.Handler):
        """Writes to standard error as it is at that moment: bars put their own in its place."""

        def emit(self, record: logging.LogRecord) -> None:
            print(self.format(record), file=sys.stderr, flush=True)  # noqa: T201 - this is where the user is told

    handler = ToStandardError()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    own, of_python = logging.getLogger("vitrail"), logging.getLogger("py.warnings")
    level, before = own.level, os.environ.get(_VERBOSE)
    own.setLevel(logging.INFO)
    os.environ[_VERBOSE] = "1"
    for logger in (own, of_python):
        logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:  # else somebody has said which
                warnings.simplefilter("default")
            logging.captureWarnings(capture=True)
            yield
    finally:
        logging.captureWarnings(capture=False)
        for logger in (own, of_python):
            logger.removeHandler(handler)
        own.setLevel(level)
        del os.environ[_VERBOSE]
        if before is not None:
            os.environ[_VERBOSE] = before


def say_decisions_as_parent() -> None:
    """Let a worker process say what is decided, as long as it lives, if its parent does."""
    if os.environ.get(_VERBOSE):
        _for_life.enter_context(decisions_said())


_for_life = ExitStack()
"""Of this process: it is never closed."""
