"""How the learning rate changes over a training, how long that is, and which weights learn how fast."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vitrail.settings.schema import TrainingSettings

_LEAST = 1 / 25
"""Of the highest rate: where a cycle begins, so that the first steps, whose moments know nothing yet, do no harm."""


def epochs_of(own: TrainingSettings, *, epochs: int, steps: int) -> int:
    """Return how many epochs are trained.

    Parameters
    ----------
    own
        A task's branch of the settings; `min_steps` matters.
    epochs
        Those wished, more where these have fewer steps than `min_steps`.
    steps
        In one epoch.

    Returns
    -------
    int
        At least `epochs`.
    """
    return max(epochs, math.ceil(own.min_steps / steps))


def one_cycle(done: float, warmup: float) -> float:
    """Return a step's learning rate over the highest one: up and down along half cosines (Smith and Topin 2019).

    Parameters
    ----------
    done
        Share of all steps that are done, from 0 to 1.
    warmup
        Share of the steps that go up.

    Returns
    -------
    float
        From 1/25 up to 1, and down to 0.
    """
    if done < warmup:
        return _LEAST + (1 - _LEAST) * (1 - math.cos(math.pi * done / warmup)) / 2
    return (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))) / 2


def make_optimizer(network: nn.Module, encoder: nn.Module, own: TrainingSettings, rate: float) -> torch.optim.Adam:
    """Make Adam, or AdamW, for a network.

    Parameters
    ----------
    network
        On its device.
    encoder
        The part of it whose rate is `encoder_rate` times that of the others.
    own
        A task's branch of the settings.
    rate
        The highest learning rate.

    Returns
    -------
    torch.optim.Adam
        With `highest` in each group, the highest rate of its weights. Weight decay is of matrices and kernels alone:
        biases and normalisation layers have one dimension.
    """
    inside = {id(parameter) for parameter in encoder.parameters()}
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for parameter in network.parameters():
        if not parameter.requires_grad:  # of a frozen encoder
            continue
        highest = rate * (own.encoder_rate if id(parameter) in inside else 1)
        decay = own.weight_decay if own.optimizer == "adamw" and parameter.ndim > 1 else 0.0
        groups.setdefault((highest, decay), []).append(parameter)
    chosen: list[dict[str, Any]] = [
        {"params": parameters, "lr": highest, "highest": highest, "weight_decay": decay}
        for (highest, decay), parameters in groups.items()
    ]
    kind = torch.optim.AdamW if own.optimizer == "adamw" else torch.optim.Adam
    return kind(chosen, lr=rate, fused=next(network.parameters()).device.type in {"cpu", "cuda"})


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Let each group of weights learn at a factor of its highest rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["highest"] * factor
