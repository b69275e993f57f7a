from __future__ import annotations

import importlib
import mmap
import multiprocessing
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from vitrail.synthetic import write_slide


@pytest.fixture(scope="module")
def benches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(Path(__file__).parents[2]), *sys.path])
        yield importlib.import_module("bench.train"), importlib.import_module("bench.growth")


@pytest.fixture
def train(benches):
    return benches[0]


@pytest.fixture
def growth(benches):
    return benches[1]


@pytest.fixture(scope="module", params=["classifier", "segmenter"])
def job(request, benches, tmp_path_factory):
    train = benches[0]
    found = train.Job(
        task=request.param, folder=tmp_path_factory.mktemp("tiles"), encoder="test_efficientnet", side=64, batch=4,
        steps=2, rounds=2, threads=1,
    )  # fmt: skip
    train.write_tiles(found)
    return found


def contend(train, name, job):
    """Be the parent of a contender that is a thread here; return its rates and its losses."""
    here, there = multiprocessing.Pipe()
    contender = threading.Thread(target=train.contend, args=(name, job, there))
    contender.start()
    rates = []
    for _ in range(job.rounds + 1):
        here.send("go")
        rates.append(here.recv())
    losses = here.recv()
    contender.join()
    return np.array(rates), losses


@pytest.mark.parametrize("name", ["VITRAIL", "PLAIN", "BARE"])
def test_contenders_train_when_it_is_their_turn(train, job, name, monkeypatch):
    monkeypatch.setattr(train, "keep_memory", lambda: True)  # it would change the memory of all further tests
    monkeypatch.setattr("vitrail.training.trainer.keep_memory", lambda: True)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    rates, losses = contend(train, getattr(train, name), job)
    assert rates.shape == (3, 3)
    assert np.isfinite(rates).all()
    assert (rates > 0).all()
    assert train.Taken(rates=rates, losses=losses).learnt


def test_the_first_step_of_training_and_of_validation_is_not_timed(train, job, monkeypatch):
    clock = iter([1.0, 3.0, 10.0, 14.0])
    used = iter([0.0, 5.0, 6.0, 7.0])
    monkeypatch.setattr(train.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(train, "processor", lambda: next(used))
    here, there = multiprocessing.Pipe()
    here.send("go")
    here.send("go")
    laps = train.Laps(job, there)
    laps.wait()
    for _ in range(1 + job.steps + job.looks):
        laps.step()
    trained = job.steps * job.batch
    assert here.recv() == [trained / 2.0, (job.looks - 1) * job.batch / 4.0, trained / 5.0]


def test_ratios_are_taken_within_a_round(train, capsys):
    """A machine that is ten times slower in one round changes tiles a second, but no ratio."""
    slow = np.array([[1.0], [10.0], [1.0]]) * np.ones(3)
    rates = {train.VITRAIL: 6 / slow, train.PLAIN: 2 / slow, train.WORKERS: 3 / slow, train.BARE: 6.3 / slow}
    taken = {name: train.Taken(rates=rate, losses=[1.0, 0.5]) for name, rate in rates.items()}
    np.testing.assert_allclose(train.ratio(taken, train.VITRAIL, train.PLAIN), 3)
    shared = {"encoder": "", "side": 64, "batch": 4, "steps": 2, "rounds": 3, "threads": 1}
    job = train.Job(task="classifier", folder=None, **shared)
    for gpu in (False, True):
        train.goals(job, taken, gpu=gpu)
    words = [line.split()[-2:] for line in capsys.readouterr().out.splitlines()]
    assert [word[-1] for word in words] == ["met"] * 4 + ["measured"] + ["met"] * 5
    assert [word[0] for word in words] == [
        *["(3.00..3.00)"] * 2, "NOT", "NOT", "not", *["(3.00..3.00)"] * 2, "NOT", "NOT", "(0.95..0.95)",
    ]  # fmt: skip


def test_a_loss_that_does_not_fall_is_told(train):
    for losses in ([0.5, 0.6], [float("nan"), 0.1], [0.5, float("inf")]):
        assert not train.Taken(rates=np.ones((1, 2)), losses=losses).learnt


def test_a_larger_slide_repeats_the_small_one(growth, tmp_path):
    small = write_slide(tmp_path, "block", side_px=1024)
    large = growth.enlarge(small, tmp_path / "large.tif", 2)
    with tifffile.TiffFile(small) as one, tifffile.TiffFile(large) as four:
        assert len(four.pages) >= 2
        for block, page in zip(one.pages, four.pages, strict=False):
            np.testing.assert_array_equal(page.asarray(), np.tile(block.asarray(), (2, 2, 1)))
            assert page.resolution == block.resolution


def test_growth_is_the_power_of_the_size(growth, capsys):
    sizes = [10.0, 20.0, 40.0]
    assert growth.exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)
    spent = [growth.Spent(seconds=size**1.5, cpu=size, peak=size, own=1.0, workers=0.0) for size in sizes]
    growth.growth_goals(sizes, spent)
    words = [line.split()[-2:] for line in capsys.readouterr().out.splitlines()]
    assert [word[-1] for word in words] == ["met"] * 4
    assert [word[0] for word in words] == ["NOT", "1.00", "NOT", "1.00"]


def test_own_memory_is_seen(growth):
    if not growth.STATUS.is_file():
        pytest.skip("the kernel tells nothing about a process")
    before, watch = growth.status("RssAnon"), growth.Watch()
    with watch.looking():
        # memory that no allocator had before
        block = np.frombuffer(mmap.mmap(-1, 240_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
        block[::1024] = 1
        threading.Event().wait(0.1)
    assert watch.most - before > 0.9 * block.nbytes
    assert np.isnan(growth.status("NoSuchThing"))
