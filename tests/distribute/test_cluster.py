"""Work on a dask cluster: deaths, refusals, faults, and workers that do not fit."""

from __future__ import annotations

import logging
import os
import random
import re
import signal
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import dask
import pytest
from distributed import Client, Nanny, Scheduler, SpecCluster, Worker

from helpers import searching
from helpers.cohort import FAST, write_cohort
from helpers.command import vitrail
from helpers.explained_run import work_on, write_run
from vitrail.core.parallel import Threads
from vitrail.core.progress import Silent
from vitrail.distribute import cluster as module
from vitrail.distribute.cluster import Cluster
from vitrail.distribute.jobs import Jobs
from vitrail.errors import ModelError, RunError, SettingsError
from vitrail.explain.study import jobs as explaining
from vitrail.explain.study.stage import explain_study
from vitrail.pipeline.run import new_run
from vitrail.settings.load import Settings
from vitrail.slides.cohort import CohortSlide
from vitrail.tiles.extract import CutJob, cut_part
from vitrail.training.workers import DEATHS


def local_cluster(folder, workers, kind=Nanny):
    """Start a cluster on this machine, as somebody else would; a nanny starts a process for each worker."""
    options = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    own = options | {"nthreads": 1, "local_directory": str(folder / "scratch")}
    own |= {"silence_logs": logging.CRITICAL} if kind is Nanny else {}
    with dask.config.set({"distributed.scheduler.allowed-failures": DEATHS}):
        return SpecCluster(
            workers={number: {"cls": kind, "options": own} for number in range(workers)},
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


def test_paths_mean_the_same_to_a_worker(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list(cluster.run(jobs_of(Path(), [5]))) == [("job 5", None)]
    assert attempts(tmp_path, 5) == 1


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
    # a result that nobody had asked for yet is made again when the worker that holds it dies
    assert all(1 <= attempts(tmp_path, number) <= 2 for number in range(4))


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
    monkeypatch.setattr("vitrail.distribute.jobs._VISIBLE_AFTER", 0.1)
    jobs = jobs_of(tmp_path, [1])
    unseen = Jobs(title=jobs.title, work=jobs.work, jobs=jobs.jobs, is_done=lambda _job: False)
    with pytest.raises(RunError, match=r"^job 1: what another process wrote of it \(tests\) is not seen here"):
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
            with suppress(TimeoutError):  # a nanny gives a worker up that is killed before it has begun
                client.wait_for_workers(2, timeout=20)
            if ended.wait(draw.uniform(0.5, 1)):
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


def content(folder):
    """Return the bytes of all files, but for the seconds that a stage has taken."""
    files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {path: re.sub(rb'"seconds": [0-9.]+', b"", data) for path, data in files.items()}


def test_tiles_from_a_cluster_whose_workers_are_killed_are_those_of_one_process(address, tmp_path, monkeypatch):
    slides = write_cohort(tmp_path / "cohort", 8)
    (tmp_path / "cohort" / "S3.tif").write_bytes(b"no slide")
    monkeypatch.chdir(tmp_path)  # a relative path says nothing to a worker
    for name in ("plain", "cluster"):
        new_run(Path(name), slides, "quick", FAST)
    assert vitrail("tiles", "plain") == 2
    with workers_killed(address, 3):
        assert vitrail("tiles", "cluster", "--scheduler", address) == 2  # one slide is skipped
    assert content(Path("cluster/tiles")) == content(Path("plain/tiles"))
    assert not list(Path("cluster").glob(".partial/*"))


def test_a_worker_that_does_not_see_a_slide_ends_the_work(tmp_path):
    entry = CohortSlide(slide_id="S", patient_id="P", slide=tmp_path / "gone.tif", annotations=tmp_path / "gone.json")
    job = CutJob(entry=entry, settings=Settings(), part=tmp_path / "part", seen=(entry.slide,))
    with pytest.raises(RunError, match=r"does not see .*gone\.tif"):
        cut_part(job, Silent())


def test_explanations_from_a_cluster_are_those_of_one_process(tmp_path, monkeypatch):
    """The worker is a thread of this process, which has imported torch already."""
    monkeypatch.setattr(explaining, "BLOCK", 32)
    (tmp_path / "run").mkdir()
    run = write_run(tmp_path / "run")
    with (
        Threads(torch=1, blas=1).applied(),  # more would get into each other's way for so little
        local_cluster(tmp_path, 1, Worker) as started,
    ):
        cluster = Cluster(scheduler=started.scheduler_address, folder=tmp_path)
        for name, executor in (("plain", None), ("cluster", cluster)):
            work = work_on(run, tmp_path / name)
            compute = work.run.settings.compute.model_copy(update={"engine": "torch"})
            settings = work.run.settings.model_copy(update={"compute": compute})
            explain_study(replace(work, run=replace(work.run, settings=settings), executor=executor))
    assert content(tmp_path / "cluster") == content(tmp_path / "plain")
