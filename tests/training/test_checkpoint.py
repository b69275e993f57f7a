from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from helpers.training import TASKS, Killed, Killer, contents, history, make_parts, settings
from vitrail.models.store import load_model
from vitrail.settings.schema import ComputeSettings
from vitrail.training.checkpoint import EpochScores, kept_epoch
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
