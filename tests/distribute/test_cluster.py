"""Work on a dask cluster: deaths, refusals, faults, and workers that do not fit."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
from contextlib import contextmanager, suppress

import dask
import pytest
from distributed import Client, Nanny, Scheduler, SpecCluster

from helpers import searching
from vitrail.distribute import cluster as module
from vitrail.distribute.cluster import Cluster
from vitrail.distribute.jobs import Jobs
from vitrail.errors import ModelError, RunError, SettingsError
from vitrail.training.workers import DEATHS


def local_cluster(folder, workers):
    """Start a cluster on this machine, as somebody else would."""
    options = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    nanny = options | {"nthreads": 1, "local_directory": str(folder / "scratch"), "silence_logs": logging.CRITICAL}
    with dask.config.set({"distributed.scheduler.allowed-failures": DEATHS}):
        return SpecCluster(
            workers={number: {"cls": Nanny, "options": nanny} for number in range(workers)},
            scheduler={"cls": Scheduler, "options": options | {"port": 0}},
            silence_logs=logging.CRITICAL,
        )


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A scheduler with two workers, each a process of its own."""
    with local_cluster(tmp_path_factory.mktemp("cluster"), 2) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def cluster(address, tmp_path):
    return Cluster(scheduler=address, folder=tmp_path)


def file_of(job):
    folder, number = job
    return folder / f"{number}.txt"


def jobs_of(folder, numbers, work=searching.touch):
    return Jobs(
        title="tests",
        work=work,
        jobs={f"job {number}": (folder, number) for number in numbers},
        is_done=lambda job: file_of(job).exists(),
    )


def attempts(folder, number):
    return len(file_of((folder, number)).read_text().splitlines())


def test_each_job_is_done_once_and_by_both_workers(cluster, tmp_path):
    file_of((tmp_path, 8)).write_text("it is done\n")
    ended = list(cluster.run(jobs_of(tmp_path, range(9))))
    assert sorted(ended) == [(f"job {number}", None) for number in range(8)]
    assert [attempts(tmp_path, number) for number in range(9)] == [1] * 9
    assert len({file_of((tmp_path, number)).read_text() for number in range(8)}) == 2
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".txt"] * 9


def test_a_worker_that_dies_is_replaced_and_its_job_done_again(cluster, tmp_path):
    ended = dict(cluster.run(jobs_of(tmp_path, range(4), searching.die_once)))
    assert ended == dict.fromkeys(f"job {number}" for number in range(4))
    assert [attempts(tmp_path, number) for number in range(4)] == [1, 2, 1, 1]


def test_a_job_that_kills_every_worker_is_given_up_and_the_others_finish(cluster, tmp_path):
    ended = dict(cluster.run(jobs_of(tmp_path, (0, -2, 1, -1, 2, 3))))
    assert [ended[f"job {number}"] for number in range(4)] == [None] * 4
    assert isinstance(ended["job -1"], ModelError)
    assert "it is refused" in str(ended["job -1"])
    assert "cost several workers their lives" in str(ended["job -2"])
    assert attempts(tmp_path, -2) == DEATHS + 1
    assert [attempts(tmp_path, number) for number in range(4)] == [1] * 4


def test_a_fault_is_raised_as_it_is(cluster, tmp_path):
    with pytest.raises(ZeroDivisionError, match="a fault"):
        list(cluster.run(jobs_of(tmp_path, [-3])))


def test_workers_that_do_not_fit_are_refused(cluster, tmp_path, monkeypatch):
    cluster.check()
    for found, said in ((("0.0.1", True), "it has Vitrail 0.0.1"), ((module.vitrail.__version__, False), "see")):
        monkeypatch.setattr(module, "_look", lambda _probe, found=found: found)
        with pytest.raises(RunError, match=said):
            cluster.check()
    assert not list(tmp_path.iterdir())


def test_what_a_worker_wrote_elsewhere_is_told(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_VISIBLE_AFTER", 0.1)
    jobs = jobs_of(tmp_path, [1])
    unseen = Jobs(title=jobs.title, work=jobs.work, jobs=jobs.jobs, is_done=lambda _job: False)
    with pytest.raises(RunError, match=r"what a worker wrote \(job 1\) is not seen here"):
        list(cluster.run(unseen))


@pytest.mark.parametrize("scheduler", ["tcp://127.0.0.1:9", "nonsense://x", "tcp://"])
def test_a_scheduler_that_is_not_there_is_told_in_one_line(tmp_path, monkeypatch, scheduler):
    monkeypatch.setattr(module, "_PATIENCE", 1)
    with pytest.raises(RunError, match="no dask scheduler can be reached") as caught:
        Cluster(scheduler=scheduler, folder=tmp_path).check()
    assert "\n" not in str(caught.value)


def test_without_the_extra_a_scheduler_is_refused_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda _name: None)
    with pytest.raises(SettingsError) as caught:
        Cluster(scheduler="tcp://127.0.0.1:9", folder=tmp_path)
    assert str(caught.value).endswith("Run: pip install 'vitrail[cluster]'.")


@contextmanager
def workers_killed(address, seed, kills=2):
    """Kill workers at random while the block runs."""
    draw, ended = random.Random(seed), threading.Event()  # noqa: S311 - no secret

    def kill(client):
        for _ in range(kills):
            if ended.wait(draw.uniform(0.1, 0.6)):
                return
            pids = client.run(os.getpid, on_error="ignore")
            if pids:
                with suppress(ProcessLookupError):
                    os.kill(draw.choice(sorted(pids.values())), signal.SIGKILL)

    with Client(address, set_as_default=False) as client:
        killer = threading.Thread(target=kill, args=(client,))
        killer.start()
        yield
        ended.set()
        killer.join()


def test_workers_killed_at_random_change_no_byte(address, cluster, tmp_path):
    jobs = jobs_of(tmp_path, range(24), searching.write_slowly)
    with workers_killed(address, 1):
        ended = dict(cluster.run(jobs))
    assert ended == dict.fromkeys(jobs.jobs)
    assert {path.name for path in tmp_path.glob("*.txt")} == {f"{number}.txt" for number in range(24)}
    for number in range(24):
        assert file_of((tmp_path, number)).read_text() == searching.text_of(number)
