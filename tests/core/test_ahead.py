from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from vitrail.core.ahead import read_ahead


@pytest.mark.parametrize("ahead", [1, 3])
def test_results_come_in_order_and_no_further_ahead_than_asked(ahead):
    begun, thread = [], set()

    def read(job):
        begun.append(job)
        thread.add(threading.current_thread())
        return job * 10

    for number, result in enumerate(read_ahead(read, range(8), ahead)):
        assert result == number * 10
        assert len(begun) <= min(number + 1 + ahead, 8)
    assert begun == list(range(8))
    assert len(thread) == 1
    assert thread != {threading.current_thread()}
    assert list(read_ahead(read, [])) == []


def test_a_failure_comes_where_its_result_would_have():
    results = read_ahead(lambda job: 1 // job, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize("threads", [2, 5])
def test_several_threads_give_results_in_order_and_go_no_further_ahead(threads):
    begun = []

    def read(job):
        begun.append(job)
        return job * 10

    for number, result in enumerate(read_ahead(read, range(40), 3, threads)):
        assert result == number * 10
        assert len(begun) <= number + 4
    assert sorted(begun) == list(range(40))


def test_what_is_not_asked_for_any_more_is_not_begun(monkeypatch):
    begun, cancelled, hold, cancel = [], [], threading.Event(), Future.cancel

    def counted(job):
        cancelled.append(cancel(job))
        if len(cancelled) == 6:  # all of them
            hold.set()
        return cancelled[-1]

    monkeypatch.setattr(Future, "cancel", counted)
    results = read_ahead(lambda job: begun.append(job) or (job and hold.wait(10)), range(40), 6, 2)
    next(results)
    results.close()
    assert sum(cancelled) >= 4
    assert len(begun) <= 3
