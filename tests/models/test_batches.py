from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.training import make_tiles, settings
from vitrail.errors import ModelError
from vitrail.inference.predictor import Predictor
from vitrail.models.store import Model
from vitrail.training.tasks import TRAINING_TASKS


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
