from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from vitrail.settings.schema import ClassifierSettings
from vitrail.training.schedule import epochs_of, make_optimizer, one_cycle, set_rate


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.3])
def test_a_cycle_is_torchs(warmup):
    """Up and down; where many steps go up as torch's own OneCycleLR, which ends one step later, but for a step."""
    steps = 50
    rates = [one_cycle(step / steps, warmup) for step in range(steps)]
    assert rates[0] == pytest.approx(1 if warmup == 0 else 1 / 25)
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rates[-1] < 0.01
    turn = int(np.argmax(rates))
    assert turn == pytest.approx(warmup * steps, abs=1)
    assert (np.diff(rates[: turn + 1]) > 0).all()
    assert (np.diff(rates[turn:]) < 0).all()
    if warmup == 0.3:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, steps + 2, pct_start=warmup, div_factor=25)
        torchs = []
        for _ in range(steps):
            torchs.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        assert np.abs(np.array(rates) - torchs).max() < 0.08


def test_small_cohorts_get_more_epochs():
    own = ClassifierSettings(min_steps=100)
    assert [epochs_of(own, epochs=8, steps=steps) for steps in (13, 12, 11, 100)] == [8, 9, 10, 8]


def test_groups_of_weights_learn_at_their_own_rates():
    network = nn.ModuleDict({"encoder": nn.Conv2d(3, 4, 3), "head": nn.Linear(4, 1)})
    own = ClassifierSettings(optimizer="adamw", weight_decay=0.1, encoder_rate=0.2)
    optimizer = make_optimizer(network, network["encoder"], own, 1e-3)
    assert isinstance(optimizer, torch.optim.AdamW)
    found = {(group["lr"], group["weight_decay"]): len(group["params"]) for group in optimizer.param_groups}
    assert found == {(2e-4, 0.1): 1, (2e-4, 0.0): 1, (1e-3, 0.1): 1, (1e-3, 0.0): 1}
    set_rate(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-4, 5e-4}


def test_the_papers_optimizer_is_one_group_of_adam():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 1))
    optimizer = make_optimizer(network, network[0], ClassifierSettings(weight_decay=0.1), 1e-3)
    assert type(optimizer) is torch.optim.Adam
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"], len(group["params"])) == (1e-3, 0.0, 4)
