"""What workers do in tests: functions of a module that they can import."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

from vitrail.core.files import replacing
from vitrail.errors import ModelError


def touch(job, _progress=None):
    """Leave a file named by the job, with this process's number; -1 is refused, -2 kills, -3 is a fault."""
    folder, number = job
    with (Path(folder) / f"{number}.txt").open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    if number == -1:
        raise ModelError("job", "it is refused", "Leave it out")
    if number == -2:
        os._exit(1)
    if number == -3:
        raise ZeroDivisionError("a fault")


def die_once(job, _progress=None):
    """Kill the worker at the first attempt."""
    folder, number = job
    first = not (Path(folder) / f"{number}.txt").exists()
    touch(job)
    if first and number == 1:
        os._exit(1)


def hold_the_interpreter(seconds):
    """Sleep without letting any other thread of this process run, as an import of torch does."""
    ctypes.PyDLL(None).sleep(ctypes.c_uint(int(seconds)))


def hold_after_the_first(job):
    touch(job)
    if job[1]:
        hold_the_interpreter(60)


def sleep_after_the_first(job):
    touch(job)
    time.sleep(60 if job[1] else 0.01)


def text_of(number):
    return f"{number}\n" * 100_000


def write_slowly(job, _progress=None):
    """Write a file in two halves, so that a kill may come in between; it gets its name only when it is whole."""
    folder, number = job
    text = text_of(number)
    with replacing(Path(folder) / f"{number}.txt", shared=True) as temporary, temporary.open("w") as file:
        for half in (text[: len(text) // 2], text[len(text) // 2 :]):
            file.write(half)
            file.flush()
            time.sleep(0.05)
