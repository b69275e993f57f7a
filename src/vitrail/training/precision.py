"""The type to train in, chosen by a short trial where the settings allow it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from vitrail.models.device import Precision, half_type, training_precision, type_name
from vitrail.models.store import build_single
from vitrail.models.trial import Execution, Trial, network_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vitrail.models.spec import ModelSpec
    from vitrail.settings.schema import PrecisionName

_MOST_TILES = 32
"""Of the trial's batch: steps of larger ones take longer, and are faster by about as much."""


def choose_precision(spec: ModelSpec, device: torch.device, setting: PrecisionName, batch: int) -> Precision:
    """Return the type to train in.

    Parameters
    ----------
    spec
        The network that is to be trained.
    device
        Where.
    setting
        `compute.precision`. With `fastest`, training steps are tried on a CPU that has instructions for bfloat16, once
        for each network and machine, and that is taken where it is at least 1.2 times as fast as float32.
    batch
        Tiles of a training step.

    Returns
    -------
    Precision
        Device and type; as `training_precision` says for all other settings.
    """
    usual, half = training_precision(device, setting), half_type(device)
    if setting != "fastest" or device.type != "cpu" or half is None:
        return usual
    tiles = min(batch, _MOST_TILES)
    default = Execution(
        engine="torch",
        precision="float32",
        threads=torch.get_num_threads(),
        batch=tiles,
        memory_format="channels_last",
    )

    def rivals(best: Execution) -> Iterator[Execution]:
        yield replace(best, precision="bfloat16")

    trial = Trial(
        title=f"training the {spec.task}, {spec.encoder}, {spec.side_px} px",
        conditions=["training", network_key(spec), type_name(half)],
        default=default,
        steps=(rivals,),
        work=lambda way: _training_step(spec, device, way),
        images=tiles,
    )
    return Precision(device=device, dtype=getattr(torch, trial.choose().precision))


def _training_step(spec: ModelSpec, device: torch.device, way: Execution) -> Callable[[], object]:
    """Return a step on noise, without the optimiser, whose work is the same in each type."""
    with torch.random.fork_rng(devices=[]):
        network = build_single(spec).to(memory_format=torch.channels_last).train()
        images = torch.randn(way.batch, 3, spec.side_px, spec.side_px).contiguous(memory_format=torch.channels_last)
    precision = Precision(device=device, dtype=getattr(torch, way.precision))

    def step() -> None:
        with torch.random.fork_rng(devices=[]):  # dropout draws
            with precision.autocast():
                logits = network(images)
            network.zero_grad(set_to_none=True)
            logits.float().square().mean().backward()

    return step
