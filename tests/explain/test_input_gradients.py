"""What methods on pixels share: cells, references, and the score as a function of images."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from helpers.networks import CLASSIFIER, SEGMENTER, random_network
from helpers.oracles import noise, small_network
from vitrail.classes import TissueClass
from vitrail.explain.checks import replacements
from vitrail.explain.hooks import frozen
from vitrail.explain.input_gradients import ImageScore, blurred, cell_sums, white_glass
from vitrail.explain.target import target_pixels, target_score
from vitrail.models.preprocessing import Normalizer, intensities

TUMOR = TissueClass.TUMOR


def test_cells_hold_the_sums_of_their_pixels() -> None:
    values = noise(2, 9, 14)
    sums = cell_sums(values)
    assert sums.shape == (2, 3, 4)
    for i in range(3):
        for j in range(4):
            torch.testing.assert_close(
                sums[:, i, j], values[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].sum((1, 2)), atol=1e-5, rtol=0
            )


def test_the_blurred_image_is_that_of_deletion_but_for_its_bytes() -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (2, 36, 24, 3), np.uint8)
    ours = blurred(intensities(torch.from_numpy(tiles))) * 255
    theirs = np.stack([replacements.blurred(tile) for tile in tiles])
    np.testing.assert_allclose(ours.permute(0, 2, 3, 1).numpy(), theirs, atol=0.51)


def test_white_glass_is_white_once_standardised() -> None:
    tiles = torch.full((2, 8, 8, 3), 255, dtype=torch.uint8)
    standardised = Normalizer(CLASSIFIER, torch.device("cpu"))(intensities(tiles))
    torch.testing.assert_close(white_glass(standardised, CLASSIFIER.mean, CLASSIFIER.std), standardised)


def test_pixels_stay_those_of_the_untouched_image() -> None:
    network, x = random_network(SEGMENTER).eval(), noise(2, 3, 64, 64) * 2
    with frozen(network):
        score = ImageScore.on(network, x, TUMOR, "predicted")
        inside = target_pixels(network(x), TUMOR)
        assert inside.any()
        assert not inside.all()
        others = -x
        expected = target_score(network(others), TUMOR, inside)
        torch.testing.assert_close(score.at(others), expected)
        torch.testing.assert_close(score.values, score.at(x))
        assert not torch.equal(target_pixels(network(others), TUMOR), inside)


def test_the_gradient_is_the_scores_slope() -> None:
    """In the direction of the gradient itself, from both sides."""
    for pixels in (False, True):
        network, x = small_network(nn.SiLU, pixels=pixels).double(), noise(2, 3, 16, 16).double()
        with frozen(network):
            score = ImageScore.on(network, x, TUMOR, "all")
            gradient = score.gradient(x)
            step = gradient / gradient.square().sum((1, 2, 3), keepdim=True).sqrt() * 1e-5
            slope = (score.at(x + step) - score.at(x - step)) / 2e-5
        torch.testing.assert_close(slope, gradient.square().sum((1, 2, 3)).sqrt(), rtol=1e-4, atol=0)


def test_maps_say_how_far_their_sum_is_off() -> None:
    network, x = random_network(CLASSIFIER).eval(), noise(2, 3, 64, 64)
    with frozen(network):
        score = ImageScore.on(network, x, TissueClass.NON_TUMOR, "predicted")
        maps = score.maps("some", noise(2, 3, 64, 64, seed=1), score.at(x * 0))
        difference = network(x * 0) - network(x)
    torch.testing.assert_close(maps.values.sum((1, 2)) - maps.residue, difference, atol=1e-3, rtol=0)
    assert (maps.layers, maps.target, maps.frame.span_px) == (("pixels",), "non_tumor", (64, 64))
    assert score.maps("some", x).residue is None
