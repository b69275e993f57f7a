from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.networks import CLASSIFIER, SEGMENTER, random_network
from vitrail.errors import ModelError
from vitrail.explain.nuclei.concepts import PooledLayer, concept_vectors, pooled_layer, tile_concepts
from vitrail.models.preprocessing import Normalizer, intensities
from vitrail.models.store import Model

CPU = torch.device("cpu")


def layer(weights, tiles=96, channels=80, sources=24, seed=0):
    """A layer of independent sources and noise, and a score that is linear in the first of the sources."""
    rng = np.random.default_rng(seed)
    values, mixing = rng.normal(size=(tiles, sources)), np.linalg.qr(rng.normal(size=(channels, sources)))[0].T
    features = values @ mixing + 0.05 * rng.normal(size=(tiles, channels))
    gradient = np.asarray(weights, float) @ mixing[: len(weights)]
    return PooledLayer(features=features, gradients=gradient + 0.02 * rng.normal(size=features.shape)), values, rng


def test_a_concept_is_held_and_used_or_held_and_not_used_or_not_held():
    pooled, sources, rng = layer([2.0, 0.0, -2.0])
    names = ["area", "darkness", "crowding"]
    concepts = pd.DataFrame(sources[:, :3] + 0.2 * rng.normal(size=(96, 3)), columns=names)
    concepts["elsewhere"], concepts["constant"] = rng.normal(size=96), 3.0
    table = concept_vectors(pooled, concepts, np.arange(96) // 8, seed=1).set_index("concept")
    assert table["verdict"].to_dict() == {
        "area": "more", "darkness": "as_null", "crowding": "less", "elsewhere": "not_held", "constant": "undefined"
    }  # fmt: skip
    assert (table.loc[["area", "darkness", "crowding"], "r2"] > 0.5).all()
    assert table.loc["elsewhere", "r2"] < 0.2
    assert table.loc["area", "br"] > 0 > table.loc["crowding", "br"]
    assert table.loc["area", "low"] < table.loc["area", "derivative"] < table.loc["area", "high"]


def test_a_layer_of_few_directions_tells_no_concept_from_chance():
    """Where all that varies has three directions, any other concept also leads along the score's."""
    pooled, sources, _ = layer([2.0, 0.0, -1.0], sources=3)
    table = concept_vectors(pooled, pd.DataFrame(sources[:, :1]), np.arange(96) // 8)
    assert table["r2"][0] > 0.9
    assert table["verdict"][0] == "as_null"


def test_what_patients_have_in_common_by_chance_is_not_held():
    """Concept and layer are nearly constant within patients: 60 tiles are but eight facts."""
    held = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        patient = np.arange(64) // 8
        features = rng.normal(size=(8, 40))[patient] + 0.1 * rng.normal(size=(64, 40))
        concept = pd.DataFrame({"x": rng.normal(size=8)[patient] + 0.1 * rng.normal(size=64)})
        pooled = PooledLayer(features=features, gradients=np.ones((64, 40)))
        held += concept_vectors(pooled, concept, patient, seed=seed, permutations=99)["verdict"][0] in {"more", "less"}
    assert held <= 3


def test_too_few_patients_are_undefined():
    pooled, sources, _ = layer([1.0, 0, 0])
    table = concept_vectors(pooled, pd.DataFrame({"a": sources[:, 0]}), np.arange(96) // 48)
    assert table["verdict"].tolist() == ["undefined"]


def test_tiles_have_means_of_their_nuclei():
    table = pd.DataFrame({"area_um2": [np.e, np.e**3, 5.0], "solidity": [0.5, 0.7, np.nan]})
    result = tile_concepts(table, ["b", "b", "a"])
    assert list(result.index) == ["a", "b"]
    assert result.loc["b", "area_um2"] == pytest.approx(2)
    assert result.loc["b", "solidity"] == pytest.approx(0.6)
    assert result["nuclei"].tolist() == [1, 2]
    assert result.loc["a", "anisokaryosis"] == 0
    assert result.loc["b", "anisokaryosis"] == pytest.approx((np.e**3 - np.e) / (np.e**3 + np.e))


@pytest.mark.parametrize("spec", [CLASSIFIER, SEGMENTER])
def test_gradients_tell_what_the_score_does_when_a_layers_means_move(spec):
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    model = Model(spec=spec, module=random_network(spec).eval())
    pooled = pooled_layer(model, images, device=CPU, batch=2)
    assert pooled.features.shape == pooled.gradients.shape
    assert len(pooled.features) == 3
    if spec is SEGMENTER:
        return
    network = model.module
    with torch.no_grad():
        maps = network.features(Normalizer(spec, CPU)(intensities(torch.tensor(images))))
        np.testing.assert_allclose(pooled.features, maps.double().mean((2, 3)).numpy(), rtol=1e-4, atol=1e-4)
        step = torch.zeros(1, maps.shape[1], 1, 1)
        step[0, 5] = 1e-2
        moved = (network.head(maps + step) - network.head(maps - step)).double().numpy() / 2e-2
    np.testing.assert_allclose(pooled.gradients[:, 5], moved, rtol=2e-2, atol=1e-5)


def test_a_layer_that_is_not_there_is_refused():
    images = np.zeros((2, 64, 64, 3), np.uint8)
    with pytest.raises(ModelError, match="nowhere"):
        pooled_layer(Model(spec=CLASSIFIER, module=random_network(CLASSIFIER)), images, "nowhere", device=CPU)
