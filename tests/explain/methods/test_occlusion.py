from __future__ import annotations

import pytest
import torch
from torch import nn

from helpers.networks import CLASSIFIER, SEGMENTER, random_network
from helpers.oracles import LinearNetwork, noise
from vitrail.classes import TissueClass
from vitrail.explain.input_gradients import ImageScore, cell_sums
from vitrail.explain.methods.base import METHODS
from vitrail.explain.methods.occlusion import COARSE, REFINED, Windows, counts_along, occlusion, window_effects

BLACK = torch.zeros(3, 1, 1)


def waves(side):
    """Values that change smoothly, with both signs, `[side, side]`."""
    rows, columns = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    return torch.sin(rows * 5) + torch.cos(columns * 4) * 0.7 - 0.4


def linear_network(side, *, pixels):
    network = LinearNetwork(side, pixels=pixels)
    network.weight.data = (waves(side) / 3).expand(3, -1, -1).clone()
    return network


@pytest.mark.parametrize("pixels", [False, True])
def test_the_weights_of_a_weighted_sum_of_pixels_come_back(pixels) -> None:
    """Smooth weights, that is: nothing finer than a window can be told."""
    maps = occlusion(linear_network(48, pixels=pixels), torch.ones(2, 3, 48, 48), BLACK, pixels="all")
    expected = cell_sums(waves(48)[None])[0] / (48**2 if pixels else 1)
    assert maps.values.shape == (2, 12, 12)
    assert (maps.values[0] - expected).norm() < 0.15 * expected.norm()
    assert maps.values[0].sum() == pytest.approx(float(expected.sum()), rel=0.05)
    assert maps.frame.span_px == (48, 48)


@pytest.mark.parametrize("pixels", [False, True])
def test_of_a_sum_of_pixels_an_effect_is_what_the_window_hides(pixels) -> None:
    network, x = linear_network(40, pixels=pixels), noise(2, 3, 40, 32)
    network.weight.data = network.weight.data[..., :32].contiguous()
    windows = Windows.over((40, 32), (3, 4))
    score, chosen = ImageScore.on(network, x, TissueClass.TUMOR, "all"), torch.tensor([[0, 7, 11], [4, 5, 6]])
    blanks = torch.zeros_like(x)
    found = window_effects(score, score.at(blanks), x, blanks, windows, chosen)
    hidden = torch.from_numpy(windows.rows[:, :, None] * windows.columns[:, None]).float()[chosen]
    worth = (network.weight * x).sum(1).detach() / (40 * 32 if pixels else 1)
    torch.testing.assert_close(found, (hidden * worth[:, None]).sum((2, 3)), atol=1e-4, rtol=1e-4)


class Either(nn.Module):
    """Sees a bright quarter at the top left or at the bottom right; one is as good as both."""

    def forward(self, x):
        first, second = x[..., :24, :24].mean((1, 2, 3)), x[..., 24:, 24:].mean((1, 2, 3))
        return torch.maximum(first, second)


def test_evidence_that_lies_in_two_places_is_seen_in_both() -> None:
    """Hiding any one place takes nothing; showing one gives everything."""
    values = occlusion(Either(), torch.ones(1, 3, 48, 48), BLACK).values[0]
    here, elsewhere = (values[:6, :6].sum(), values[6:, 6:].sum()), (values[:6, 6:].sum(), values[6:, :6].sum())
    assert min(here) > 5 * max(abs(each) for each in elsewhere)


def test_windows_have_a_size_in_micrometres() -> None:
    assert counts_along((96, 96), 2.07, 33, 6) == (6, 6)
    assert counts_along((96, 48), 2.07, 33, 6) == (6, 3)
    assert counts_along((96, 96), 0.25, 33, 6) == (2, 2)  # a few cells
    assert counts_along((900, 900), 2.07, 33, 6) == (6, 6)  # larger windows, not more
    assert counts_along((96, 32), None, 33, 6) == (6, 6)
    network, x = linear_network(48, pixels=False), torch.ones(1, 3, 48, 48)
    few, many = occlusion(network, x, BLACK, mpp=1.0), occlusion(network, x, BLACK, mpp=4.2)
    assert not torch.equal(few.values, many.values)
    assert torch.equal(many.values, occlusion(network, x, BLACK).values)


@pytest.mark.parametrize("spec", [CLASSIFIER, SEGMENTER])
def test_an_image_is_explained_alike_in_any_batch_at_the_price_that_is_stated(spec) -> None:
    network, x, seen = random_network(spec, most=1).eval(), noise(2, 3, 64, 64), []
    method = METHODS["occlusion"]
    with network.backbone.conv_stem.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0]))):
        found = method.explain(network, x, pixels="all").values
    assert sum(seen) == 2 * method.passes
    assert method.passes == 2 + 2 * (COARSE**2 + REFINED) <= 100
    alone = method.explain(network, x[1:2].to(memory_format=torch.channels_last), pixels="all").values[0]
    assert (alone - found[1]).abs().max() < 1e-3 * alone.abs().max()
    assert torch.equal(found, method.explain(network, x, pixels="all").values)


def test_the_other_class_has_the_negative_map() -> None:
    network, x = random_network(CLASSIFIER, most=1).eval(), noise(1, 3, 64, 64)
    tumor, other = (
        occlusion(network, x, target=target).values for target in (TissueClass.TUMOR, TissueClass.NON_TUMOR)
    )
    torch.testing.assert_close(tumor, -other)
