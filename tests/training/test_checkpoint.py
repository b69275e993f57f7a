from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.training import TASKS, Killed, Killer, contents, history, make_parts, settings
from vitrail.models.store import load_model
from vitrail.settings.schema import ComputeSettings
from vitrail.training.checkpoint import EpochScores, TrainState, kept_epoch
from vitrail.training.trainer import train


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


RECIPE = {"schedule": "one_cycle", "optimizer": "adamw", "weight_decay": 0.01, "ema": 0.9, "encoder_rate": 0.5,
          "mixup": 0.4, "cutmix": 1.0, "label_smoothing": 0.1, "keep": "last"}  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_a_killed_recipe_ends_with_the_same_bytes(task, tmp_path):
    """Averages, groups of weights and the place in the cycle are taken up again."""
    changed, part = settings(**RECIPE), make_parts()
    stains = changed.augment.model_copy(update={"stain": 0.2, "stain_templates": 0.5, "jpeg": 0.5, "scale": 0.1})
    chosen = changed.model_copy(update={"augment": stains})
    train(task, part, chosen, folder=tmp_path / "whole")
    with pytest.raises(Killed):
        train(task, part, chosen, folder=tmp_path / "killed", progress=Killer(13))
    train(task, part, chosen, folder=tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert load_model(tmp_path / "whole").spec.training.best_epoch == 3


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


def test_best_epoch_is_the_first_of_equals():
    losses = (0.5, 0.3, 0.3, 0.4)
    assert kept_epoch([EpochScores(train_loss=0, validation_loss=loss, score=0) for loss in losses]) == 2


def test_the_last_epoch_is_kept_where_that_is_wished():
    history = [EpochScores(train_loss=0, validation_loss=loss, score=0) for loss in (0.5, 0.4, 0.6)]
    assert (kept_epoch(history), kept_epoch(history, "last")) == (2, 3)


def test_an_average_follows_the_weights():
    """By hand: each step it comes nearer by a share; whole numbers are taken over."""
    module, average = (torch.nn.BatchNorm1d(2) for _ in range(2))
    state = TrainState(module=module, optimizer=None, scaler=None, average=average)
    with torch.no_grad():
        module.weight.fill_(3.0)
        module.running_var.fill_(5.0)
        module.num_batches_tracked.fill_(7)
    state.follow(0.75)
    state.follow(0.5)
    assert average.weight.tolist() == [2.25, 2.25]  # 1 -> 1.5 -> 2.25
    assert average.running_var.tolist() == [3.5, 3.5]
    assert int(average.num_batches_tracked) == 7
    assert state.judged is average
