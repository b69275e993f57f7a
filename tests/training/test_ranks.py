"""A training that several processes share gives the numbers of one process, and files of one writer."""

from __future__ import annotations

import shutil
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from helpers.cohort import FAST
from helpers.command import vitrail
from helpers.ranks import together
from helpers.training import Killer, contents, history, make_tiles, settings
from vitrail import cli
from vitrail.core.files import write_table
from vitrail.errors import ModelError
from vitrail.tiles.store import read_tiles
from vitrail.training import torchrun
from vitrail.training.checkpoint import Checkpoint
from vitrail.training.loader import Share, training_tiles
from vitrail.training.torchrun import helpers, run_together
from vitrail.training.trainer import train

TILES = 36  # 27 to train with: a batch of 16 and one of 11
COMMON = {"learning_rate": 1e-4, "batch": 16, "epochs": 1}


def write_tiles(folder):
    tiles = make_tiles(TILES)
    folder.mkdir(parents=True)
    write_table(folder / "tiles.parquet", tiles.rows.assign(patient_id="P"))
    np.save(folder / "images.npy", tiles.images)
    np.save(folder / "masks.npy", tiles.masks)
    return folder


def parts_of(folder):
    return training_tiles(read_tiles(folder), np.where(np.arange(TILES) < TILES * 3 // 4, "train", "validation"))


def changed(own, **branches):
    update = {name: getattr(own, name).model_copy(update=values) for name, values in branches.items()}
    return own.model_copy(update=update)


RECIPE = settings(**COMMON, schedule="one_cycle", optimizer="adamw", weight_decay=0.01, ema=0.5, mixup=0.4, cutmix=1.0)
STAINS = {"stain": 0.2, "stain_templates": 0.5, "jpeg": 0.5, "scale": 0.1}
FOCAL, WEIGHTS = {"loss": "focal", "glass": 0.1, "accumulate": 2}, {"class_weights": (1.0, 2.0, 1.0, 1.0)}
DICE, LINEAR = {"loss": "dice_cross_entropy"} | WEIGHTS, {"architecture": "linear", "loss": "cross_entropy"} | WEIGHTS
FROZEN = {"encoder": {"frozen": True}}
STUDIES = {
    "classifier": changed(RECIPE, augment=STAINS, classifier=FOCAL),
    "segmenter": changed(RECIPE, augment=STAINS, segmenter=DICE),
    "classifier features": changed(settings(**COMMON), **FROZEN, classifier={"glass": 0.1}),
    "segmenter features": changed(settings(**COMMON), **FROZEN, segmenter=LINEAR),
}


def train_all(tiles, folder):
    """Train all studies; and one more, of which the folder is copied behind its first epoch, and gone on with."""
    for name, own in STUDIES.items():
        train(name.split()[0], parts_of(tiles), own, folder=folder / name, gather=helpers(tiles))
    save = Checkpoint.save

    def copying(checkpoint, state, scores, ranks=1):
        save(checkpoint, state, scores, ranks)
        if len(scores) == 1:
            shutil.copytree(checkpoint.folder, folder / "stopped")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Checkpoint, "save", copying)
        train("segmenter", parts_of(tiles), TWO_EPOCHS, folder=folder / "whole", gather=helpers(tiles))
    shutil.copytree(folder / "stopped", folder / "resumed")
    train("segmenter", parts_of(tiles), TWO_EPOCHS, folder=folder / "resumed", gather=helpers(tiles))


TWO_EPOCHS = settings(**COMMON | {"epochs": 2})


def train_all_together(tiles, folder):
    run_together(lambda: train_all(tiles, folder))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    tiles = write_tiles(folder / "tiles")
    codes, said = together(folder, train_all_together, tiles, folder / "two")
    assert (codes, said) == ([0, 0], ["", ""])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "get_num_threads", lambda: 1)
        train_all(tiles, folder / "one")
    return folder


def check_likeness(one, two):
    """Losses agree to rounding; so do weights, all in all: those that nothing depends on drift, as Adam has it."""
    np.testing.assert_allclose(history(two).to_numpy(), history(one).to_numpy(), rtol=1e-5)
    first, second = (load_file(folder / "weights.safetensors") for folder in (one, two))
    assert first.keys() == second.keys()
    both = [torch.cat([each[key].double().flatten() for key in first]) for each in (first, second)]
    assert float((both[0] - both[1]).norm() / both[0].norm()) < 1e-4


@pytest.mark.parametrize("name", STUDIES)
def test_two_processes_come_to_the_numbers_of_one(trained, name):
    check_likeness(trained / "one" / name, trained / "two" / name)
    assert set(contents(trained / "two" / name)) == {"model.json", "weights.safetensors", "history.csv"}


