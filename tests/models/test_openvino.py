from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from helpers.networks import CLASSIFIER, SEGMENTER, random_head, random_network
from vitrail.classes import TissueClass
from vitrail.core.cache import read_cached
from vitrail.errors import SettingsError
from vitrail.explain.explainer import Explainer
from vitrail.explain.layers import find_layers
from vitrail.inference.predictor import Predictor
from vitrail.models import openvino
from vitrail.models.openvino import BLOCK, Compiled, use_openvino
from vitrail.models.store import Model, load_model, save_model

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


def test_the_first_inference_is_one_threads_alone(monkeypatch):
    """Of two first ones at once, one waits for the other with Python's lock in its hands: seen to last for ever."""
    running, together = set(), []

    def computed(*arguments):
        running.add(threading.get_ident())
        together.append(len(running))
        time.sleep(0.02)
        running.discard(threading.get_ident())
        return compute(*arguments)

    compute = openvino._computed
    monkeypatch.setattr(openvino, "_computed", computed)
    compiled = [Compiled(Sums()) for _ in range(2)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: compiled[number % 2](tiles(1, 9 + number % 2)), range(4)))
    assert together[0] == 1
    assert len(together) == 4 + 2  # each was tried once, first


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


class Scaled(nn.Module):
    """An output whose value is known, from a weight."""

    def __init__(self, scale=2.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, images):
        """Add up bytes over the image, times the weight."""
        return images.float().sum((1, 2)) * self.scale


def never_built():
    raise AssertionError("built, although it was compiled before")


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "vitrail" / "openvino"


def test_what_was_compiled_is_read_and_nothing_is_built(kept):
    images = tiles(3)
    first = Compiled(Scaled, digest="weights 2")(images)[0]
    (path,) = kept.iterdir()
    np.testing.assert_array_equal(first, 2 * images.sum((1, 2), dtype=np.int64))
    np.testing.assert_array_equal(Compiled(never_built, digest="weights 2")(images)[0], first)
    assert [*kept.iterdir()] == [path]


def test_other_weights_sizes_and_options_are_compiled_anew(kept):
    images = tiles(3)
    for number, (changes, other) in enumerate(
        [({}, images), ({"digest": "weights 3"}, images), ({"block": 2}, images), ({"threads": 1}, images),
         ({}, tiles(3, 12)), ({}, images.astype(np.int32))], 1,
    ):  # fmt: skip
        scale = 3.0 if "digest" in changes else 2.0
        compiled = Compiled(lambda scale=scale: Scaled(scale), **{"digest": "weights 2", "threads": 2, **changes})
        np.testing.assert_array_equal(compiled(other)[0], scale * other.sum((1, 2), dtype=np.int64))
        assert len([*kept.iterdir()]) == number


def test_other_code_is_compiled_anew(kept, monkeypatch):
    Compiled(Scaled, digest="weights 2")(tiles(1))
    monkeypatch.setattr("vitrail.models.openvino._code", lambda: ("another release",))
    Compiled(Scaled, digest="weights 2")(tiles(1))
    assert len([*kept.iterdir()]) == 2


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda _: b""])
def test_a_damaged_file_is_compiled_anew_in_silence(kept, damage):
    images = tiles(3)
    first = Compiled(Scaled, digest="weights 2")(images)[0]
    (path,) = kept.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    np.testing.assert_array_equal(Compiled(Scaled, digest="weights 2")(images)[0], first)
    assert read_cached(path)


def test_where_nothing_can_be_kept_it_computes_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    images = tiles(3)
    np.testing.assert_array_equal(
        Compiled(Scaled, digest="weights 2")(images)[0], 2 * images.sum((1, 2), dtype=np.int64)
    )


def probabilities(folder, images):
    return Predictor(load_model(folder, later=True), CPU, engine="openvino").tumor_probability(images)


def test_a_model_folder_is_compiled_once_until_its_weights_change(kept, tmp_path, monkeypatch):
    images, folder = pictures(9), tmp_path / "model"
    networks = [random_network(CLASSIFIER).eval() for _ in range(2)]
    with torch.no_grad():
        networks[1].dense.weight.mul_(-1)
    answers = []
    for network in networks:
        save_model(folder, network, CLASSIFIER)
        eager = Predictor(load_model(folder), CPU, engine="openvino").tumor_probability(images)
        answers.append(probabilities(folder, images))
        np.testing.assert_array_equal(answers[-1], eager)
    assert (answers[0] != answers[1]).any()
    assert len([*kept.iterdir()]) == 2
    with monkeypatch.context() as patch:
        patch.setattr("vitrail.models.store.build", never_built)
        np.testing.assert_array_equal(probabilities(folder, images), answers[1])
        save_model(folder, networks[0], CLASSIFIER)
        np.testing.assert_array_equal(probabilities(folder, images), answers[0])


@pytest.mark.usefixtures("kept")
def test_weights_that_were_changed_in_memory_are_not_those_of_their_file(tmp_path):
    images, folder = pictures(9), tmp_path / "model"
    save_model(folder, random_network(CLASSIFIER), CLASSIFIER)
    stored, model = probabilities(folder, images), load_model(folder, later=True)
    with torch.no_grad():
        model.module.dense.weight.mul_(-1)
    changed = Predictor(model, CPU, engine="openvino").tumor_probability(images)
    assert (changed != stored).any()
    np.testing.assert_array_equal(probabilities(folder, images), stored)


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


def equal(found, expected, atol=1e-4):
    """Equal but for what another order of additions does: within 1e-4 of the largest value."""
    largest = np.abs(expected).max()
    assert largest > 0
    np.testing.assert_allclose(found / largest, expected / largest, atol=atol)


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


@pytest.mark.parametrize(
    ("target", "pixels", "dense"),
    [
        (TissueClass.TUMOR, "all", {}),
        (TissueClass.OTHER, "predicted", {"stride": 16, "margin_px": 32}),
    ],
)
def test_a_segmenters_maps_are_those_of_torch(target, pixels, dense):
    network, images = random_network(SEGMENTER, most=1.0).eval(), pictures(9)
    model, heads = Model(spec=SEGMENTER, module=network), {"hrcam": random_head(find_layers(network))}
    one, other = (Explainer(model, CPU, batch=5, engine=engine, **dense) for engine in ("torch", "openvino"))
    methods = ("hrcam", "gradcam") if target is TissueClass.TUMOR else ("gradcam",)
    expected, found = ([*e.maps(images, methods, heads, target, pixels=pixels)] for e in (one, other))
    assert [len(maps[0].values) for maps in found] == [5, 4]
    for batches in zip(expected, found, strict=True):
        for torch_s, maps in zip(*batches, strict=True):
            about = [(m.method, m.layers, m.target, m.frame, m.signed) for m in (torch_s, maps)]
            assert about[0] == about[1]
            equal(maps.output.numpy(), torch_s.output.numpy())
            equal(maps.values.numpy(), torch_s.values.numpy(), 1e-3)  # of a class may be a pixel more, or one less
    assert len(other._compiled) == 1
    mask = torch.ones(2, 64, 64, dtype=torch.bool)  # is for torch
    expected, found = (e.gradcam(images[:2], target, mask) for e in (one, other))
    np.testing.assert_array_equal(found[1].values, expected[1].values)
    assert len(other._compiled) == 1


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
