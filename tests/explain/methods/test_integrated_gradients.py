from __future__ import annotations

import pytest
import torch
from captum.attr import IntegratedGradients
from torch import nn

from helpers.networks import CLASSIFIER, SEGMENTER, random_network
from helpers.oracles import LinearNetwork, Product, noise, small_network
from vitrail.classes import TissueClass
from vitrail.explain.input_gradients import blurred, cell_sums, white_glass
from vitrail.explain.methods.base import METHODS
from vitrail.explain.methods.integrated_gradients import STEPS, integrated_gradients

TUMOR = TissueClass.TUMOR


@pytest.mark.parametrize("pixels", [False, True])
def test_of_a_linear_network_it_is_weight_times_difference(pixels) -> None:
    network, x = LinearNetwork(8, pixels=pixels), noise(3, 3, 8, 8)
    found = integrated_gradients(network, x, pixels="all", steps=3)
    relevance = (network.weight * (x - blurred(x))).sum(1).detach() / (64 if pixels else 1)
    torch.testing.assert_close(found.values, cell_sums(relevance))
    assert found.residue.abs().max() < 1e-4


def test_of_a_product_each_factor_gets_its_difference_times_the_others_mean() -> None:
    x, start = noise(2, 3, 8, 8), noise(2, 3, 8, 8, seed=1)
    found = integrated_gradients(Product(), x, start, steps=1)  # Gauss and Legendre's nodes are exact for squares
    difference, mean = x - start, (x + start) / 2
    torch.testing.assert_close(found.values, cell_sums(difference[:, 0] * mean[:, 1] + difference[:, 1] * mean[:, 0]))
    torch.testing.assert_close(found.residue, torch.zeros(2), atol=1e-4, rtol=0)


@pytest.mark.parametrize("pixels", [False, True])
def test_it_equals_captums(pixels) -> None:
    network, x = small_network(nn.SiLU, pixels=pixels), noise(3, 3, 16, 16)
    inside = network(x).argmax(1) == TUMOR if pixels else None

    def score(images):
        output = network(images)
        if not pixels:
            return output
        rows = inside if len(images) == 3 else inside.repeat(len(images) // 3, 1, 1)  # captum stacks its steps
        return (output[:, TUMOR] * rows).sum((1, 2)) / rows.sum((1, 2)).clamp(min=1)

    white = white_glass(x, (0.7, 0.5, 0.6), (0.2, 0.25, 0.15))
    theirs = IntegratedGradients(score).attribute(x, white, n_steps=STEPS, method="gausslegendre")
    found = integrated_gradients(network, x, white)
    torch.testing.assert_close(found.values, cell_sums(theirs.sum(1)).float(), atol=1e-4, rtol=1e-4)
    assert found.values.abs().max() > 0.01


def test_the_residue_is_what_the_nodes_leave() -> None:
    network, x = small_network(nn.SiLU), noise(3, 3, 16, 16)
    coarse, fine = (integrated_gradients(network, x, steps=steps) for steps in (2, STEPS))
    differences = [maps.values.sum((1, 2)) - maps.residue for maps in (coarse, fine)]
    torch.testing.assert_close(*differences, atol=1e-4, rtol=1e-4)
    assert fine.residue.abs().mean() < 0.01 * differences[1].abs().mean()
    assert fine.residue.abs().mean() < 0.2 * coarse.residue.abs().mean()


@pytest.mark.parametrize("spec", [CLASSIFIER, SEGMENTER])
def test_an_image_is_explained_alike_in_any_batch(spec) -> None:
    network, x = random_network(spec, most=1).eval(), noise(3, 3, 64, 64)
    method = METHODS["integrated_gradients"]
    found = method.explain(network, x, pixels="all")
    assert found.values.shape == (3, 16, 16)
    alone = method.explain(network, x[1:2], pixels="all").values[0]
    assert (alone - found.values[1]).abs().max() < 1e-3 * alone.abs().max()
    assert (method.passes, method.gradients, method.complete) == (STEPS + 2, STEPS, True)
