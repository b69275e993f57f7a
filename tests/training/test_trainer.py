from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from helpers.training import SIDE, make_parts, make_tiles, settings
from vitrail.errors import ModelError, SettingsError, TileError
from vitrail.inference.predictor import Predictor
from vitrail.models.preprocessing import Normalizer, intensities
from vitrail.models.store import Model, load_model
from vitrail.settings.load import Settings
from vitrail.settings.schema import AugmentSettings, ComputeSettings
from vitrail.training.checkpoint import EpochScores, best_epoch
from vitrail.training.loader import Loader, channel_statistics, cut, parts, shuffled
from vitrail.training.preflight import check_start
from vitrail.training.tasks import TRAINING_TASKS
from vitrail.training.trainer import _seeds, train

TASKS = ("classifier", "segmenter")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def history(folder):
    return pd.read_csv(folder / "history.csv", index_col="epoch")


class Killed(Exception):  # noqa: N818 - it stands for a signal
    pass


class Killer:
    """Ends a training after some steps; remembers all notes."""

    def __init__(self, after=10**9):
        self.left, self.notes, self.begun = after, [], None

    @contextmanager
    def task(self, title, total, done=0):
        self.begun = (title, total, done)

        def step(n=1, note=""):
            self.left -= n
            self.notes.append(note)
            if self.left < 0:
                raise Killed

        yield step

    def say(self, line):
        self.notes.append(line)


@pytest.mark.parametrize("task", TASKS)
def test_it_learns_the_rule_and_writes_a_model_folder(task, tmp_path):
    chosen, part = settings(epochs=10), make_parts()
    progress = Killer()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    train(task, part, chosen, folder=tmp_path, progress=progress)
    assert torch.equal(torch.get_rng_state(), before)
    assert set(contents(tmp_path)) == {"model.json", "weights.safetensors", "history.csv"}
    scores = history(tmp_path)
    assert scores.index.tolist() == list(range(1, 11))
    assert scores["train_loss"].iloc[-1] < scores["train_loss"].iloc[0]
    assert scores.iloc[:, -1].max() > (0.95 if task == "classifier" else 0.7)
    assert progress.begun == (task, 10 * (4 + 2), 0)
    assert len(progress.notes) == 60
    assert progress.notes[-1] == f"epoch 10/10  validation loss {scores['validation_loss'].iloc[8]:.3f}"
    check_best(task, tmp_path, part, scores)


def check_best(task, folder, part, scores):
    """The folder's weights are the best epoch's: they give its validation loss again."""
    model, objective = load_model(folder), TRAINING_TASKS[task]
    best = scores["validation_loss"].idxmin()
    assert model.spec.training.best_epoch == best
    assert model.spec.training.validation_loss == scores["validation_loss"][best]
    losses = []
    for rows in cut(shuffled(part.validation, _seeds(0, task, 0)[1]), 8):  # the Jaccard loss is one of batches
        x = Normalizer(model.spec, torch.device("cpu"))(intensities(torch.from_numpy(part.tiles.images[rows])))
        with torch.inference_mode():
            targets = torch.from_numpy(objective.targets(part.tiles)[rows])
            losses.append(objective.loss(settings(), model.module(x), targets).item())
    assert np.mean(losses) == pytest.approx(scores["validation_loss"][best], rel=1e-4)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("steps", [8, 13])
