"""Worker processes: their results, their failures, and that none outlives its use."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from helpers import searching
from vitrail.core.parallel import attempts, in_processes
from vitrail.errors import ModelError, RunError

SOURCE = str(Path(__file__).parents[2] / "src")
SOON = 10
"""Seconds in which workers must be gone; their jobs take 60 (it is under one, but for crowded machines)."""

SCRIPT = """
import time
from helpers import searching
from vitrail.core.parallel import in_processes

if __name__ == "__main__":
    for job, _ in in_processes(time.sleep, [0.01, 60, 60, 60], 2):
        print("one", flush=True)
"""


def start(tmp_path, text):
    script = tmp_path / "script.py"
    script.write_text(text)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([SOURCE, str(Path(__file__).parents[1])])}
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}  # background jobs ignore it
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **heed
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_each_job_comes_with_its_result(workers):
    jobs = [3, 4, 5]
    assert dict(in_processes(math.factorial, jobs, workers)) == {3: 6, 4: 24, 5: 120}
    assert list(in_processes(math.factorial, [], workers)) == []
    assert multiprocessing.active_children() == []


def test_an_early_close_waits_for_no_job():
    results = in_processes(time.sleep, [0.01, 60, 60, 60], 2)
    assert next(results) == (0.01, None)
    begin = time.monotonic()
    results.close()
    assert time.monotonic() - begin < SOON
    assert multiprocessing.active_children() == []


def test_a_job_that_raises_ends_the_others():
    begin = time.monotonic()
    with pytest.raises(ValueError, match="sleep length must be non-negative"):
        list(in_processes(time.sleep, [60, -1, 60], 2))
    assert time.monotonic() - begin < SOON + 20  # with the start of the workers
    assert multiprocessing.active_children() == []


def test_a_worker_that_dies_is_told_in_one_line():
    with pytest.raises(RunError, match="it died, mostly for want of memory"):
        list(in_processes(os._exit, [1, 2, 3], 2))


def test_a_script_without_the_guard_is_told_the_cure(tmp_path):
    text = SCRIPT.replace('if __name__ == "__main__":', "if True:")
    _, said = start(tmp_path, text).communicate(timeout=60)
    # not the last line: Python's resource tracker may warn after it, of semaphores the broken start left behind
    told = [line for line in said.splitlines() if "the worker processes could not start" in line]
    assert len(told) == 1
    assert 'if __name__ == "__main__":' in told[0]


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_workers_end_with_their_parent(tmp_path, name):
    parent = start(tmp_path, SCRIPT)
    assert parent.stdout.readline() == "one\n"
    parent.send_signal(getattr(signal, name))
    parent.communicate(timeout=SOON)  # the workers hold its output open for as long as they live
    assert parent.returncode == -getattr(signal, name)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process that lets no thread run")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_workers_that_let_no_thread_run_end_with_their_parent(tmp_path, name):
    parent = start(tmp_path, SCRIPT.replace("time.sleep", "searching.hold_the_interpreter"))
    assert parent.stdout.readline() == "one\n"
    time.sleep(0.5)  # the second jobs begin
    parent.send_signal(getattr(signal, name))
    parent.communicate(timeout=SOON)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="there are no masks of signals")
def test_workers_hear_no_interrupt_from_their_first_moment_on():
    masks = [mask for _, mask in in_processes(partial(signal.pthread_sigmask, signal.SIG_BLOCK), [set(), set()], 2)]
    assert masks == [{signal.SIGINT}] * 2
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


TWO = [{}, {"WORKER": "second"}]


def numbers_of(folder, number):
    """Return the process numbers of those that worked at a job."""
    return (folder / f"{number}.txt").read_text().split()


def test_each_job_is_done_once_and_by_both_workers(tmp_path):
    jobs = [(tmp_path, number) for number in range(8)]
    done = [(job, attempt.exception()) for job, attempt in attempts(searching.touch, jobs, TWO)]
    assert sorted(job for job, _ in done) == jobs
    assert {error for _, error in done} == {None}
    assert [len(numbers_of(tmp_path, number)) for number in range(8)] == [1] * 8


def test_workers_have_the_environment_that_they_are_given():
    seen = {attempt.result() for _, attempt in attempts(os.getenv, ["WORKER"] * 40, TWO)}
    assert seen == {None, "second"}
    assert os.getenv("WORKER") is None


def test_a_worker_that_dies_is_replaced_and_its_job_done_again(tmp_path):
    jobs = [(tmp_path, number) for number in range(4)]
    done = {job: attempt.exception() for job, attempt in attempts(searching.die_once, jobs, TWO, deaths=2)}
    assert done == dict.fromkeys(jobs)
    assert [len(numbers_of(tmp_path, number)) for number in range(4)] == [1, 2, 1, 1]


def test_a_job_that_kills_every_worker_is_given_up_and_the_others_finish(tmp_path):
    jobs = [(tmp_path, number) for number in (0, -2, 1, -1, -3, 2, 3)]
    done = {job[1]: attempt.exception() for job, attempt in attempts(searching.touch, jobs, TWO, deaths=2)}
    assert [done[number] for number in range(4)] == [None] * 4
    assert isinstance(done[-1], ModelError)
    assert str(done[-1]) == "job: it is refused. Leave it out."
    assert "cost several workers their lives" in str(done[-2])
    assert len(numbers_of(tmp_path, -2)) == 3
    assert isinstance(done[-3], ZeroDivisionError)
    assert "in touch" in done[-3].__notes__[0]
    assert [len(numbers_of(tmp_path, number)) for number in range(4)] == [1] * 4
    assert multiprocessing.active_children() == []
