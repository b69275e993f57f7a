from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from helpers.training import make_parts, settings
from vitrail.classes import TissueClass
from vitrail.core.progress import Silent
from vitrail.inference.predictor import Predictor, agreed_type
from vitrail.models.device import half_type
from vitrail.models.half_precision import is_faster
from vitrail.models.preprocessing import Normalizer, intensities
from vitrail.models.spec import ClassifierSpec, HalfCheck, SegmenterSpec
from vitrail.models.store import Model, build, load_model
from vitrail.training import calibrate as finish
from vitrail.training.calibrate import TrainedModel, calibrate, compare_half, examine
from vitrail.training.loader import Loader
from vitrail.training.trainer import train

CPU = torch.device("cpu")
SIDE = 32
SHARED = {"encoder": "test_efficientnet", "side_um": 199.1, "side_px": SIDE, "mean": (0.5,) * 3, "std": (0.25,) * 3}
SPECS = {
    "classifier": ClassifierSpec(**SHARED, dense=8, dropout=0),
    "segmenter": SegmenterSpec(**SHARED, decoder=(8,) * 5),
}
MIX = torch.tensor([[1.5, -1.0, 0.3], [-1.0, 1.2, 0.1], [0.2, 0.4, -1.0], [0.0, -0.5, 1.0]])
"""Colours to the logits of classes."""


class Sees(nn.Module):
    """Tells classes from colours, and is as many times too sure as it is told."""

    def __init__(self, task, too_sure=1.0):
        super().__init__()
        self.task, self.too_sure = task, too_sure

    def forward(self, images):
        logits = torch.einsum("kc,nchw->nkhw", MIX, images)
        return self.too_sure * (logits[:, 0].mean((1, 2)) if self.task == "classifier" else logits)


class Told(Silent):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def examinee(task, too_sure=1.0, n=1500, side=2):
    """Tiles, of one colour each or of noise, whose classes are drawn with just the probabilities that `Sees` says."""
    rng = np.random.default_rng(4)
    images = rng.integers(0, 256, (n, 1, 1, 3) if task == "classifier" else (n, side, side, 3), np.uint8)
    images = np.array(np.broadcast_to(images, (n, side, side, 3)))
    spec = SPECS[task].model_copy(update={"side_px": side})
    logits = Sees(task)(Normalizer(spec, CPU)(intensities(torch.from_numpy(images)))).double()
    if task == "classifier":
        truth = (rng.random(n) < logits.sigmoid().numpy()).astype(np.float32)
    else:
        edges = logits.softmax(1).cumsum(1).numpy()
        truth = (rng.random((n, 1, side, side)) > edges[:, :3]).sum(1).astype(np.uint8)
    loader = Loader(images=images, targets=truth, device=CPU)
    return TrainedModel(network=Sees(task, too_sure), spec=spec, loader=loader, rows=np.arange(n), batch=64, seed=0)


@pytest.mark.parametrize("task", SPECS)
def test_a_network_that_is_too_sure_is_told_by_how_much(task):
    right = calibrate(examinee(task))
    assert right == pytest.approx(1, abs=0.1)
    for times in (0.5, 3.0):
        assert calibrate(examinee(task, times)) == pytest.approx(times * right, rel=1e-5)


def test_of_many_pixels_a_few_are_enough_and_the_same_each_time(monkeypatch):
    whole = calibrate(examinee("segmenter", n=400, side=8))
    monkeypatch.setattr(finish, "PIXELS", 400 * 16)
    read = []
    monkeypatch.setattr(finish, "fit_temperature", lambda logits, truth: read.append((logits, truth)) or 2.0)
    for _ in range(2):
        assert calibrate(examinee("segmenter", n=400, side=8)) == 2.0
    (logits, truth), (again, _) = read
    assert (logits.shape, truth.shape) == ((6400, 4), (6400,))
    np.testing.assert_array_equal(logits, again)
    monkeypatch.undo()
    monkeypatch.setattr(finish, "PIXELS", 400 * 16)
    assert calibrate(examinee("segmenter", n=400, side=8)) == pytest.approx(whole, abs=0.15)


