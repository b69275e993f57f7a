"""Work on a dask cluster: deaths, refusals, faults, and workers that do not fit."""

from __future__ import annotations

import logging
from contextlib import closing

import dask
import pytest
from distributed import Nanny, Scheduler, SpecCluster

from helpers import searching
from vitrail.errors import ModelError, RunError
from vitrail.search import cluster
from vitrail.search.cluster import connected, in_cluster
from vitrail.search.workers import train_cells
from vitrail.settings.schema import ComputeSettings
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
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seen")
    with local_cluster(folder, 2) as cluster, connected(folder, cluster.scheduler_address) as client:
        yield client


def attempts(folder, number):
    return len((folder / f"{number}.txt").read_text().splitlines())


def test_each_job_is_done_once_and_by_both_workers(client, tmp_path):
    jobs = [(tmp_path, number) for number in range(8)]
    done = list(in_cluster(client, searching.touch, jobs))
    assert sorted(job for job, _ in done) == jobs
    assert {error for _, error in done} == {None}
    assert [attempts(tmp_path, number) for number in range(8)] == [1] * 8


def test_a_worker_that_dies_is_replaced_and_its_job_done_again(client, tmp_path):
    jobs = [(tmp_path, number) for number in range(4)]
    done = dict(in_cluster(client, searching.die_once, jobs))
    assert done == dict.fromkeys(jobs)
    assert [attempts(tmp_path, number) for number in range(4)] == [1, 2, 1, 1]


def test_a_job_that_kills_every_worker_is_given_up_and_the_others_finish(client, tmp_path):
    jobs = [(tmp_path, number) for number in (0, -2, 1, -1, 2, 3)]
    done = {job[1]: error for job, error in in_cluster(client, searching.touch, jobs)}
    assert [done[number] for number in range(4)] == [None] * 4
    assert isinstance(done[-1], ModelError)
    assert "it is refused" in str(done[-1])
    assert "cost several workers their lives" in str(done[-2])
    assert attempts(tmp_path, -2) == DEATHS + 1
    assert [attempts(tmp_path, number) for number in range(4)] == [1] * 4


def test_a_fault_is_raised_as_it_is(client, tmp_path):
    with pytest.raises(ZeroDivisionError, match="a fault"):
        list(in_cluster(client, searching.touch, [(tmp_path, -3)]))


def test_a_cluster_does_the_work_and_lives_on(client, tmp_path, monkeypatch):
    address = client.scheduler.address
    with connected(tmp_path, address) as another:
        assert list(in_cluster(another, searching.touch, [(tmp_path, 7)])) == [((tmp_path, 7), None)]
    assert (tmp_path / "7.txt").is_file()
    client.wait_for_workers(2)
    for found, said in ((("0.0.1", True), "it has Vitrail 0.0.1"), ((cluster.vitrail.__version__, False), "see")):
        monkeypatch.setattr(cluster, "_look", lambda _probe, found=found: found)
        with pytest.raises(RunError, match=said), connected(tmp_path, address):
            pass
    assert not (tmp_path / ".seen").exists()


def test_cells_are_trained_on_a_cluster(client, tmp_path, monkeypatch):
    monkeypatch.setattr("vitrail.search.workers.run_cell", searching.touch)
    ended = train_cells([(tmp_path, 1), (tmp_path, -1)], ComputeSettings(), tmp_path, client.scheduler.address)
    assert {job[1]: type(error) for job, error in ended} == {1: type(None), -1: ModelError}


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x", "tcp://"])
def test_a_scheduler_that_is_not_there_is_told_in_one_line(tmp_path, monkeypatch, address):
    monkeypatch.setattr(cluster, "_PATIENCE", 1)
    with (
        pytest.raises(RunError, match="no dask scheduler can be reached") as caught,
        closing(connected(tmp_path, address).gen) as opened,
    ):
        next(opened)
    assert "\n" not in str(caught.value)
