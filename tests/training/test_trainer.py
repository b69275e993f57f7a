from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers.training import TASKS, Killer, contents, history, make_parts, settings
from vitrail.errors import ModelError
from vitrail.models.preprocessing import Normalizer, intensities
from vitrail.models.store import load_model
from vitrail.settings.schema import ComputeSettings
from vitrail.training.loader import cut, shuffled
from vitrail.training.tasks import TRAINING_TASKS
from vitrail.training.trainer import epoch_seeds, train


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
    for rows in cut(shuffled(part.validation, epoch_seeds(0, task, 0)[1]), 8):  # the Jaccard loss is one of batches
        x = Normalizer(model.spec, torch.device("cpu"))(intensities(torch.from_numpy(part.tiles.images[rows])))
        with torch.inference_mode():
            targets = torch.from_numpy(objective.targets(part.tiles)[rows])
            losses.append(objective.loss(settings(), model.module(x), targets).item())
    assert np.mean(losses) == pytest.approx(scores["validation_loss"][best], rel=1e-4)


def test_a_model_of_other_settings_is_trained_anew(tmp_path):
    part = make_parts()
    for folder, seeds in (("a", (0, 1)), ("b", (1,))):
        for seed in seeds:
            train("classifier", part, settings(seed, epochs=1), folder=tmp_path / folder)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


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
    cure = (
        "Set compute.checkpoint_activations = true, raise segmenter.accumulate, or lower segmenter.batch in study.toml."
    )
    expected = f"segmenter training: cpu has too little memory for batches of 8. {cure}"
    assert str(caught.value) == expected


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