@pytest.mark.parametrize("rows", [[], "tumor"])
def test_one_class_alone_leaves_the_temperature_at_1_and_it_is_said(rows):
    made, told = examinee("classifier", 3.0), Told()
    chosen = np.flatnonzero(made.loader.targets == 1) if rows == "tumor" else np.empty(0, np.int64)
    alone = TrainedModel(network=made.network, spec=made.spec, loader=made.loader, rows=chosen, batch=64, seed=0)
    assert examine(alone, told).temperature == 1
    assert told.lines == ["classifier: not calibrated, for its validation tiles do not hold several classes"]


def with_units(monkeypatch, *, there=True):
    """Let the CPU have instructions for bfloat16, or none; those that it lacks are emulated."""
    monkeypatch.setattr("vitrail.models.device._cpu_flags", lambda _path: {"avx512_bf16"} if there else set())


@pytest.mark.parametrize("task", SPECS)
def test_the_16_bit_check_is_the_difference_of_two_runs(task, monkeypatch):
    with_units(monkeypatch)
    made, spec = make_parts(), SPECS[task]
    torch.manual_seed(0)
    network = build(spec).eval()
    if task == "classifier":
        with torch.no_grad():  # centred on the threshold and spread, so that tiles change sides
            network.logit.weight.mul_(30)
            x = Normalizer(spec, CPU)(intensities(torch.from_numpy(made.tiles.images[made.validation])))
            network.logit.bias.sub_(network(x).median())
    targets = np.zeros(len(made.tiles.images), np.float32)
    loader = Loader(images=made.tiles.images, targets=targets, device=CPU)
    found = compare_half(TrainedModel(network=network, spec=spec, loader=loader, rows=made.validation, batch=5, seed=0))
    images = Normalizer(spec, CPU)(intensities(torch.from_numpy(made.tiles.images[made.validation])))
    with torch.inference_mode():
        full = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(images).float()
    if task == "classifier":
        full, half = full.double().sigmoid(), half.double().sigmoid()
        assert found.pixels is None
    else:
        assert found.pixels == pytest.approx((full.argmax(1) != half.argmax(1)).double().mean().item(), abs=2e-3)
        assert found.pixels > 0
        full, half = ((one.argmax(1) == TissueClass.TUMOR).double().mean((1, 2)) for one in (full, half))
    assert (found.dtype, found.tiles) == ("bfloat16", len(made.validation))
    assert found.largest == pytest.approx((full - half).abs().max().item(), abs=2e-3)
    assert found.largest > 0
    assert found.changed == pytest.approx(((full >= 0.5) != (half >= 0.5)).double().mean().item(), abs=2 / 16)


def test_without_units_nothing_is_compared(monkeypatch):
    with_units(monkeypatch, there=False)
    assert compare_half(examinee("classifier")) is None


def test_16_bits_need_a_check_of_their_own_type_that_agrees(monkeypatch):
    with_units(monkeypatch)

    def agreed(task, **seen):
        check = {"dtype": "bfloat16", "tiles": 256, "largest": 0.01, "changed": 0.001} | seen
        return agreed_type(SPECS[task].model_copy(update={"half": HalfCheck(**check)}), CPU) is not None

    assert agreed("classifier")
    assert agreed("segmenter", pixels=0.002)
    assert not agreed("segmenter")  # of a model from before, whose pixels nobody has compared
    for task in SPECS:
        for seen in ({"changed": 1 / 256}, {"largest": 0.011}, {"dtype": "float16"}):
            assert not agreed(task, pixels=0.0, **seen)
    assert not agreed("segmenter", pixels=0.0021)
    assert agreed_type(SPECS["classifier"], CPU) is None
    with_units(monkeypatch, there=False)
    assert not agreed("classifier")


