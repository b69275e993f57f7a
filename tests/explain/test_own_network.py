from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import vitrail
from helpers.cohort import tissue
from vitrail.errors import ModelError, SettingsError
from vitrail.explain.input_gradients import CELL_PX, blurred

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
SECOND = vitrail.Score(name="second class", of=lambda output: output["classes"][:, 1])


class Linear(nn.Module):
    """A score that is linear in the pixels, so that every method that is complete must give its own terms back."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0)))

    def forward(self, images):
        return {"classes": torch.einsum("nchw,kchw->nk", images, self.weights)}


@pytest.fixture(scope="module")
def images():
    return np.stack([tissue(seed, 24) for seed in range(3)])


def cells(values):
    side = values.shape[1] // CELL_PX
    return values.reshape(len(values), side, CELL_PX, side, CELL_PX).sum((2, 4))


@pytest.mark.parametrize("method", ["deeplift", "integrated_gradients"])
def test_a_linear_network_is_explained_exactly(images, method):
    network = Linear().train()
    maps = vitrail.explain_network(network, images, SECOND, method, mean=MEAN, std=STD)
    inputs = torch.from_numpy((images / 255 - 0.5) / 0.25).permute(0, 3, 1, 2).float()
    terms = ((inputs - blurred(inputs)) * network.weights[1]).sum(1).detach().numpy()
    assert np.stack([each.values for each in maps]) == pytest.approx(cells(terms), abs=2e-3)
    assert [each.target for each in maps] == ["second class"] * 3
    assert all(np.array_equal(each.image, image) for each, image in zip(maps, images, strict=True))
    assert network.training
    assert network.weights.requires_grad


@pytest.mark.parametrize("method", ["occlusion", "rise", "smoothgrad"])
def test_other_methods_find_the_only_place_that_counts(images, method):
    class Corner(nn.Module):
        def forward(self, inputs):
            return inputs[:, :, :8, :8].mean((1, 2, 3))

    rising = images.copy()
    rising[:, :8, :8] = np.random.default_rng(0).integers(180, 256, (3, 8, 8, 3))
    rising[:, 8:] = 40
    score = vitrail.Score(name="corner", of=lambda output: output)
    for each in vitrail.explain_network(Corner(), rising, score, method):
        values = np.abs(each.upsample())
        assert values[:8, :8].mean() > 2 * values[12:, 12:].mean()


def test_gradcam_of_a_named_layer_is_the_mean_gradient_times_the_features(images):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.append(nn.Linear(4, 2)).eval()
    score = vitrail.Score(name="first", of=lambda output: output[:, 0])
    maps = vitrail.explain_network(network, images, score, "gradcam", layer="1", mean=MEAN, std=STD)
    inputs = torch.from_numpy((images / 255 - 0.5) / 0.25).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        features = network[1](network[0](inputs))
        expected = torch.einsum("nchw,c->nhw", features, network[4].weight[0] / 24**2)
    assert np.stack([each.values for each in maps]) == pytest.approx(expected.numpy(), abs=1e-6)
    assert (maps[0].layers, maps[0].target) == (("1",), "first")


def test_what_cannot_be_explained_is_said(images):
    with pytest.raises(SettingsError, match=r"'hrcam' cannot explain a network of your own.*Take one of gradcam"):
        vitrail.explain_network(Linear(), images, SECOND, "hrcam")
    with pytest.raises(SettingsError, match="Grad-CAM weighs a layer"):
        vitrail.explain_network(Linear(), images, SECOND, "gradcam")
    with pytest.raises(SettingsError, match="is of no use to deeplift"):
        vitrail.explain_network(Linear(), images, SECOND, "deeplift", layer="1")
    both = vitrail.Score(name="both", of=lambda output: output["classes"])
    with pytest.raises(ModelError, match=r"gives \[3, 2\] for 3 images|gives \[\d, 2\] for \d images"):
        vitrail.explain_network(Linear(), images, both)


@pytest.mark.parametrize("method", ["gradcam", "deeplift"])
def test_a_score_of_all_classes_is_refused_by_every_method(images, method):
    both = vitrail.Score(name="both", of=lambda output: output)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ModelError, match=r"score 'both': gives \[(\d), 2\] for \1 images"):
        vitrail.explain_network(network, images, both, method, layer="0" if method == "gradcam" else None)


def test_images_and_networks_of_other_types_are_refused(images):
    for wrong in (images / 255, images[0], images.transpose(0, 3, 1, 2)):
        with pytest.raises(SettingsError, match=r"images: are not bytes \[n, h, w, 3\]"):
            vitrail.explain_network(Linear(), wrong, SECOND)
    with pytest.raises(SettingsError, match="network: does not compute in 32-bit floats"):
        vitrail.explain_network(Linear().half(), images, SECOND)
