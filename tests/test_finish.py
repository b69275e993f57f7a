from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from test_loop import make_parts, settings
from vitrail.classes import TissueClass
from vitrail.learn import finish
from vitrail.learn.data import Loader
from vitrail.learn.finish import Examinee, calibrate, compare_half, examine
from vitrail.learn.loop import train
from vitrail.models.device import Precision
from vitrail.models.inputs import Standardiser, intensities
from vitrail.models.spec import ClassifierSpec, HalfCheck, SegmenterSpec, read_spec
from vitrail.models.store import Model, build, load_model
from vitrail.predict.engine import Engine, checked_precision
from vitrail.progress import Silent

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
    logits = Sees(task)(Standardiser(spec, CPU)(intensities(torch.from_numpy(images)))).double()
    if task == "classifier":
        truth = (rng.random(n) < logits.sigmoid().numpy()).astype(np.float32)
    else:
        edges = logits.softmax(1).cumsum(1).numpy()
        truth = (rng.random((n, 1, side, side)) > edges[:, :3]).sum(1).astype(np.uint8)
    loader = Loader(images=images, targets=truth, device=CPU)
    return Examinee(network=Sees(task, too_sure), spec=spec, loader=loader, rows=np.arange(n), batch=64, seed=0)


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
    alone = Examinee(network=made.network, spec=made.spec, loader=made.loader, rows=chosen, batch=64, seed=0)
    assert examine(alone, told).temperature == 1
    assert told.lines == ["classifier: not calibrated, for its validation tiles do not hold several classes"]


def in_bfloat16(monkeypatch, *modules):
    for module in modules:
        monkeypatch.setattr(f"{module}.precision", lambda device: Precision(device=device, dtype=torch.bfloat16))


@pytest.mark.parametrize("task", SPECS)
def test_the_16_bit_check_is_the_difference_of_two_runs(task, monkeypatch):
    in_bfloat16(monkeypatch, "vitrail.learn.finish")
    made, spec = make_parts(), SPECS[task]
    torch.manual_seed(0)
    network = build(spec).eval()
    if task == "classifier":
        with torch.no_grad():  # centred on the threshold and spread, so that tiles change sides
            network.logit.weight.mul_(30)
            x = Standardiser(spec, CPU)(intensities(torch.from_numpy(made.tiles.images[made.validation])))
            network.logit.bias.sub_(network(x).median())
    targets = np.zeros(len(made.tiles.images), np.float32)
    loader = Loader(images=made.tiles.images, targets=targets, device=CPU)
    found = compare_half(Examinee(network=network, spec=spec, loader=loader, rows=made.validation, batch=5, seed=0))
    images = Standardiser(spec, CPU)(intensities(torch.from_numpy(made.tiles.images[made.validation])))
    with torch.inference_mode():
        full = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(images).float()
    if task == "classifier":
        full, half = full.double().sigmoid(), half.double().sigmoid()
    else:
        full, half = ((one.argmax(1) == TissueClass.TUMOR).double().mean((1, 2)) for one in (full, half))
    assert (found.dtype, found.tiles) == ("bfloat16", len(made.validation))
    assert found.largest == pytest.approx((full - half).abs().max().item(), abs=2e-3)
    assert found.largest > 0
    assert found.changed == pytest.approx(((full >= 0.5) != (half >= 0.5)).double().mean().item(), abs=2 / 16)


def test_without_units_nothing_is_compared(monkeypatch):
    monkeypatch.setattr(finish, "precision", lambda device: Precision(device=device, dtype=torch.float32))
    assert compare_half(examinee("classifier")) is None


def test_reduced_precision_needs_a_check_of_its_own_type_that_agrees(monkeypatch):
    in_bfloat16(monkeypatch, "vitrail.predict.engine")

    def chosen(half):
        return checked_precision(SPECS["classifier"].model_copy(update={"half": half}), CPU).dtype

    def seen(changed, dtype="bfloat16"):
        return HalfCheck(dtype=dtype, tiles=256, largest=0.01, changed=changed)

    assert chosen(seen(0.0)) == chosen(seen(0.001)) == torch.bfloat16
    assert chosen(seen(1 / 256)) == chosen(seen(0.0, "float16")) == chosen(None) == torch.float32


@pytest.mark.parametrize("task", SPECS)
def test_the_engine_divides_by_the_temperature_and_calls_the_same(task):
    torch.manual_seed(1)
    network, images = build(SPECS[task]), make_parts().tiles.images[:5]
    spec = SPECS[task].model_copy(update={"temperature": 2.5})
    warm = Engine(Model(spec=spec, module=network), CPU, engine="torch")
    raw = Engine(Model(spec=spec, module=network), CPU, engine="torch", calibrated=False)
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
    own = Examinee(network=model.module, spec=model.spec, loader=loader, rows=parts.validation, batch=8, seed=0)
    assert model.spec.temperature == pytest.approx(calibrate(own), rel=1e-3)
    assert model.spec.temperature != 1
    assert (model.spec.half is None) == (finish.precision(CPU).dtype == torch.float32)


def finish_targets(task, parts):
    return parts.tiles.masks if task == "segmenter" else np.float32(parts.tiles.rows["label"] == "tumor")


def test_a_model_from_before_is_read_and_computes_in_float32(tmp_path):
    content = json.loads(SPECS["classifier"].model_dump_json())
    del content["temperature"], content["half"]
    (tmp_path / "model.json").write_text(json.dumps(content))
    spec = read_spec(tmp_path / "model.json")
    assert (spec.temperature, spec.half) == (1.0, None)
