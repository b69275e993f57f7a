from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from helpers.networks import CLASSIFIER, SEGMENTER, random_head, random_network
from vitrail.classes import TissueClass
from vitrail.errors import SettingsError
from vitrail.explain.explainer import Explainer
from vitrail.explain.layers import find_layers
from vitrail.inference.predictor import Predictor
from vitrail.models.openvino import BLOCK, Compiled, use_openvino
from vitrail.models.store import Model

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="the extra openvino is not installed")
# not importorskip, which would import it with its telemetry

CPU = torch.device("cpu")


class Sums(nn.Module):
    """Two outputs whose values are known."""

    def forward(self, images):
        """Add up bytes over the image, and over rows."""
        values = images.float()
        return values.sum((1, 2)), values.sum(2) * 2


def tiles(count, height=9, width=7, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width), np.uint8)


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 3])
def test_every_image_has_its_own_outputs(count):
    images = tiles(count)
    sums, rows = Compiled(Sums())(images)
    np.testing.assert_array_equal(sums, images.sum((1, 2), dtype=np.int64))
    np.testing.assert_array_equal(rows, 2 * images.sum(2, dtype=np.int64))
    assert sums.dtype == rows.dtype == np.float32


def test_every_size_is_compiled_once_and_sizes_may_alternate():
    compiled = Compiled(Sums())
    for height in (9, 12, 9):
        images = tiles(3, height)
        np.testing.assert_array_equal(compiled(images)[0], images.sum((1, 2), dtype=np.int64))
    assert len(compiled._queues) == 2


def test_several_threads_may_ask_at_the_same_time():
    compiled, questions = Compiled(Sums()), [tiles(3 * BLOCK - 1, 9 + 3 * (seed % 2), seed=seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        for images, (sums, rows) in zip(questions, pool.map(compiled, questions), strict=True):
            np.testing.assert_array_equal(sums, images.sum((1, 2), dtype=np.int64))
            np.testing.assert_array_equal(rows, 2 * images.sum(2, dtype=np.int64))
    assert len(compiled._queues) == 2


def test_what_it_returns_is_kept_when_it_is_called_again():
    compiled = Compiled(Sums())
    first = compiled(tiles(4))[0]
    kept = first.copy()
    compiled(tiles(4, seed=1))
    np.testing.assert_array_equal(first, kept)


def test_views_that_are_not_contiguous():
    images = tiles(2 * BLOCK)[::2, :, ::-1]
    np.testing.assert_array_equal(Compiled(Sums())(images)[1], 2 * images.sum(2, dtype=np.int64))


def test_nothing_is_told_to_anybody():
    Compiled(Sums())(tiles(1))
    assert sys.modules["openvino_telemetry"] is None


def test_who_computes(monkeypatch):
    assert use_openvino("auto", CPU)
    assert not use_openvino("torch", CPU)
    assert not use_openvino("auto", torch.device("cuda"))
    with pytest.raises(SettingsError, match="it computes on the CPU, not on cuda"):
        use_openvino("openvino", torch.device("cuda"))
    monkeypatch.setattr("vitrail.models.openvino.find_spec", lambda _: None)
    assert not use_openvino("auto", CPU)
    with pytest.raises(SettingsError, match=r"is not installed\. Run: pip install 'vitrail"):
        use_openvino("openvino", CPU)


@pytest.fixture(scope="module", params=["relu", "linear"])
def network(request):
    return random_network(CLASSIFIER.model_copy(update={"activation": request.param})).eval()


@pytest.fixture(scope="module")
def explainers(network):
    model = Model(spec=CLASSIFIER, module=network)
    return [Explainer(model, CPU, batch=6, engine=engine) for engine in ("torch", "openvino")]


def pictures(count):
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), np.uint8)


def equal(found, expected):
    """Equal but for what another order of additions does: within 1e-4 of the largest value."""
    largest = np.abs(expected).max()
    assert largest > 0
    np.testing.assert_allclose(found / largest, expected / largest, atol=1e-4)


@pytest.mark.parametrize("target", [TissueClass.TUMOR, TissueClass.NON_TUMOR])
def test_maps_are_those_of_torch(explainers, network, target):
    images, hrcam_head = pictures(13), random_head(find_layers(network))
    alone = [explainer.gradcam(images, target) for explainer in explainers]
    high = [explainer.hrcam(images, hrcam_head, target) for explainer in explainers]
    for expected, found in (alone, high):
        equal(np.stack([each.values for each in found]), np.stack([each.values for each in expected]))
        assert [(e.method, e.layers, e.target) for e in found] == [(e.method, e.layers, e.target) for e in expected]
        equal(found[0].upsample(), expected[0].upsample())
    methods, heads = ("gradcam", "hrcam"), {"hrcam": hrcam_head}
    both = [list(zip(*explainer.maps(images, methods, heads, target), strict=True)) for explainer in explainers]
    assert [len(maps.values) for maps in both[1][0]] == [6, 6, 1]
    for name, method in (("values", 0), ("output", 0), ("values", 1), ("head_logits", 1)):
        expected, found = (torch.cat([getattr(maps, name) for maps in each[method]]).numpy() for each in both)
        equal(found, expected)


def test_a_map_does_not_depend_on_its_neighbours(explainers):
    images = pictures(11)
    together, alone = explainers[1].gradcam(images), explainers[1].gradcam(images[7:8])
    np.testing.assert_array_equal(together[7].values, alone[0].values)


def test_a_network_stays_as_it_was(network):
    network.train()
    Explainer(Model(spec=CLASSIFIER, module=network), CPU, engine="openvino").gradcam(pictures(1))
    assert network.training
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())
    network.eval()


@pytest.mark.parametrize("side", [64, 40])
def test_predictions_are_those_of_torch(side):
    images = np.random.default_rng(1).integers(0, 256, (70, side, side, 3), np.uint8)
    images[:20] //= 3  # darker ones, so that they differ
    for spec in (CLASSIFIER, SEGMENTER):
        model = Model(spec=spec, module=random_network(spec).eval())
        one, other = (Predictor(model, CPU, engine=engine) for engine in ("torch", "openvino"))
        logits, found = (np.concatenate([o.numpy() for o in engine.outputs(images)]) for engine in (one, other))
        equal(found, logits)
        if spec is SEGMENTER:
            assert (one.pixel_classes(images) != other.pixel_classes(images)).mean() < 1e-3
            near = np.abs(other.class_probabilities(images) - one.class_probabilities(images))
            assert near.mean() < 1e-4
        else:
            np.testing.assert_allclose(other.tumor_probability(images), one.tumor_probability(images), atol=1e-3)
            assert other.tumor_probability(images[:0]).shape == (0,)


def test_a_prediction_does_not_depend_on_its_neighbours():
    engine = Predictor(Model(spec=CLASSIFIER, module=random_network(CLASSIFIER).eval()), CPU, engine="openvino")
    images = pictures(19)
    np.testing.assert_array_equal(engine.tumor_probability(images)[3:6], engine.tumor_probability(images[3:6]))
