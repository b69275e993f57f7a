"""Ctrl-C at its worst moments: while the program is imported, swallowed, turned into another error, pressed twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = str(Path(__file__).parents[2] / "src")
LINE = "vitrail: stopped; the same command goes on from here\n"

SCRIPT = """
import os, signal, sys
from vitrail.core.interrupt import until_interrupted

def interrupt():
    signal.raise_signal(signal.SIGINT)

class Finaliser:
    def __del__(self):
        interrupt()

def in_a_finaliser():
    Finaliser()

def in_text():
    try:
        exec("interrupt()", {"interrupt": interrupt})  # Python remembers it, and would end by the signal
    finally:
        print("let go of", flush=True)

def swallowed():
    try:
        interrupt()
    except KeyboardInterrupt:
        pass

def another_error():
    try:
        interrupt()
    except KeyboardInterrupt:
        raise ImportError("it failed to import") from None

def another_code():
    try:
        interrupt()
    except KeyboardInterrupt:
        sys.exit(1)

def twice():
    try:
        interrupt()
    finally:
        interrupt()
        print("still here")

def in_a_thread_that_crashes():
    import atexit
    atexit.register(os.abort)  # as threads of libraries do, when the interpreter is taken down
    interrupt()

def not_at_all():
    sys.exit(3)

def a_late_one():
    import atexit
    atexit.register(interrupt)

until_interrupted(globals()[sys.argv[1]])
"""


def run(*arguments, disposition=signal.default_int_handler):
    ended = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {"PYTHONPATH": SOURCE}, preexec_fn=lambda: signal.signal(signal.SIGINT, disposition),
    )  # fmt: skip
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.parametrize(
    "moment",
    [
        "interrupt", "in_a_finaliser", "swallowed", "another_error", "another_code", "twice",
        "in_a_thread_that_crashes",
    ],
)  # fmt: skip
def test_an_interrupt_ends_with_one_line_and_130(moment):
    assert run("-c", SCRIPT, moment) == (130, "", LINE)


def test_an_interrupt_within_executed_text_lets_go_and_ends_with_130():
    assert run("-c", SCRIPT, "in_text") == (130, "let go of\n", LINE)


@pytest.mark.parametrize(("moment", "code"), [("not_at_all", 3), ("a_late_one", 0)])
def test_without_one_in_time_the_exit_code_is_the_programs(moment, code):
    assert run("-c", SCRIPT, moment) == (code, "", "")


def test_where_interrupts_are_ignored_they_are():
    assert run("-c", SCRIPT, "swallowed", disposition=signal.SIG_IGN) == (0, "", "")


def test_an_interrupt_while_the_command_line_is_imported(tmp_path):
    (tmp_path / "typer.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from vitrail.__main__ import program; program()"
    assert run("-c", code) == (130, "", LINE)
