from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from helpers.training import SPECS, make_parts, settings, with_units
from vitrail.models.spec import HalfCheck
from vitrail.models.store import load_model
from vitrail.training.precision import choose_precision
from vitrail.training.trainer import train

CPU = torch.device("cpu")


def chosen(setting, device=CPU):
    return choose_precision(SPECS["classifier"], device, setting, 8).dtype


@pytest.mark.parametrize("fastest", ["float32", "bfloat16"])
def test_training_steps_are_tried_where_the_setting_allows_it(monkeypatch, fastest):
    with_units(monkeypatch)
    trials = []

    def choose(trial):
        trials.append(trial)
        return replace(trial.default, precision=fastest)

    monkeypatch.setattr("vitrail.training.precision.Trial.choose", choose)
    assert chosen("auto") == chosen("float32") == torch.float32
    assert chosen("bfloat16") == torch.bfloat16
    assert trials == []
    assert chosen("fastest") == getattr(torch, fastest)
    (trial,) = trials
    before = torch.random.get_rng_state()
    for way in (trial.default, *trial.steps[0](trial.default)):
        trial.work(way)()
    assert torch.equal(torch.random.get_rng_state(), before)
    with_units(monkeypatch, there=False)
    assert chosen("fastest") == torch.float32
    assert len(trials) == 1


def test_what_was_chosen_is_stored_in_the_model(tmp_path, monkeypatch):
    with_units(monkeypatch)
    monkeypatch.setattr(
        "vitrail.training.precision.Trial.choose", lambda trial: replace(trial.default, precision="bfloat16")
    )
    check = HalfCheck(dtype="bfloat16", tiles=1, largest=0.0, changed=0.0)
    monkeypatch.setattr("vitrail.training.calibrate.compare_half", lambda _: check)
    own = settings(epochs=1)
    own = own.model_copy(update={"compute": own.compute.model_copy(update={"precision": "fastest"})})
    train("classifier", make_parts(), own, folder=tmp_path)
    assert load_model(tmp_path).spec.training.precision == "bfloat16"
