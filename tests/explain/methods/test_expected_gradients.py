from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from torch import nn

from helpers.networks import CLASSIFIER, SEGMENTER, random_network
from helpers.oracles import LinearNetwork, noise, small_network
from vitrail.classes import TissueClass
from vitrail.core.progress import Silent
from vitrail.errors import ModelError
from vitrail.explain.explainer import Explainer
from vitrail.explain.input_gradients import cell_sums
from vitrail.explain.methods.base import METHODS, HeadTiles, find_heads
from vitrail.explain.methods.expected_gradients import TILES, expected_gradients
from vitrail.models.preprocessing import Normalizer, intensities
from vitrail.models.store import Model, model_digest, save_model
from vitrail.settings.load import Settings

CPU = torch.device("cpu")
METHOD = METHODS["expected_gradients"]


@pytest.mark.parametrize("pixels", [False, True])
def test_of_a_linear_network_it_is_weight_times_the_difference_to_the_mean_reference(pixels) -> None:
    network, x, baselines = LinearNetwork(8, pixels=pixels), noise(3, 3, 8, 8), noise(5, 3, 8, 8, seed=1)
    found = expected_gradients(network, x, baselines, pixels="all", steps=10)  # each of them twice
    relevance = (network.weight * (x - baselines.mean(0))).sum(1).detach() / (64 if pixels else 1)
    torch.testing.assert_close(found.values, cell_sums(relevance))
    torch.testing.assert_close(found.residue, torch.zeros(3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("pixels", [False, True])
def test_with_many_steps_it_is_the_mean_of_integrated_gradients(pixels) -> None:
    """What GradientShap of captum estimates, too, with a draw of its own."""
    network, x, baselines = small_network(nn.SiLU, pixels=pixels), noise(2, 3, 16, 16), noise(3, 3, 16, 16, seed=1)

    def score(images):
        return network(images)[:, TissueClass.TUMOR].mean((1, 2)) if pixels else network(images)

    each = [IntegratedGradients(score).attribute(x, one.expand_as(x), n_steps=24) for one in baselines]
    expected = cell_sums(torch.stack(each).mean(0).sum(1)).float()
    found = expected_gradients(network, x, baselines, pixels="all", steps=480)
    assert (found.values - expected).norm() < 0.05 * expected.norm()
    with torch.no_grad():
        difference = score(x) - score(baselines).mean()
    torch.testing.assert_close(found.values.sum((1, 2)) - found.residue, difference, atol=1e-4, rtol=1e-4)
    assert found.residue.abs().max() < 0.05 * difference.abs().max()


def fitted(rows=100, side=64, seed=3, network=None):
    network = network or random_network(CLASSIFIER, most=1).eval()
    images = np.random.default_rng(0).integers(0, 256, (rows + 5, side, side, 3), np.uint8)
    tiles = HeadTiles(
        task="classifier",
        network=Explainer(Model(spec=CLASSIFIER, module=network), CPU, engine="torch"),
        images=images,
        rows=np.arange(5, rows + 5),
        tumor=np.arange(rows) % 2 == 0,
        settings=Settings.model_validate({"seed": seed}),
        unfinished=Path("nowhere"),
        augmenter=None,
        progress=Silent(),
    )
    return images, *METHOD.fit(tiles)


def test_the_references_are_a_sample_of_training_tiles_standardised_as_the_networks_images() -> None:
    images, head, record = fitted()
    assert record == {"baselines": TILES}
    rows = [int(np.flatnonzero((images == tile).all((1, 2, 3)))[0]) for tile in head.tiles.numpy()]
    assert min(rows) >= 5
    assert len(set(rows)) == TILES
    expected = Normalizer(CLASSIFIER, CPU)(intensities(head.tiles))
    torch.testing.assert_close(head.standardised(expected[:1]), expected)
    assert torch.equal(fitted()[1].tiles, head.tiles)
    assert not torch.equal(fitted(seed=4)[1].tiles, head.tiles)
    assert fitted(rows=7)[2] == {"baselines": 7}
    large = head.standardised(torch.zeros(1, 3, 150, 70))
    mirrored = np.pad(expected.numpy(), ((0, 0), (0, 0), (0, 86), (0, 6)), "symmetric")
    np.testing.assert_allclose(large.numpy(), mirrored, atol=1e-5)


@pytest.mark.parametrize("spec", [CLASSIFIER, SEGMENTER])
def test_an_image_is_explained_alike_in_any_batch(spec) -> None:
    network, head = random_network(spec, most=1).eval(), fitted()[1]
    x = noise(2, 3, 64, 64)
    found = METHOD.explain(network, x, head=head, pixels="all")
    alone = METHOD.explain(network, x[1:2], head=head, pixels="all")
    assert (alone.values[0] - found.values[1]).abs().max() < 1e-3 * alone.values.abs().max()
    assert abs(alone.residue[0] - found.residue[1]) < 1e-3 * abs(alone.residue[0])
    assert METHOD.redraw(head, 1) is head


def test_without_training_tiles_nothing_is_explained() -> None:
    with pytest.raises(ModelError, match="has no training tiles"):
        METHOD.explain(small_network(), noise(1, 3, 16, 16))


def test_the_tiles_are_stored_with_the_model_that_they_are_for(tmp_path) -> None:
    own, folder = tmp_path / "classifier", tmp_path / "explanations" / "classifier"
    network = random_network(CLASSIFIER)
    save_model(own, network, CLASSIFIER)
    head = replace(fitted(network=network)[1], fitted_on=model_digest(own))
    METHOD.save(folder, head)
    heads, missing = find_heads(own, [METHOD])
    assert not missing
    for name in ("tiles", "black", "white"):
        assert torch.equal(getattr(heads[METHOD.name], name), getattr(head, name))
    METHOD.save(folder, replace(head, fitted_on="other"))
    assert "other weights" in find_heads(own, [METHOD])[1][METHOD.name]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(b"{}"), "not a readable file of training tiles"),
        (lambda path: METHOD.save(path.parent, replace(fitted()[1], black=torch.zeros(2))), "holds no training tiles"),
    ],
)
def test_a_file_that_is_none_is_an_error(tmp_path, change, problem) -> None:
    METHOD.save(tmp_path, fitted()[1])
    change(tmp_path / "expected_gradients.safetensors")
    with pytest.raises(ModelError, match=problem):
        METHOD.load(tmp_path)
