from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.training import make_tiles, settings
from vitrail.errors import ModelError
from vitrail.inference.predictor import Predictor
from vitrail.models.batches import Batches, tumor_score
from vitrail.models.preprocessing import intensities
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
        predictor = Predictor(Model(spec=spec, module=Small(most)), torch.device("cpu"), engine="torch")
        found[most] = predictor.tumor_probability(images)
        assert sum(n for n in predictor.module.tried if n <= most) == 100
        assert predictor.module.tried[:3] == {100: [64, 32, 4], 20: [64, 32, 16], 1: [64, 32, 16]}[most]
        assert predictor.tumor_probability(images[:0]).shape == (0,)
    np.testing.assert_allclose(found[20], found[100], rtol=1e-6)
    np.testing.assert_allclose(found[1], found[100], rtol=1e-6)
    predictor = Predictor(Model(spec=spec, module=Small(0)), torch.device("cpu"), engine="torch")
    with pytest.raises(ModelError, match="classifier prediction: cpu has too little memory for a single tile"):
        predictor.tumor_probability(images)


def test_rows_and_intensities_reach_the_work_in_order():
    """Of bytes and of the same as intensities, in sizes that are powers of two, however small the memory is."""
    spec = TRAINING_TASKS["classifier"].spec(settings(), ([0.5] * 3, [0.25] * 3))
    tiles = make_tiles(13).images
    for images in (tiles, intensities(torch.from_numpy(tiles))):
        batches = Batches(spec, torch.device("cpu"), 8, "a test")
        rows, values = zip(*batches.run(images, lambda rows, batch: (rows, batch)), strict=True)
        assert [(part.start, part.stop) for part in rows] == [(0, 8), (8, 12), (12, 13)]
        torch.testing.assert_close(torch.cat(values) * 0.25 + 0.5, intensities(torch.from_numpy(tiles)))


@pytest.mark.parametrize("sharpness", [1.0, 0.5])
def test_the_tumor_score_of_a_segmenter_is_its_share_of_tumor_pixels(sharpness):
    logits = torch.zeros(2, 4, 2, 2)
    logits[0, 0, 0] = logits[1, 1:] = 2.0  # the second tile has no tumor
    assert tumor_score(logits, sharpness).tolist() == [1.0, 0.0]  # where logits are equal, the first class counts
    logits[0, 1, 1] = 1.0
    assert tumor_score(logits, sharpness).tolist() == [0.5, 0.0]
    soft = logits.double().mul(sharpness).softmax(1)[:, 0].mean((1, 2))
    np.testing.assert_allclose(tumor_score(logits, sharpness, soft=True), soft)
    np.testing.assert_allclose(tumor_score(logits[:, 0, 0, 0], sharpness), 1 / (1 + np.exp([-2 * sharpness, 0])))