def test_a_shared_training_that_was_stopped_ends_with_the_same_bytes(trained):
    assert "checkpoint.safetensors" in contents(trained / "two" / "stopped")
    assert contents(trained / "two" / "resumed") == contents(trained / "two" / "whole")


def test_another_number_of_processes_begins_anew(trained, tmp_path):
    shutil.copytree(trained / "two" / "stopped", tmp_path / "alone")
    progress = Killer()
    train("segmenter", parts_of(trained / "tiles"), TWO_EPOCHS, folder=tmp_path / "alone", progress=progress)
    assert progress.begun == ("segmenter", 6, 0)
    assert contents(tmp_path / "alone") == contents(trained / "one" / "whole")


SMALL_REST = settings(**COMMON | {"batch": 25})


def train_with_a_small_rest(tiles, folder):
    run_together(lambda: train("segmenter", parts_of(tiles), SMALL_REST, folder=folder, gather=helpers(tiles)))


def test_a_process_may_have_no_tile_of_a_batch(tmp_path):
    """Of a last batch of two tiles one of three processes has none; so few, when normalised, make much of rounding."""
    tiles = write_tiles(tmp_path / "tiles")
    codes, said = together(tmp_path, train_with_a_small_rest, tiles, tmp_path / "three", ranks=3)
    assert (codes, said) == ([0] * 3, [""] * 3)
    train("segmenter", parts_of(tiles), SMALL_REST, folder=tmp_path / "one")
    scores = [history(tmp_path / name).to_numpy() for name in ("three", "one")]
    np.testing.assert_allclose(*scores, rtol=1e-3)


def test_one_process_does_the_command_and_says_what_came_out(cohort, tmp_path):
    run = tmp_path / "run"
    changes = [part for change in (*FAST, "segmenter.epochs=1") for part in ("--set", change)]
    assert vitrail("init", run, "--slides", cohort, "--preset", "quick", *changes) == 0
    codes, (first, second) = together(tmp_path, cli.main, ["segmenter", str(run)])
    assert codes == [0, 0]
    assert first.splitlines()[-1] == f"segmenter: {run / 'segmenter'}"
    assert second == ""
    assert {path.name for path in run.iterdir()} == {
        "study.toml", "slides.csv", ".lock", "tiles", "split", "segmenter",
    }  # fmt: skip


def test_what_goes_wrong_in_the_first_process_is_one_line_and_ends_all(tmp_path):
    codes, (first, second) = together(tmp_path, cli.main, ["classifier", str(tmp_path)])
    assert codes == [2, 2]
    assert first.startswith(f"vitrail: {tmp_path}: not a run folder")
    assert first.count("\n") == 1
    assert second == ""


def train_where_one_fails(tiles, folder):
    def fail(*_):
        raise ModelError("a disk", "is full", "Empty it")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torchrun, "take_part", fail)
        patched.setattr(torchrun, "GRACE_S", 1.0)
        train_all_together(tiles, folder)


def test_what_goes_wrong_in_another_process_is_one_line_of_the_first(tmp_path):
    tiles, begun = write_tiles(tmp_path / "tiles"), time.monotonic()
    codes, (first, second) = together(tmp_path, train_where_one_fails, tiles, tmp_path / "model")
    assert codes == [2, 2]
    assert first.startswith("vitrail: process 1 on ")
    assert first.endswith(": a disk: is full. Empty it.\n")
    assert first.count("\n") == 1
    assert second == ""
    assert time.monotonic() - begun < 200  # and not the hours that processes wait for each other


def test_a_worker_process_of_a_command_that_torchrun_started_trains_alone(tmp_path, monkeypatch):
    """Variables are inherited; who leads others is this process's own."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert helpers(tmp_path) is None


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 5))
def test_shares_are_the_batch_in_parts_that_do_not_depend_on_the_processes(total, parts, ranks):
    alone = Share.of(total, parts=parts)
    shares = [Share.of(total, parts=parts, rank=rank, ranks=ranks) for rank in range(ranks)]
    whole = torch.arange(total)
    assert alone.take(whole) is whole
    begin = 0
    for number, part in enumerate(alone.parts):
        own = [share.parts[number] for share in shares]
        rows = [share.take(whole)[each.own] for share, each in zip(shares, own, strict=True)]
        assert all(len(each) for each in rows)
        working = [each for each, of in zip(rows, own, strict=True) if not of.is_idle]
        assert torch.cat(working).tolist() == list(range(begin, begin + part.tiles))
        assert {each.tiles for each in own} == {part.tiles}
        begin += part.tiles
    assert begin == total
    assert len(alone.parts) == 1 or min(part.tiles for part in alone.parts) >= 2
