from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from helpers.training import SPECS, make_parts, settings, with_units
from vitrail.classes import TissueClass
from vitrail.core.progress import Silent
from vitrail.models.batches import tumor_score
from vitrail.models.device import half_type
from vitrail.models.preprocessing import Normalizer, intensities
from vitrail.models.store import build, load_model
from vitrail.training import calibrate as module
from vitrail.training.calibrate import TrainedModel, calibrate, compare_half, compare_openvino, examine
from vitrail.training.loader import Loader
from vitrail.training.trainer import train

CPU = torch.device("cpu")
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


def trained(task, too_sure=1.0, n=1500, side=2):
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
    right = calibrate(trained(task))
    assert right == pytest.approx(1, abs=0.1)
    for times in (0.5, 3.0):
        assert calibrate(trained(task, times)) == pytest.approx(times * right, rel=1e-5)


def test_of_many_pixels_a_few_are_enough_and_the_same_each_time(monkeypatch):
    whole = calibrate(trained("segmenter", n=400, side=8))
    monkeypatch.setattr(module, "PIXELS", 400 * 16)
    read = []
    monkeypatch.setattr(module, "fit_temperature", lambda logits, truth: read.append((logits, truth)) or 2.0)
    for _ in range(2):
        assert calibrate(trained("segmenter", n=400, side=8)) == 2.0
    (logits, truth), (again, _) = read
    assert (logits.shape, truth.shape) == ((6400, 4), (6400,))
    np.testing.assert_array_equal(logits, again)
    monkeypatch.undo()
    monkeypatch.setattr(module, "PIXELS", 400 * 16)
    assert calibrate(trained("segmenter", n=400, side=8)) == pytest.approx(whole, abs=0.15)


@pytest.mark.parametrize("rows", [[], "tumor"])
def test_one_class_alone_leaves_the_temperature_at_1_and_it_is_said(rows):
    made, told = trained("classifier", 3.0), Told()
    chosen = np.flatnonzero(made.loader.targets == 1) if rows == "tumor" else np.empty(0, np.int64)
    alone = TrainedModel(network=made.network, spec=made.spec, loader=made.loader, rows=chosen, batch=64, seed=0)
    assert examine(alone, told).temperature == 1
    assert told.lines == ["classifier: not calibrated, for its validation tiles do not hold several classes"]


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


def test_memory_that_is_too_small_in_one_type_alone_changes_nothing(monkeypatch):
    """In float32 batches are halved, in 16 bits they are not."""
    with_units(monkeypatch)
    made, sizes = trained("segmenter", n=70), []

    class Full(Sees):
        def forward(self, images):
            sizes.append(len(images))
            if len(images) > 16 and not torch.is_autocast_enabled("cpu"):
                raise torch.cuda.OutOfMemoryError("Tried to allocate")
            return super().forward(images)

    small = replace(made, network=Full("segmenter"))
    assert compare_half(small) == compare_half(made)
    assert {16, 32, 64} <= set(sizes)


@pytest.mark.parametrize("task", SPECS)
def test_what_openvino_rounds_is_compared_with_float32(task, monkeypatch):
    with_units(monkeypatch)

    class Rounded:
        """Stands in for OpenVINO: this machine's need not have the type."""

        def __init__(self, graph, *, precision):
            assert precision == "bf16"
            self.graph = graph

        def __call__(self, images):
            return (self.graph(torch.from_numpy(images)).detach().bfloat16().float().numpy(),)

    monkeypatch.setattr("vitrail.training.calibrate.Compiled", Rounded)
    monkeypatch.setattr("vitrail.training.calibrate.use_openvino", lambda *_: True)
    made = make_parts()
    loader = Loader(images=made.tiles.images, targets=np.zeros(len(made.tiles.images), np.float32), device=CPU)
    torch.manual_seed(0)
    model = TrainedModel(
        network=build(SPECS[task]), spec=SPECS[task], loader=loader, rows=made.validation, batch=5, seed=0
    )
    assert compare_openvino(model) is None  # trials are off in tests
    monkeypatch.setenv("VITRAIL_TRIALS", "on")
    found = compare_openvino(model)
    full = torch.cat([logits for logits, _ in model.logits(made.validation)])
    first, second = tumor_score(full), tumor_score(full.bfloat16().float())
    assert (found.dtype, found.tiles) == ("bfloat16", len(made.validation))
    assert found.largest == pytest.approx(np.abs(first - second).max(), abs=1e-3)
    assert found.largest > 0
    assert (found.pixels is None) == (task == "classifier")
    monkeypatch.setattr("vitrail.training.calibrate.use_openvino", lambda *_: False)
    assert compare_openvino(model) is None


def test_without_units_nothing_is_compared(monkeypatch):
    with_units(monkeypatch, there=False)
    assert compare_half(trained("classifier")) is None


@pytest.mark.parametrize("task", SPECS)
def test_a_training_ends_with_what_its_kept_weights_say(task, tmp_path):
    parts = make_parts()
    train(task, parts, settings(epochs=2), folder=tmp_path)
    model, targets = load_model(tmp_path), targets_of(task, parts)
    loader = Loader(images=parts.tiles.images, targets=targets, device=CPU)
    own = TrainedModel(network=model.module, spec=model.spec, loader=loader, rows=parts.validation, batch=8, seed=0)
    assert model.spec.temperature == pytest.approx(calibrate(own), rel=1e-3)
    assert model.spec.temperature != 1
    assert (model.spec.half is None) == (half_type(CPU) is None)


def targets_of(task, parts):
    return parts.tiles.masks if task == "segmenter" else np.float32(parts.tiles.rows["label"] == "tumor")
