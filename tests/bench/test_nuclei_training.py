from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vitrail.nuclei.network import NucleusNetwork


@pytest.fixture(scope="module")
def training():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2])
        yield importlib.import_module("bench.nuclei_training")


def field(training, side=160):
    y, x = np.mgrid[:side, :side]
    labels = np.zeros((side, side), np.int32)
    points = np.array([[40.0, 40.0], [100.0, 50.0], [70.0, 110.0]])
    for number, (px, py) in enumerate(points, start=1):
        labels[(x - px) ** 2 + (y - py) ** 2 <= 81] = number
    image = np.where(labels[..., None] > 0, (95, 65, 140), (228, 180, 205))
    image = (image + np.random.default_rng(0).normal(0, 3, image.shape)).clip(0, 255).astype(np.uint8)
    return training.Field(image=image, points=points, labels=labels, unknown=labels < 0)


def test_points_get_the_outlines_of_their_nuclei_and_the_rest_is_left_out(training):
    drawn = field(training)
    labels, unknown = training.outlined(drawn.image, drawn.points)
    assert np.count_nonzero((labels > 0) != (drawn.labels > 0)) < 0.15 * np.count_nonzero(drawn.labels)
    assert not unknown.any()
    two = training.Field(
        image=drawn.image, points=drawn.points[:2], labels=np.where(drawn.labels < 3, drawn.labels, 0), unknown=unknown
    )
    done = training.completed(two)
    assert done.unknown[drawn.labels == 3].all()
    assert not done.unknown[drawn.labels == 0][::7].all()
    assert np.count_nonzero(done.labels == 1) == pytest.approx(np.count_nonzero(drawn.labels == 1), rel=0.1)


def test_depth_is_one_in_the_middle_and_falls_to_the_border(training):
    drawn = field(training)
    depth = training.depth(drawn.labels)
    assert depth.max() == 1
    assert depth[40, 40] > 0.9
    assert 0 < depth[40, 49] < 0.15
    assert (depth[drawn.labels == 0] == 0).all()


def test_exported_weights_compute_what_the_trained_network_does(tmp_path, training):
    torch.manual_seed(0)
    network = NucleusNetwork(normalised=True)
    images, targets = training.batch([field(training).tensors()], [field(training).tensors()], np.random.default_rng(0))
    assert images.shape == targets.shape == (training.BATCH, 3, training.SIDE_PX, training.SIDE_PX)
    for _ in range(2):  # statistics of the normalisation that are no zeros and ones
        training.loss_of(network(images), targets).backward()
    training.export(network, tmp_path / "network.safetensors")
    plain = NucleusNetwork()
    weights = load_file(tmp_path / "network.safetensors")
    plain.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    with torch.inference_mode():
        assert torch.allclose(plain.eval()(images[:2]), network.eval()(images[:2]), atol=5e-3)