@pytest.fixture
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(("gain", "dtype"), [(1.3, torch.bfloat16), (1.1, torch.float32)])
def test_16_bits_are_taken_where_they_were_measured_to_be_faster(cached, monkeypatch, gain, dtype):
    """Measured once: the second engine is not asked again, and would come to the other answer."""
    with_units(monkeypatch)
    half = HalfCheck(dtype="bfloat16", tiles=256, largest=0.0, changed=0.0)
    model = Model(spec=SPECS["classifier"].model_copy(update={"half": half}), module=build(SPECS["classifier"]))
    images = make_parts().tiles.images[:4]
    for answer in (gain, 2.4 - gain):
        monkeypatch.setattr("vitrail.models.half_precision._gain", lambda *_, answer=answer: answer)
        auto = Predictor(model, CPU, engine="torch").tumor_logits(images)
        fixed = Predictor(model, CPU, engine="torch", precision=str(dtype).removeprefix("torch.")).tumor_logits(images)
        np.testing.assert_array_equal(auto, fixed)
    assert len(list(cached.rglob("*.json"))) == 1


def test_what_cannot_be_kept_does_not_count(cached, monkeypatch):
    cached.write_text("a file where the folder should be")
    monkeypatch.setattr("vitrail.models.half_precision._gain", lambda *_: 9.0)
    assert not is_faster(SPECS["classifier"], lambda: None, lambda: None)


def test_the_gain_is_how_much_sooner_the_work_is_done(cached):
    clock = iter(np.cumsum([0.0, 9.0, 0.0, 9.0, *[0.0, 3.0, 0.0, 2.0] * 5]))  # warming up does not count
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitrail.models.half_precision.perf_counter", lambda: next(clock))
        assert is_faster(SPECS["classifier"], lambda: None, lambda: None)
    (path,) = cached.rglob("*.json")
    assert json.loads(path.read_text()) == {"gain": 1.5}


@pytest.mark.parametrize("task", SPECS)
def test_the_engine_divides_by_the_temperature_and_calls_the_same(task):
    torch.manual_seed(1)
    network, images = build(SPECS[task]), make_parts().tiles.images[:5]
    spec = SPECS[task].model_copy(update={"temperature": 2.5})
    warm = Predictor(Model(spec=spec, module=network), CPU, engine="torch")
    raw = Predictor(Model(spec=spec, module=network), CPU, engine="torch", calibrated=False)
    if task == "classifier":
        logits = warm.tumor_logits(images)
        np.testing.assert_allclose(warm.tumor_probability(images), 1 / (1 + np.exp(-logits / 2.5)), rtol=1e-12)
        np.testing.assert_allclose(raw.tumor_probability(images), 1 / (1 + np.exp(-logits)), rtol=1e-12)
    else:
        powered = raw.class_probabilities(images) ** (1 / 2.5)
        expected = powered / powered.sum(1, keepdims=True)
        np.testing.assert_allclose(warm.class_probabilities(images), expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(warm.pixel_classes(images), raw.pixel_classes(images))


@pytest.mark.parametrize("task", SPECS)
def test_a_training_ends_with_what_its_kept_weights_say(task, tmp_path):
    parts = make_parts()
    train(task, parts, settings(epochs=2), folder=tmp_path)
    model, targets = load_model(tmp_path), finish_targets(task, parts)
    loader = Loader(images=parts.tiles.images, targets=targets, device=CPU)
    own = TrainedModel(network=model.module, spec=model.spec, loader=loader, rows=parts.validation, batch=8, seed=0)
    assert model.spec.temperature == pytest.approx(calibrate(own), rel=1e-3)
    assert model.spec.temperature != 1
    assert (model.spec.half is None) == (half_type(CPU) is None)


def finish_targets(task, parts):
    return parts.tiles.masks if task == "segmenter" else np.float32(parts.tiles.rows["label"] == "tumor")
