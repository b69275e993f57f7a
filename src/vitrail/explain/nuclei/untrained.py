"""A network that has learnt nothing, to remove nuclei before its eyes: the null of effects."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from vitrail.explain.checks.randomisation import reinitialise, settle, steps_of
from vitrail.models.store import Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def untrained_model(model: Model, images: NDArray[np.uint8], device: torch.device, seed: int) -> Model:
    """Return a model with all weights random.

    Parameters
    ----------
    model
        The trained model; it stays as it is.
    images
        Tiles for the running statistics of its batch normalisation, `[n, h, w, 3]`; at least two, and few enough for
        one pass.
    device
        Where the model will be.
    seed
        Draws the weights.

    Returns
    -------
    Model
        With the same spec, in eval mode.
    """
    random = Model(spec=model.spec, module=copy.deepcopy(model.module).cpu().eval())
    steps = steps_of(random.module, torch.zeros(1, 3, *images.shape[1:3]))
    for number, step in enumerate(steps, 1):
        reinitialise(random.module, step, seed + number)
    settle(random, steps, images, device)
    return random
