"""Threads that share the cores: every job once, in order, whoever asks, and none that outlives its process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrail.core import threads
from vitrail.core.parallel import cores, in_processes
from vitrail.core.threads import in_threads, map_in_threads


@pytest.fixture(autouse=True)
def four(monkeypatch):
    """As many threads on every machine."""
    monkeypatch.setattr(threads, "thread_count", lambda: 4)
    threads._pool.cache_clear()
    yield
    threads._pool.cache_clear()


@given(st.lists(st.integers(), max_size=20))
def test_results_come_in_the_order_of_the_jobs(jobs):
    assert in_threads(lambda job: job * 2, jobs) == [job * 2 for job in jobs]


def test_jobs_go_to_several_threads_at_once():
    together = threading.Barrier(4)  # nobody passes it alone
    assert len(set(in_threads(lambda _: together.wait(10) is None or threading.get_ident(), range(4)))) == 4


def test_the_first_failure_is_raised_and_ends_the_work():
    begun = []

    def work(job):
        begun.append(job)
        return 1 // job

    with pytest.raises(ZeroDivisionError):
        in_threads(work, [0] * 100)
    assert len(begun) <= 4
    assert in_threads(work, [1, 1]) == [1, 1]


def test_helpers_need_no_help_and_any_number_of_callers_ends():
    def nested(job):
        return sum(in_threads(lambda part: part + job, range(6)))

    with ThreadPoolExecutor(12) as callers:
        assert list(callers.map(lambda job: in_threads(nested, [job] * 5), range(40))) == [
            [15 + 6 * job] * 5 for job in range(40)
        ]


@given(st.lists(st.integers(), max_size=40))
def test_results_are_yielded_in_the_order_of_the_jobs(jobs):
    assert list(map_in_threads(lambda job: job * 2, jobs)) == [job * 2 for job in jobs]


def test_jobs_are_begun_a_few_ahead_of_what_is_asked_for():
    begun = []
    for number, result in enumerate(map_in_threads(lambda job: begun.append(job) or job, range(60))):
        assert result == number
        assert len(begun) <= number + 9
    assert sorted(begun) == list(range(60))


def test_whoever_asks_for_results_works_too_and_nobody_has_help():
    together, workers = threading.Barrier(4), set()

    def work(job):
        workers.add(threading.get_ident())
        if job < 4:
            together.wait(10)
        return {threading.get_ident()} == set(in_threads(lambda _: threading.get_ident(), range(50)))

    assert list(map_in_threads(work, range(12))) == [True] * 12
    assert len(workers) == 4
    assert threading.get_ident() in workers
    assert not threads._sharing.on


def test_a_failure_comes_where_its_result_would_have():
    results = map_in_threads(lambda job: 1 // (job - 2), range(30))
    assert [next(results), next(results)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closing_waits_for_what_has_begun_and_begins_no_more():
    begun, ended = [], []

    def work(job):
        begun.append(job)
        time.sleep(0.01)
        ended.append(job)

    results = map_in_threads(work, range(100))
    next(results)
    results.close()
    assert sorted(begun) == sorted(ended)
    assert len(begun) <= 9
    time.sleep(0.05)
    assert len(begun) == len(ended)


PROGRAM = """
import os
from vitrail.core import threads
threads.thread_count = lambda: 3
print(threads.in_threads(str, range(5)))
if hasattr(os, "fork"):
    child = os.fork()
    if not child:
        os._exit(threads.in_threads(str, range(5)) != list("01234"))
    print(os.waitpid(child, 0)[1])
"""


def test_the_process_ends_and_a_forked_child_has_threads_of_its_own():
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)  # noqa: S603 - our own
    assert ended.stdout.split("\n")[0] == str(list("01234"))
    assert ended.stdout.split("\n")[1] in {"0", ""}


def test_workers_share_the_cores():
    each = max(1, cores() // 2)
    assert [int(share) for _, share in in_processes(os.getenv, ["VITRAIL_CORES"] * 2, 2)] == [each, each]


@pytest.mark.parametrize(("value", "wanted"), [("1", 1), ("0", 1), ("99999", None), ("many", None), ("", None)])
def test_the_environment_bounds_the_cores(monkeypatch, value, wanted):
    monkeypatch.delenv("VITRAIL_CORES", raising=False)
    present = cores()
    monkeypatch.setenv("VITRAIL_CORES", value)
    assert cores() == (wanted or present)
