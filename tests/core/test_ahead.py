from __future__ import annotations

import threading

import pytest

from vitrail.core.ahead import work_ahead


@pytest.mark.parametrize("ahead", [1, 3])
def test_results_come_in_order_and_no_further_ahead_than_asked(ahead):
    begun, thread = [], set()

    def read(job):
        begun.append(job)
        thread.add(threading.current_thread())
        return job * 10

    for number, result in enumerate(work_ahead(read, range(8), ahead)):
        assert result == number * 10
        assert len(begun) <= min(number + 1 + ahead, 8)
    assert begun == list(range(8))
    assert len(thread) == 1
    assert thread != {threading.current_thread()}
    assert list(work_ahead(read, [])) == []


def test_a_failure_comes_where_its_result_would_have():
    results = work_ahead(lambda job: 1 // job, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_failing_job_lets_the_results_before_it_through():
    def jobs():
        yield from (1, 2)
        raise OSError("disk")

    results = work_ahead(lambda job: 10 * job, jobs(), ahead=5)
    assert [next(results), next(results)] == [10, 20]
    with pytest.raises(OSError, match="disk"):
        next(results)


def test_threads_work_at_the_same_time_and_results_stay_in_order():
    meeting = threading.Barrier(3, timeout=30)

    def work(job):
        meeting.wait()  # breaks unless three are here at once
        return job

    assert list(work_ahead(work, range(9), ahead=3, threads=3)) == list(range(9))


def test_a_pipeline_holds_no_more_than_it_may():
    read, looked = [], []
    first = work_ahead(lambda job: read.append(job) or job, range(100), ahead=2, threads=2)
    second = work_ahead(lambda job: looked.append(job) or -job, first, ahead=3)
    for number in range(10):
        assert next(second) == -number
        assert len(looked) <= number + 1 + 3
        assert len(read) <= number + 1 + 3 + 2
    second.close()
    first.close()
    assert len(read) < 20
