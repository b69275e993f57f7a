"""Training with less memory: batches in parts, and activations computed twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from helpers.specs import segmenter_spec
from helpers.training import contents, history, make_parts, settings
from vitrail.models.recompute import backward_pass, recompute_activations
from vitrail.models.store import build
from vitrail.training.trainer import train

RECIPE = {"epochs": 1, "ema": 0.5, "mixup": 0.4}


def changed(own, **branches):
    update = {name: getattr(own, name).model_copy(update=values) for name, values in branches.items()}
    return own.model_copy(update=update)


@pytest.mark.parametrize(
    ("task", "branches"),
    [
        ("classifier", {"classifier": {"glass": 0.3}}),
        ("classifier", {"encoder": {"name": "test_vit"}}),
        ("segmenter", {"encoder": {"name": "mobilenetv2_035"}, "segmenter": {"accumulate": 2}}),
        ("segmenter", {"encoder": {"name": "test_resnet"}, "segmenter": {"layout": "timm"}}),
    ],
)
def test_activations_computed_twice_change_no_byte(task, branches, tmp_path):
    own, part = changed(settings(**RECIPE), **branches), make_parts(24)
    for name, again in (("kept", False), ("twice", True)):
        train(task, part, changed(own, compute={"checkpoint_activations": again}), folder=tmp_path / name)
    assert contents(tmp_path / "kept") == contents(tmp_path / "twice")


def saved_bytes(network):
    """Bytes that a forward pass keeps for the gradient."""
    total = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: (total.append(x.numel() * x.element_size()), x)[1], lambda x: x
    ):
        network.train()(torch.zeros(2, 3, 64, 64))
    return sum(total)


def test_activations_computed_twice_are_not_kept():
    network = build(segmenter_spec())
    before = saved_bytes(network)
    recompute_activations(network)
    assert saved_bytes(network) < before / 2


def test_statistics_stay_in_a_backward_pass():
    layer = nn.Sequential(nn.BatchNorm2d(2))
    with backward_pass(layer):
        layer(torch.randn(4, 2, 3, 3))
    assert layer[0].running_mean.tolist() == [0, 0]
    assert (layer[0].momentum, int(layer[0].num_batches_tracked)) == (0.1, 0)


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_a_batch_in_parts_is_the_batch_where_nothing_is_normalised_over_it(name, tmp_path):
    """A vision transformer has none, and the loss is a mean over tiles. Of 20 tiles, batches have 8, 8 and 4."""
    classifier, encoder = {"loss": name, "dropout": 0.0, "glass": 0.2}, {"name": "test_vit"}
    own = changed(settings(epochs=1, learning_rate=1e-4), encoder=encoder, classifier=classifier)
    part = make_parts(30)
    for count in (1, 3):
        train("classifier", part, changed(own, classifier={"accumulate": count}), folder=tmp_path / str(count))
    np.testing.assert_allclose(history(tmp_path / "3").to_numpy(), history(tmp_path / "1").to_numpy(), rtol=1e-5)
    first, second = (load_file(tmp_path / name / "weights.safetensors") for name in ("1", "3"))
    for key, values in first.items():
        torch.testing.assert_close(second[key], values, rtol=1e-4, atol=1e-5)


def test_a_network_learns_in_parts(tmp_path):
    train("classifier", make_parts(), settings(epochs=5, accumulate=2), folder=tmp_path)
    assert history(tmp_path)["train_loss"].iloc[-1] < history(tmp_path)["train_loss"].iloc[0]


def test_default_settings_are_digested_as_before():
    own = settings()
    values = own.digest_values()
    assert "accumulate" not in values["classifier"]
    assert changed(own, classifier={"accumulate": 2}).digest_values()["classifier"]["accumulate"] == 2
