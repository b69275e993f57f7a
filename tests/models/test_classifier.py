from __future__ import annotations

import json

import numpy as np
import torch

from helpers.specs import TINY, classifier_spec
from vitrail.models.encoder import feature_channels
from vitrail.models.preprocessing import Normalizer, intensities
from vitrail.models.store import build, load_model, save_model


def test_classifier_is_its_head_behind_its_features():
    network = build(classifier_spec()).eval()
    x = torch.rand(3, 3, 64, 64)
    with torch.inference_mode():
        features = network.features(x)
        assert features.shape == (3, feature_channels(TINY), 2, 2)
        assert torch.equal(network(x), network.head(features))
        by_hand = network.logit(network.dense(features.mean((2, 3))).clamp_min(0)).squeeze(1)
        torch.testing.assert_close(network(x), by_hand)


def test_the_dense_layer_is_linear_or_rectified(tmp_path):
    network = build(classifier_spec(activation="linear"))
    save_model(tmp_path, network, classifier_spec(activation="linear"))
    read, x = load_model(tmp_path).module, torch.rand(3, 3, 64, 64)
    with torch.inference_mode():
        pooled = network.eval().features(x).mean((2, 3))
        torch.testing.assert_close(read(x), network.logit(network.dense(pooled)).squeeze(1))
    old = json.loads((tmp_path / "model.json").read_text())
    assert old.pop("activation") == "linear"
    (tmp_path / "model.json").write_text(json.dumps(old))  # as it was before activations were stored
    with torch.inference_mode():
        expected = network.logit(network.dense(pooled).relu()).squeeze(1)
        torch.testing.assert_close(load_model(tmp_path).module(x), expected)


def test_inputs_are_standardised_without_a_copy_of_the_order():
    tiles = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8))
    images = intensities(tiles)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images[1, 2, 3, 4] == tiles[1, 3, 4, 2] / 255
    x = Normalizer(classifier_spec(), torch.device("cpu"))(images)
    torch.testing.assert_close(x[:, 1], (images[:, 1] - 0.5) / 0.25)
    assert x.is_contiguous(memory_format=torch.channels_last)
