from __future__ import annotations

import pytest
import torch
from captum.attr import NoiseTunnel, Saliency
from torch import nn

from helpers.networks import CLASSIFIER, SEGMENTER, random_network
from helpers.oracles import LinearNetwork, noise, small_network
from vitrail.classes import TissueClass
from vitrail.explain.input_gradients import blurred, cell_sums
from vitrail.explain.methods.base import METHODS
from vitrail.explain.methods.smoothgrad import smoothgrad


@pytest.mark.parametrize("pixels", [False, True])
def test_of_a_linear_network_noise_changes_nothing(pixels) -> None:
    network, x = LinearNetwork(8, pixels=pixels), noise(3, 3, 8, 8)
    found = smoothgrad(network, x, pixels="all", copies=2)
    relevance = (network.weight * (x - blurred(x))).sum(1).detach() / (64 if pixels else 1)
    torch.testing.assert_close(found.values, cell_sums(relevance))
    assert found.residue is None


@pytest.mark.parametrize("pixels", [False, True])
def test_with_many_copies_it_is_captums(pixels) -> None:
    """Captum draws its own noise, so that both have an error of chance."""
    network, x = small_network(nn.SiLU, pixels=pixels), noise(1, 3, 16, 16)

    def score(images):
        return network(images)[:, TissueClass.TUMOR].mean((1, 2)) if pixels else network(images)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sigma = float(x.max() - x.min()) * 0.1
        gradient = NoiseTunnel(Saliency(score)).attribute(
            x, nt_type="smoothgrad", nt_samples=1500, stdevs=sigma, abs=False, nt_samples_batch_size=500
        )
    found = smoothgrad(network, x, torch.zeros(3, 1, 1), pixels="all", copies=1500, noise=0.1).values
    expected = cell_sums((gradient * x).sum(1)).detach()
    assert (found - expected).norm() < 0.05 * expected.norm()
    plain = smoothgrad(network, x, torch.zeros(3, 1, 1), pixels="all", copies=1, noise=0).values
    assert (plain - expected).norm() > 0.1 * expected.norm()


@pytest.mark.parametrize("spec", [CLASSIFIER, SEGMENTER])
def test_an_image_is_explained_alike_in_any_batch(spec) -> None:
    network, x = random_network(spec, most=1).eval(), noise(2, 3, 64, 64)
    method = METHODS["smoothgrad"]
    found = method.explain(network, x, pixels="all").values
    alone = method.explain(network, x[1:2].to(memory_format=torch.channels_last), pixels="all").values[0]
    assert (alone - found[1]).abs().max() < 1e-3 * alone.abs().max()
    assert torch.equal(found, method.explain(network, x, pixels="all").values)
