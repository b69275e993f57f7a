"""HR-CAM's dense layer trained as the paper did: epochs over augmented tiles, on the frozen network.

Every epoch runs every tile through the network anew, which costs as many times more than `hrcam.fit` as there are
epochs. The problem is the same but for the augmentation: cross-entropy and a penalty on the weights of standardised
features, so the maps are nearly the same, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn.functional import binary_cross_entropy_with_logits

from vitrail.core.progress import Silent
from vitrail.errors import ModelError
from vitrail.models.preprocessing import intensities
from vitrail.models.store import save_tensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Generator, Tensor

    from vitrail.core.progress import Progress
    from vitrail.explain.methods.base import PoolingNetwork

    Augment = Callable[[Tensor], Tensor]
    """Changes intensities 0 to 1, `[n, 3, h, w]`."""

_DRAW = 0x4C41  # keeps these draws apart from the others of the same seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How the dense layer is trained.

    Attributes
    ----------
    epochs, learning_rate, batch
        Of Adam.
    l2
        Penalty on the weights of standardised features, as in `hrcam.fit`; 0 for none.
    seed
        Numbers that draw order and augmentation.
    augmenter
        Makes, from a generator of the CPU, what changes a batch; None leaves the tiles as they are.
    """

    epochs: int
    learning_rate: float
    batch: int
    l2: float
    seed: tuple[int, ...]
    augmenter: Callable[[Generator], Augment] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Examples:
    """The tiles that the dense layer learns from.

    Attributes
    ----------
    images
        `[all, h, w, 3]`, bytes; may be a memory map.
    rows
        Which of them, `[n]`.
    tumor
        `[n]`, true for tumor.
    pooled
        Their features as they are, `[n, sum of channels]`: what features are standardised with.
    """

    images: NDArray[np.uint8]
    rows: NDArray[np.int64]
    tumor: NDArray[np.bool_]
    pooled: Tensor


def retrain(
    network: PoolingNetwork,
    examples: Examples,
    course: Course,
    *,
    checkpoint: Path,
    progress: Progress | None = None,
) -> tuple[Tensor, float]:
    """Train the dense layer for a number of epochs.

    Weights start at 0. The same tiles, course and device give the same weights, whether or not the training was
    stopped on the way.

    Parameters
    ----------
    network
        The network, which stays in eval mode, and the layers that are pooled.
    examples, course
        What to learn from, and how.
    checkpoint
        The file that an unfinished training is kept in, epoch by epoch, and goes on from; it stays.
    progress
        Told of every batch.

    Returns
    -------
    tuple[Tensor, float]
        Weights `[sum of channels]`, float32, and bias for features as they are, not standardised.

    Raises
    ------
    ModelError
        The loss is no longer finite, or the device's memory is too small.
    """
    pooled = examples.pooled.double()
    mean, std = pooled.mean(0), pooled.std(0, correction=0)
    std[std <= torch.finfo(torch.float32).eps * mean.abs()] = torch.inf  # does not vary: keeps the weight 0
    # weights of standardised features and, last, the bias
    parameters = torch.zeros(pooled.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([parameters], lr=course.learning_rate)
    done = _restore(checkpoint, parameters, optimizer)
    count = len(examples.rows)
    with (progress or Silent()).task("hr-cam", course.epochs * count, done * count) as step:
        for epoch in range(done + 1, course.epochs + 1):
            order, drawn = np.random.SeedSequence([*course.seed, _DRAW, epoch]).generate_state(2).tolist()
            augment = course.augmenter(torch.Generator().manual_seed(drawn)) if course.augmenter else None
            shuffled = np.random.default_rng(order).permutation(count)
            for start in range(0, count, course.batch):
                part = shuffled[start : start + course.batch]
                tiles = torch.from_numpy(np.asarray(examples.images[examples.rows[part]]))
                images = intensities(tiles.to(network.device))
                features = (network.pool(augment(images) if augment else images).double() - mean) / std
                logits = features @ parameters[:-1] + parameters[-1]
                loss = binary_cross_entropy_with_logits(logits, torch.from_numpy(examples.tumor[part]).double())
                loss = loss + course.l2 / 2 * parameters[:-1].square().sum()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves this one untyped
                optimizer.step()
                if not math.isfinite(loss.item()):
                    problem = f"the loss is no longer finite in epoch {epoch}"
                    cure = f"Lower explain.learning_rate, which is {course.learning_rate:g}, or train the network again"
                    raise ModelError("HR-CAM's dense layer", problem, cure)
                step(len(part), f"epoch {epoch}/{course.epochs}  loss {loss.item():.3f}")
            state = {"parameters": parameters, **optimizer.state[parameters]}
            save_tensors(checkpoint, state, {"epoch": str(epoch)})
    weights = parameters.detach()[:-1] / std
    return weights.float(), float(parameters.detach()[-1] - weights @ mean)


def _restore(checkpoint: Path, parameters: Tensor, optimizer: torch.optim.Adam) -> int:
    """Go back to where the checkpoint is, and return the epochs done by then."""
    if not checkpoint.is_file():
        return 0
    with safe_open(checkpoint, "pt") as file:
        epoch = int(file.metadata()["epoch"])
    tensors = load_file(checkpoint)
    with torch.no_grad():
        parameters.copy_(tensors.pop("parameters"))
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {0: tensors}, "param_groups": groups})
    return epoch