def test_a_killed_training_ends_with_the_same_bytes(task, steps, tmp_path):
    """6 steps an epoch: killed in the second epoch's training, in the third's."""
    chosen, part = settings(), make_parts()
    train(task, part, chosen, folder=tmp_path / "whole")
    with pytest.raises(Killed):
        train(task, part, chosen, folder=tmp_path / "killed", progress=Killer(steps))
    assert "model.json" not in contents(tmp_path / "killed")
    assert len(history(tmp_path / "killed")) == steps // 6
    again = Killer()
    train(task, part, chosen, folder=tmp_path / "killed", progress=again)
    assert again.begun == (task, 18, steps // 6 * 6)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize("removed", [0, 1])
def test_a_kill_behind_the_end_trains_nothing_again(tmp_path, monkeypatch, removed):
    part, chosen = make_parts(), settings(epochs=2)
    train("classifier", part, chosen, folder=tmp_path / "whole")

    def half(checkpoint):
        for path in sorted(checkpoint.folder.glob("*-*.safetensors"))[:removed]:
            path.unlink()
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("vitrail.training.trainer.Checkpoint.remove", half)
        with pytest.raises(Killed):
            train("classifier", part, chosen, folder=tmp_path / "killed")
    assert "checkpoint.safetensors" in contents(tmp_path / "killed")
    progress = Killer(0)
    for _time in range(2):  # then once more, with nothing but the model left
        train("classifier", part, chosen, folder=tmp_path / "killed", progress=progress)
        assert progress.begun is None
        assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_model_of_other_settings_is_trained_anew(tmp_path):
    part = make_parts()
    for folder, seeds in (("a", (0, 1)), ("b", (1,))):
        for seed in seeds:
            train("classifier", part, settings(seed, epochs=1), folder=tmp_path / folder)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_checkpoint_of_another_precision_is_not_taken_up(tmp_path):
    part, chosen = make_parts(), settings(epochs=2)
    with pytest.raises(Killed):
        train("classifier", part, chosen, folder=tmp_path / "a", progress=Killer(8))
    changed = chosen.model_copy(update={"compute": ComputeSettings(device="cpu", precision="bfloat16")})
    progress = Killer()
    train("classifier", part, changed, folder=tmp_path / "a", progress=progress)
    train("classifier", part, changed, folder=tmp_path / "b")
    assert progress.begun == ("classifier", 12, 0)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert load_model(tmp_path / "a").spec.training.precision == "bfloat16"


@pytest.mark.parametrize("units", [True, False])
def test_a_cpu_trains_in_float32_whatever_its_flags(tmp_path, monkeypatch, units):
    """Of the flag alone nothing follows but a line in model.json: whether 16 bits would do for predictions."""
    monkeypatch.setattr("vitrail.models.device._cpu_flags", lambda _path: {"avx512_bf16"} if units else set())
    part, chosen = make_parts(), settings(epochs=1)
    train("classifier", part, chosen, folder=tmp_path / "flag")
    fixed = chosen.model_copy(update={"compute": ComputeSettings(device="cpu", precision="float32")})
    train("classifier", part, fixed, folder=tmp_path / "fixed")
    flag, fixed = (load_file(tmp_path / name / "weights.safetensors") for name in ("flag", "fixed"))
    assert all(torch.equal(flag[key], fixed[key]) for key in fixed)
    assert contents(tmp_path / "flag")["history.csv"] == contents(tmp_path / "fixed")["history.csv"]
    spec = load_model(tmp_path / "flag").spec
    assert spec.training.precision == "float32"
    assert (spec.half is not None) == units


def test_too_little_memory_to_train_is_told(tmp_path, monkeypatch):
    def full(*_args):
        raise torch.cuda.OutOfMemoryError("Tried to allocate")

    monkeypatch.setattr(TRAINING_TASKS["segmenter"], "loss", full)
    with pytest.raises(ModelError) as caught:
        train("segmenter", make_parts(), settings(), folder=tmp_path)
    expected = "segmenter training: cpu has too little memory for batches of 8. Lower segmenter.batch in study.toml."
    assert str(caught.value) == expected


class Small(torch.nn.Module):
    """A device's memory that holds `most` images."""

    def __init__(self, most):
        super().__init__()
        self.most, self.tried = most, []

    def forward(self, x):
        self.tried.append(len(x))
        if len(x) > self.most:
            raise torch.cuda.OutOfMemoryError("Tried to allocate")
        return x.mean((1, 2, 3))


def test_prediction_halves_batches_that_do_not_fit():
    images = make_tiles(100).images
    spec = TRAINING_TASKS["classifier"].spec(settings(), ([0.5] * 3, [0.25] * 3))
    found = {}
    for most in (100, 20, 1):
        engine = Predictor(Model(spec=spec, module=Small(most)), torch.device("cpu"), engine="torch")
        found[most] = engine.tumor_probability(images)
        assert sum(n for n in engine.module.tried if n <= most) == 100
        assert engine.module.tried[:3] == {100: [64, 32, 4], 20: [64, 32, 16], 1: [64, 32, 16]}[most]
        assert engine.tumor_probability(images[:0]).shape == (0,)
    np.testing.assert_allclose(found[20], found[100], rtol=1e-6)
    np.testing.assert_allclose(found[1], found[100], rtol=1e-6)
    engine = Predictor(Model(spec=spec, module=Small(0)), torch.device("cpu"), engine="torch")
    with pytest.raises(ModelError, match="classifier prediction: cpu has too little memory for a single tile"):
        engine.tumor_probability(images)


@pytest.mark.parametrize(
    ("branch", "change", "problem"),
    [
        ("encoder", {"name": "eficientnet_b0"}, "timm has no network of this name"),
        ("encoder", {"weights": "missing.pth"}, "missing.pth: no such file"),
        ("encoder", {"weights": "imagenet"}, r"cannot be downloaded \(this machine is offline\)"),
        ("encoder", {"name": "inception_v3"}, "cannot be trained on tiles of 32 pixels, 8 a batch"),
        ("encoder", {"name": "vit_tiny_patch16_224"}, "gives no convolutional feature maps"),
        ("compute", {"device": "cuda"}, "this machine has no 'cuda'"),
    ],
)
def test_what_cannot_start_is_told_before_tiles_are_cut(monkeypatch, branch, change, problem):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("vitrail.models.encoder.try_to_load_from_cache", lambda *_args: None)
    monkeypatch.setattr("vitrail.models.encoder._online", lambda: False)
    check_start(settings())
    content = settings().model_dump()
    content[branch] |= change
    with pytest.raises((ModelError, SettingsError), match=problem):
        check_start(Settings.model_validate(content))


def test_weights_within_reach_may_start(monkeypatch):
    content = settings().model_dump()
    content["encoder"]["weights"] = "imagenet"
    monkeypatch.setattr("vitrail.models.encoder.try_to_load_from_cache", lambda *_args: None)
    monkeypatch.setattr("vitrail.models.encoder._online", lambda: True)
    check_start(Settings.model_validate(content))


def test_a_checkpoint_of_other_settings_is_not_taken_up(tmp_path):
    part = make_parts()
    with pytest.raises(Killed):
        train("classifier", part, settings(), folder=tmp_path / "a", progress=Killer(8))
    train("classifier", part, settings(batch=16, epochs=1), folder=tmp_path / "a")
    train("classifier", part, settings(batch=16, epochs=1), folder=tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("spoil", ["checkpoint.safetensors", "best"])
def test_a_spoilt_checkpoint_begins_anew(tmp_path, spoil):
    part, chosen = make_parts(), settings(epochs=2)
    with pytest.raises(Killed):
        train("classifier", part, chosen, folder=tmp_path / "a", progress=Killer(8))
    for path in (tmp_path / "a").glob(f"{spoil}*"):
        path.write_bytes(b"cut off") if spoil != "best" else path.unlink()
    train("classifier", part, chosen, folder=tmp_path / "a")
    train("classifier", part, chosen, folder=tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_kill_while_writing_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    part, chosen = make_parts(), settings()
    train("classifier", part, chosen, folder=tmp_path / "whole")
    writes = []

    replace = Path.replace

    def cut_off(temporary, path):
        writes.append(path)
        if len(writes) > 3:
            temporary.write_bytes(b"half")
            raise Killed
        replace(temporary, path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", cut_off)
        with pytest.raises(Killed):
            train("classifier", part, chosen, folder=tmp_path / "killed")
    assert len(load_file(tmp_path / "killed" / "checkpoint.safetensors")) > 0
    train("classifier", part, chosen, folder=tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_the_seed_decides(tmp_path):
    part = make_parts()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train("classifier", part, settings(seed, epochs=1), folder=tmp_path / name)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a["weights.safetensors"] != c["weights.safetensors"]
    assert a["history.csv"] != c["history.csv"]


def test_a_learning_rate_that_explodes_is_told(tmp_path):
    with pytest.raises(
        ModelError, match=r"no longer finite in epoch \d\. Lower classifier\.learning_rate, which is 1e\+09"
    ) as e:
        train("classifier", make_parts(), settings(learning_rate=1e9), folder=tmp_path)
    assert "\n" not in str(e.value)


def test_parts_without_what_training_needs(tmp_path):
    tiles = make_tiles()
    only_tumor = np.where(np.arange(48) % 2 == 0, "train", "validation")
    with pytest.raises(TileError, match="training tiles: none of them is non_tumor"):
        train("segmenter", parts(tiles, only_tumor), settings(), folder=tmp_path)
    with pytest.raises(TileError, match="validation tiles: there are none"):
        train("classifier", parts(tiles, np.full(48, "train")), settings(), folder=tmp_path)


def test_channel_statistics_are_numpys():
    images = np.random.default_rng(0).integers(0, 256, (150, 8, 8, 3), dtype=np.uint8)
    rows = np.arange(0, 150, 2)[::-1]
    mean, std = channel_statistics(images, rows)
    chosen = images[rows].reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, chosen.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, chosen.std(0), rtol=1e-12)
    assert channel_statistics(np.full_like(images, 255), rows) == ([1.0] * 3, [1 / 255] * 3)


def test_batches_keep_every_row_and_leave_none_alone():
    for n, batch in ((9, 4), (8, 4), (10, 4), (3, 4), (1, 4), (3, 1)):
        pieces = cut(np.arange(n), batch)
        assert np.concatenate(pieces).tolist() == list(range(n))
        assert n == 1 or batch == 1 or min(map(len, pieces)) > 1
    assert [len(piece) for piece in cut(np.arange(9), 4)] == [4, 5]


def test_order_comes_from_the_seed():
    rows = np.arange(100)
    assert np.array_equal(shuffled(rows, 3), shuffled(rows, 3))
    assert not np.array_equal(shuffled(rows, 3), shuffled(rows, 4))
    assert sorted(shuffled(rows, 3)) == rows.tolist()


def test_loader_reads_memory_maps_in_order(tmp_path):
    tiles = make_tiles(10)
    np.save(tmp_path / "images.npy", tiles.images)
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    loader = Loader(images=images, targets=np.arange(10, dtype=np.float32), device=torch.device("cpu"))
    order = shuffled(np.arange(10), 0)
    batches = list(loader(cut(order, 4)))
    assert torch.cat([targets for _, targets in batches]).tolist() == order.tolist()
    joined = torch.cat([images for images, _ in batches]).permute(0, 2, 3, 1) * 255
    np.testing.assert_array_equal(joined.round().byte().numpy(), tiles.images[order])
    assert list(loader([])) == []


def test_best_epoch_is_the_first_of_equals():
    losses = (0.5, 0.3, 0.3, 0.4)
    assert best_epoch([EpochScores(train_loss=0, validation_loss=loss, score=0) for loss in losses]) == 2


def test_jaccard_score_by_hand():
    objective = TRAINING_TASKS["segmenter"]
    truth = torch.tensor([[[0, 0, 1, 1]]], dtype=torch.uint8)
    guess = torch.tensor([[[0, 1, 1, 3]]])
    logits = torch.nn.functional.one_hot(guess, 4).permute(0, 3, 1, 2).float()
    tally = objective.tally(logits, truth)
    assert tally.sum() == 4
    assert objective.rate(tally) == pytest.approx(np.mean([1 / 2, 1 / 3, 0 / 1]))  # class 2 is nowhere


def test_accuracy_by_hand():
    objective = TRAINING_TASKS["classifier"]
    tally = objective.tally(torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1.0, 0.0, 0.0]))
    assert objective.rate(tally) == pytest.approx(2 / 3)


def test_blur_and_noise_are_the_classifiers_alone():
    chosen = settings().model_copy(
        update={
            "augment": AugmentSettings(rotation_step_deg=0, mirror=0, hue=0, saturation=0, brightness=0, contrast=0)
        }
    )
    images, targets = torch.rand(2, 3, SIDE, SIDE), torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)
    for task, same in (("classifier", False), ("segmenter", True)):
        augmenter = TRAINING_TASKS[task].augmenter(chosen, torch.Generator().manual_seed(0))
        assert torch.equal(TRAINING_TASKS[task].augment(augmenter, images, targets)[0], images) == same
