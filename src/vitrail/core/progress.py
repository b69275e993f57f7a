"""Progress of long work: a bar with the time left on a terminal, plain lines elsewhere, nothing in a library call.

Long functions take a `Progress` and call `with progress.task(title, total) as step: step(1)`. What stands behind is
the caller's choice, never a global.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
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
        with rich.Progress(*columns) as bars:
            bar = bars.add_task(title, total=total, completed=done, note="")
            last = [""]

            def step(n: int = 1, note: str = "") -> None:
                last[0] = note or last[0]
                bars.update(bar, advance=n, note=last[0])

            yield step

    def say(self, line: str) -> None:
        """Print the line."""
        print(line, flush=True)  # noqa: T201 - this is where the user is told


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
        print(line, flush=True)  # noqa: T201 - this is where the user is told


def for_terminal() -> Progress:
    """Return bars on a terminal and lines elsewhere."""
    return Bars() if sys.stdout.isatty() else Lines()
