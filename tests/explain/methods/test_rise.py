from __future__ import annotations

import pytest
import torch

from helpers.networks import CLASSIFIER, SEGMENTER, random_network
from helpers.oracles import LinearNetwork, noise
from vitrail.classes import TissueClass
from vitrail.explain.input_gradients import cell_sums
from vitrail.explain.methods.base import METHODS
from vitrail.explain.methods.rise import rise

BLACK = torch.zeros(3, 1, 1)


def waves(side):
    rows, columns = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    return torch.sin(rows * 5) + torch.cos(columns * 4) * 0.7 - 0.4


@pytest.mark.parametrize("pixels", [False, True])
def test_with_many_masks_the_weights_of_a_weighted_sum_of_pixels_come_back(pixels) -> None:
    """But for what masks smear, and chance, which falls with the root of the masks."""
    network, x = LinearNetwork(32, pixels=pixels), torch.ones(1, 3, 32, 32)
    network.weight.data = (waves(32) / 3).expand(3, -1, -1).clone()
    expected = cell_sums(waves(32)[None])[0] / (32**2 if pixels else 1)

    def error(draws):
        found = rise(network, x, BLACK, pixels="all", draws=draws).values[0]
        return float((found - expected).norm() / expected.norm())

    assert error(4000) < 0.2
    assert error(4000) < 0.6 * error(100)


def test_a_score_without_a_cause_gives_nothing_whatever_its_height() -> None:
    """The source's mean of masks, weighted by the score, would be the masks themselves."""
    network, x = LinearNetwork(32), noise(1, 3, 32, 32)
    network.weight.data.zero_()
    assert rise(network, x, draws=20).values.abs().max() == 0


@pytest.mark.parametrize("spec", [CLASSIFIER, SEGMENTER])
def test_an_image_is_explained_alike_in_any_batch_at_the_price_that_is_stated(spec) -> None:
    network, x, seen = random_network(spec, most=1).eval(), noise(2, 3, 64, 64), []
    method = METHODS["rise"]
    with network.backbone.conv_stem.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0]))):
        found = method.explain(network, x, pixels="all")
    assert sum(seen) == 2 * method.passes <= 500
    alone = method.explain(network, x[1:2].to(memory_format=torch.channels_last), pixels="all").values[0]
    assert (alone - found.values[1]).abs().max() < 1e-3 * alone.abs().max()
    assert torch.equal(found.values, method.explain(network, x, pixels="all").values)
    assert found.values.shape == (2, 16, 16)


def test_the_other_class_has_the_negative_map_and_cells_a_size() -> None:
    network, x = random_network(CLASSIFIER, most=1).eval(), noise(1, 3, 64, 64)
    tumor, other = (
        rise(network, x, target=target, draws=4).values for target in (TissueClass.TUMOR, TissueClass.NON_TUMOR)
    )
    torch.testing.assert_close(tumor, -other)
    torch.testing.assert_close(tumor, rise(network, x, mpp=25 * 8 / 64, draws=4).values)
    assert not torch.equal(tumor, rise(network, x, mpp=1, draws=4).values)
