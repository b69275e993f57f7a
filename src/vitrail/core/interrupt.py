"""Ctrl-C: one line and exit code 130, whenever it comes.

Python by itself ends otherwise in three places. While modules are imported, it prints a traceback. Where the exception
has passed through an `exec` of text, as dataclasses use it, the process kills itself with the signal at its very end,
although the exception was caught. And while the interpreter is taken down, threads of torch and OpenVINO may still be
at work in memory that is gone. So the process ends here, at once, when all `with` and `finally` have been left; every
file is written whole under another name first, so that nothing is lost. Nothing heavy is imported: this comes first.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

_LINE = "vitrail: stopped; the same command goes on from here"
_heard = False


def until_interrupted(program: Callable[[], None]) -> None:
    """Run a whole program; after Ctrl-C, end the process with one line and exit code 130.

    The first Ctrl-C raises KeyboardInterrupt, so that worker processes and locks are let go of; a second one ends the
    process at once. One that comes when the program has finished does nothing. Where the process was started to ignore
    Ctrl-C, as in the background of a script, it is ignored.

    Parameters
    ----------
    program
        The program; what it raises goes on from here unless Ctrl-C was pressed.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = _unraisable
    try:
        program()
    except BaseException:
        if _heard:  # whatever became of it: libraries turn KeyboardInterrupt into errors of their own
            _stop()
        raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _heard:
        _stop()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Hear Ctrl-C: the first one lets the program let go of what it holds, a second one does not wait for that."""
    global _heard  # noqa: PLW0603 - a signal is the process's
    if _heard:
        _stop()
    _heard = True
    raise KeyboardInterrupt


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Stop where KeyboardInterrupt was raised in a place that it cannot leave, such as a finaliser."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        _stop()
    sys.__unraisablehook__(unraisable)


def _stop() -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, RuntimeError):  # closed, or being written to when the signal came
            continue
    try:
        os.write(2, f"{_LINE}\n".encode())
    finally:
        os._exit(INTERRUPTED)
