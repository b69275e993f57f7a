from __future__ import annotations

import threading

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
