from __future__ import annotations

import pytest
import torch
from captum.attr import Occlusion
from torch import nn

from helpers.oracles import noise, small_network
from vitrail.classes import TissueClass
from vitrail.explain.input_gradients import ImageScore
from vitrail.explain.occluding import hidden_scores

TUMOR = TissueClass.TUMOR
STEP, SIDE = 4, 16


def hard_windows():
    """Windows of four pixels beside each other, `[16, 16, 16]`."""
    one = torch.eye(SIDE // STEP).repeat_interleave(STEP, 1)
    return torch.einsum("ah,bw->abhw", one, one).flatten(0, 1)


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("count", [3, 11])
def test_what_a_hard_window_takes_is_captums_occlusion(pixels, count) -> None:
    network, x = small_network(nn.SiLU, pixels=pixels), noise(count, 3, SIDE, SIDE)

    def forward(images):
        return network(images)[:, TUMOR].mean((1, 2)) if pixels else network(images)

    windows, score = hard_windows(), ImageScore.on(network, x, TUMOR, "all")
    under = hidden_scores(score, x, torch.full_like(x, 0.5), lambda _, number: windows[number], len(windows))
    falls = score.values[:, None] - under
    shape, steps = (3, STEP, STEP), (3, STEP, STEP)
    expected = Occlusion(forward).attribute(x, sliding_window_shapes=shape, strides=steps, baselines=0.5)
    torch.testing.assert_close(falls, expected[:, 0, ::STEP, ::STEP].flatten(1), atol=1e-5, rtol=1e-4)
    assert falls.abs().max() > 0.01


def test_the_pixels_that_are_explained_stay_those_of_the_image_as_it_is() -> None:
    network, x = small_network(pixels=True), noise(2, 3, SIDE, SIDE)
    score = ImageScore.on(network, x, TUMOR, "predicted")
    assert 0 < score.inside.sum() < score.inside.numel()
    under = hidden_scores(score, x, torch.zeros_like(x), lambda own, _: torch.ones(len(own), SIDE, SIDE), 2)
    blank = network(torch.zeros_like(x))[:, TUMOR]
    expected = torch.stack([blank[i][score.inside[i]].mean() for i in range(2)])
    torch.testing.assert_close(under, expected[:, None].expand(-1, 2))
