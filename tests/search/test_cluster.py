"""Work on a dask cluster: deaths, refusals, faults, Ctrl-C, and a cluster that is there already."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from distributed import Nanny, Scheduler, SpecCluster

from helpers import searching
from vitrail.errors import ModelError, RunError
from vitrail.search import cluster
from vitrail.search.cluster import DEATHS, Place, connected, in_cluster
from vitrail.settings.schema import ComputeSettings

SOON = 20
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process that lets no thread run")

SCRIPT = """
import sys
from pathlib import Path
from helpers import searching
from vitrail.search.cluster import Place, connected, in_cluster

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with connected(Place(folder=folder, workers=2)) as client:
        work = getattr(searching, sys.argv[2])
        for job, _ in in_cluster(client, work, [(folder, n) for n in range(5)]):
            print("one", flush=True)
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with connected(Place(folder=tmp_path_factory.mktemp("seen"), workers=2)) as client:
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


@pytest.mark.parametrize(
    ("name", "work"),
    [
        ("SIGINT", "sleep_after_the_first"),
        ("SIGKILL", "sleep_after_the_first"),
        pytest.param("SIGKILL", "hold_after_the_first", marks=LINUX),
        pytest.param("SIGTERM", "hold_after_the_first", marks=LINUX),
    ],
)
def test_workers_end_with_their_parent(tmp_path, name, work):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    places = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")])
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}  # background jobs ignore it
    parent = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, script, tmp_path, work], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": places}, start_new_session=True, **heed,
    )  # fmt: skip
    assert parent.stdout.readline() == "one\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) >= 2
    if name == "SIGINT":  # as a terminal does: to the workers, too
        os.killpg(parent.pid, signal.SIGINT)
    else:
        parent.send_signal(getattr(signal, name))
    said = parent.communicate(timeout=SOON)[1]  # the workers hold its output open for as long as they live
    assert "Nanny" not in said
    assert parent.returncode != 0
    assert psutil.wait_procs(children, timeout=SOON)[1] == []


@pytest.fixture
def remote(tmp_path):
    """A cluster that is there already, with one worker."""
    options = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    workers = {0: {"cls": Nanny, "options": options | {"nthreads": 4, "local_directory": str(tmp_path / "scratch")}}}
    with SpecCluster(workers=workers, scheduler={"cls": Scheduler, "options": options | {"port": 0}}) as there:
        yield there


def test_a_cluster_that_is_there_already_does_the_work_and_lives_on(remote, tmp_path, monkeypatch):
    place = Place(folder=tmp_path, scheduler=remote.scheduler_address)
    with connected(place) as client:
        assert list(in_cluster(client, searching.touch, [(tmp_path, 7)])) == [((tmp_path, 7), None)]
    assert (tmp_path / "7.txt").is_file()
    assert len(remote.scheduler.workers) == 1
    for found, said in ((("0.0.1", True), "it has Vitrail 0.0.1"), ((cluster.vitrail.__version__, False), "see")):
        monkeypatch.setattr(cluster, "_look", lambda _probe, found=found: found)
        with pytest.raises(RunError, match=said), connected(place):
            pass
    assert not (tmp_path / ".seen").exists()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x", "tcp://"])
def test_a_scheduler_that_is_not_there_is_told_in_one_line(tmp_path, monkeypatch, address):
    monkeypatch.setattr(cluster, "_PATIENCE", 1)
    with (
        pytest.raises(RunError, match="no dask scheduler can be reached") as caught,
        closing(connected(Place(folder=tmp_path, scheduler=address)).gen) as opened,
    ):
        next(opened)
    assert "\n" not in str(caught.value)


def test_gpus_are_dealt_one_a_worker(tmp_path, monkeypatch):
    compute = ComputeSettings(workers=0)
    monkeypatch.setattr(cluster, "_gpus", lambda _device: ("3", "5"))
    place = cluster.place_for(tmp_path, compute, jobs=9)
    assert [cluster._environment(place, i)["CUDA_VISIBLE_DEVICES"] for i in range(place.workers)] == ["3", "5"]
    assert cluster.place_for(tmp_path, ComputeSettings(workers=7), jobs=9).workers == 2
    monkeypatch.setattr(cluster, "_gpus", lambda _device: ())
    assert cluster.place_for(tmp_path, ComputeSettings(workers=7), jobs=3).workers == 3
    assert "CUDA_VISIBLE_DEVICES" not in cluster._environment(cluster.place_for(tmp_path, compute, jobs=9), 0)
