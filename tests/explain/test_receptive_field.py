from __future__ import annotations

import gc
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from vitrail.errors import ModelError
from vitrail.explain import receptive_field as align
from vitrail.explain.hooks import record_activations, seen
from vitrail.explain.layers import find_layers
from vitrail.explain.methods.gradcam import Score, classifier_gradcam, gradcam, segmenter_gradcam
from vitrail.explain.methods.hrcam import HRCamHead, hrcam
from vitrail.explain.receptive_field import BOTTLENECK, FEATURES, frames
from vitrail.explain.saliency import Frame
from vitrail.models.encoder import load_encoder, start_weights
from vitrail.models.spec import ClassifierSpec, SegmenterSpec
from vitrail.models.store import build
from vitrail.settings.load import EncoderSettings

SHARED = {"side_um": 199.1, "side_px": 96, "mean": (0.7, 0.5, 0.6), "std": (0.2, 0.25, 0.15)}


def classifier(encoder, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(ClassifierSpec(encoder=encoder, dense=8, dropout=0, **SHARED)).eval()


def even(network):
    """Make all kernels even, so that where a cell looks is the geometric centre of its receptive field."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.weight.fill_(0.1)
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(1)
    return network


def shifts(found):
    return [frame.shift_px for frame in found]


def composed(side, steps, *, same):
    """Compose the geometry of steps of stride 2 on one side by hand: where cell 0 looks, less its square's middle."""
    shift, stride, found = 0.0, 1, []
    for kernel in steps:
        wanted = math.ceil(side / 2)
        before = max((wanted - 1) * 2 + kernel - side, 0) // 2 if same else (kernel - 1) // 2
        shift += ((kernel - 1) / 2 - before - 0.5) * stride
        side, stride = wanted, stride * 2
        found.append(shift)
    return found


EFFICIENTNET, RESNET = (3, 3, 5, 3, 5), (7, 3, 3, 3, 3)  # kernels that have a stride of 2; of ResNet the second pools


@pytest.mark.parametrize("size", [(96, 96), (100, 50), (64, 70), (224, 33)])
@pytest.mark.parametrize(
    ("encoder", "steps", "same"),
    [
        ("tf_efficientnet_lite0", EFFICIENTNET, True),
        ("efficientnet_b0", EFFICIENTNET, False),
        ("resnet18", RESNET, False),
    ],
)
def test_even_kernels_look_where_their_geometry_says(encoder, steps, same, size):
    network = even(classifier(encoder))
    layers = find_layers(network)
    found = frames(network, (3, *size), layers.names, layers.strides)
    expected = list(zip(*(composed(side, steps, same=same) for side in size), strict=True))
    expected += [expected[-1]] * (len(found) - len(expected))  # the final convolution
    np.testing.assert_allclose(shifts(found), expected, atol=0.011)
    assert found[-1].span_px == tuple(-(-side // 32) * 32 for side in size)
    if size == (96, 96):
        assert expected[-1] == ((15.5, 15.5) if same else (-15.5, -15.5))


def one(layer, size=(24, 36), channels=3):
    (found,) = frames(nn.Sequential(layer), (channels, *size), ("0",))
    return found


def weighted(weight, **geometry):
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), **geometry)
    layer.weight = nn.Parameter(weight)
    return layer


def test_a_lopsided_kernel_looks_where_its_squared_weights_lie():
    weight = torch.randn(4, 3, 5, 3, generator=torch.Generator().manual_seed(0))
    square = weight.square().mean((0, 1)).numpy()
    rows, columns = square.sum(1) @ np.arange(5) / square.sum(), square.sum(0) @ np.arange(3) / square.sum()
    found = one(weighted(weight, stride=(2, 3), padding=(1, 2)))
    assert found.span_px == (22, 39)
    np.testing.assert_allclose(found.shift_px, (rows - 1 + 0.5 - 1, columns - 2 + 0.5 - 1.5), atol=0.006)
    first = torch.zeros(1, 3, 3, 3)
    first[..., 0, 2] = -2
    assert one(weighted(first, padding=1)).shift_px == (-1, 1)


@pytest.mark.parametrize(
    ("layer", "span", "shift"),
    [
        (nn.Conv2d(3, 4, 3), (22, 34), (1, 1)),
        (nn.Conv2d(3, 4, 3, padding="valid"), (22, 34), (1, 1)),
        (nn.Conv2d(3, 4, 4, padding="same"), (24, 36), (0.5, 0.5)),
        (nn.Conv2d(3, 4, 3, dilation=3, padding=(3, 1)), (24, 32), (0, 2)),
        (nn.Conv2d(3, 4, (1, 7), padding=(0, 3), padding_mode="reflect"), (24, 36), (0, 0)),
        (nn.Conv2d(3, 3, 2, stride=2, groups=3), (24, 36), (0, 0)),
        (nn.MaxPool2d(3, 2, 1), (24, 36), (-0.5, -0.5)),
        (nn.MaxPool2d(3, 2, ceil_mode=True), (24, 36), (0.5, 0.5)),
        (nn.AvgPool2d(2), (24, 36), (0, 0)),
        (nn.AvgPool2d(5, 3, 2, count_include_pad=False), (24, 36), (-1, -1)),
        (nn.ZeroPad2d((2, 0, 1, 1)), (26, 38), (-1, -2)),
        (nn.GroupNorm(1, 3), (24, 36), (0, 0)),
        (nn.InstanceNorm2d(3), (24, 36), (0, 0)),
        (nn.ReLU6(inplace=True), (24, 36), (0, 0)),
    ],
)  # fmt: skip
def test_layers(layer, span, shift):
    found = one(even(layer))
    assert (found.span_px, found.shift_px) == (span, shift)


def test_enlarging_again_brings_cells_back():
    down, up = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ConvTranspose2d(4, 4, 2, stride=2)
    for last in (up, nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2, mode="bilinear")):
        (found,) = frames(even(nn.Sequential(down, last)), (3, 32, 32), ("1",))
        assert (found.span_px, found.shift_px) == ((32, 32), (-0.5, -0.5))


class Branches(nn.Module):
    """Two branches of one stride that look at different places, added up."""

    def __init__(self):
        super().__init__()
        self.straight, self.suspend_hooks, self.out = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(3, 8, 3, 2, 1), nn.Identity()

    def forward(self, x):
        return self.out(self.straight(x) + self.suspend_hooks(x))


def test_branches_count_with_what_they_contribute():
    network = Branches()
    with torch.no_grad():
        network.straight.weight.fill_(0.5)
        network.suspend_hooks.weight.fill_(0.1)
    (found,) = frames(network, (3, 32, 32), ("out",))
    assert found.shift_px == (round(-0.5 * 9 * 0.01 / (4 * 0.25 + 9 * 0.01), 2),) * 2


def lopsided(seed=0):
    """Many channels, random weights, kernels that grow to the right and downwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [module for c in (3, 96, 96) for module in (nn.Conv2d(c, 96, 3, 2, 1), nn.BatchNorm2d(96), nn.ReLU())]
        network = nn.Sequential(*layers).eval()
        with torch.no_grad():
            for layer in layers[::3]:
                layer.weight *= torch.tensor([0.5, 1, 1.5]) * torch.tensor([0.2, 1, 2])[:, None]
    return network


def test_independent_weights_look_where_their_gradients_lie():
    network = lopsided()
    x = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    maps = network(x)[:, :, 4, 4]
    signs = torch.randn(12, *maps.shape, generator=torch.Generator().manual_seed(2))
    energy = sum(
        torch.autograd.grad((maps * sign).sum(), x, retain_graph=True)[0].square().sum((0, 1)) for sign in signs
    )
    pixels = torch.arange(64) + 0.5
    centre = torch.stack([energy.sum(1) @ pixels, energy.sum(0) @ pixels]) / energy.sum() - 4.5 * 8
    (found,) = frames(network, (3, 64, 64), ("8",))
    np.testing.assert_allclose(found.shift_px, centre, atol=0.25)
    assert min(found.shift_px) > -2  # not the -3.5 of even kernels


class Dot(nn.Module):
    """Answers to brightness: three smoothing convolutions of stride 2, padded evenly or like TensorFlow."""

    def __init__(self, *, same):
        super().__init__()
        self.same, self.maps = same, nn.Identity()
        smooth = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 2, 1]))[None, None] / 4
        self.smooth = nn.ModuleList(weighted(smooth, stride=2, padding=0 if same else 1, bias=False) for _ in range(3))

    def forward(self, x):
        for layer in self.smooth:
            x = layer(functional.pad(x, (0, 1, 0, 1)) if self.same else x)
        return self.maps(x).mean((1, 2, 3))


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("dot", [(50, 70), (47, 33), (64, 64)])
def test_heat_lies_on_the_dot(same, dot):
    network, x = Dot(same=same), torch.zeros(1, 1, 96, 96)
    x[0, 0, dot[0], dot[1]] = 1
    (found,) = gradcam(network, x, "maps", Score(name="brightness", of=lambda output: output)).saliencies()
    middle = np.array(dot) + 0.5
    np.testing.assert_allclose(centre(found.upsample()), middle, atol=0.05)
    square = replace(found, frame=replace(found.frame, shift_px=(0, 0)))
    np.testing.assert_allclose(centre(square.upsample()) - middle, -3.5 if same else 3.5, atol=0.05)


def centre(image):
    pixels = np.arange(len(image)) + 0.5
    return np.array([image.sum(1) @ pixels, image.sum(0) @ pixels]) / image.sum()


@pytest.mark.parametrize("same", [False, True])
def test_layers_meet_on_the_dot(same):
    """HR-CAM adds a fine and a coarse layer: both have their peak where the dot is."""
    network, x = Dot(same=same), torch.zeros(1, 1, 96, 96)
    where = 4 * 8 + 4 + (3 if same else -4)  # here a coarse cell looks
    x[0, 0, where, where] = 1
    names = ("smooth.0", "smooth.2")
    layers = find_layers(network, names, torch.zeros(1, 1, 96, 96))
    for weights in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0]):
        hrcam_head = HRCamHead(layers=layers, weights=torch.tensor(weights), bias=0, l2=1)
        (found,) = hrcam(network, x, hrcam_head).saliencies()
        np.testing.assert_allclose(centre(found.upsample()), where + 0.5, atol=0.3)
        assert np.abs(np.argwhere(found.upsample() == found.upsample().max()) - where).max() <= 1


@pytest.fixture(scope="module")
def trained():
    """EfficientNet-Lite0 with its ImageNet weights."""
    network = classifier("tf_efficientnet_lite0")
    settings = EncoderSettings(name="tf_efficientnet_lite0", weights="embedded")
    load_encoder(network.encoder, start_weights(settings), "embedded")
    return network


LAYER = "encoder.blocks.4"


@pytest.mark.parametrize("side", [160, 164])
def test_a_trained_network_looks_where_its_weights_say(trained, side):
    """Spoil a small place, and see around which cells its maps change most."""
    (frame,) = frames(trained, (3, side, side), (LAYER,), (16,))
    tried = np.mean([moved(trained, side, seed) for seed in range(6)], 0)
    np.testing.assert_allclose(frame.shift_px, tried, atol=2)
    geometric = composed(side, EFFICIENTNET, same=True)[3]
    assert geometric == (7.5 if side == 160 else -4.5)
    assert np.abs(tried - geometric).min() > 3  # kernels alone do not tell


def moved(network, side, seed, spots=6):
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(size=(1, 3, 21, 21))).float()
    image = functional.interpolate(coarse, scale_factor=8, mode="bicubic")[..., :side, :side]
    places = rng.integers(64, 96, (spots, 2))
    spoilt = image.repeat(spots + 1, 1, 1, 1)
    for i, (row, column) in enumerate(places):
        spoilt[i + 1, :, row - 6 : row + 6, column - 6 : column + 6] = 0
    with torch.no_grad(), record_activations(network, (LAYER,), lambda _, maps: maps) as found:
        network.features(spoilt)
    change = (found[LAYER][1:] - found[LAYER][:1]).square().sum(1).numpy()
    return np.mean([place - 16 * centre(each) for place, each in zip(places, change, strict=True)], 0)


def test_both_ways_to_name_a_map_agree():
    network = classifier("test_efficientnet")
    assert frames(network, (3, 70, 64), (FEATURES,), (32,)) == frames(network, (3, 70, 64), ("encoder.bn2",), (32,))
    segmenter = build(SegmenterSpec(encoder="test_efficientnet", decoder=(16, 8, 8, 8, 8), **SHARED)).eval()
    name = find_layers(segmenter).names[-1]
    for size in ((64, 96), (50, 70)):  # the second is padded
        (found,) = frames(segmenter, (3, *size), (BOTTLENECK,), (32,))
        assert (found,) == frames(segmenter, (3, *size), (name,), (32,))
        assert (found.image_px, found.span_px) == (size, (64, 96))
    assert segmenter_gradcam(segmenter, torch.zeros(1, 3, 50, 70)).frame == found


def test_it_is_measured_once_for_a_size(monkeypatch):
    network, sizes = classifier("test_efficientnet"), []
    measure = align._send_positions
    monkeypatch.setattr(align, "_send_positions", lambda *given: sizes.append(given[1]) or measure(*given))
    for side in (64, 96, 64, 64):
        classifier_gradcam(network, torch.zeros(2, 3, side, side))
    assert sizes == [(3, 64, 64), (3, 96, 96)]
    known = len(align._MEASURED)
    del network
    gc.collect()
    assert len(align._MEASURED) < known


def test_a_pass_around_does_not_notice():
    network, x = classifier("test_efficientnet"), torch.randn(2, 3, 64, 64)
    with record_activations(network, (LAYER,), lambda _, maps: maps) as found:
        frames(network, (3, 64, 64), (LAYER,))
        assert not found
        network(x)
        frames(network, (3, 96, 96), (LAYER,))
    assert len(seen(found, LAYER)) == 2


@pytest.mark.parametrize("training", [False, True])
def test_weights_and_statistics_stay(training):
    network = classifier("test_efficientnet").train(training)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = frames(network, (3, 64, 64), (LAYER,))
    assert found == frames(classifier("test_efficientnet"), (3, 64, 64), (LAYER,))
    assert network.training == training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


class Everywhere(nn.Module):
    def forward(self, x):
        return x[..., ::2, ::2] + 0.1 * x.mean((2, 3), keepdim=True)


@pytest.mark.parametrize("layer", [Everywhere(), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 3).half()])
def test_without_a_grid_cells_are_squares(layer):
    network = nn.Sequential(layer)
    assert frames(network, (3, 32, 48), ("0",)) == (Frame(image_px=(32, 48), span_px=(32, 48)),)


def test_a_layer_that_is_not_there():
    with pytest.raises(ModelError, match="none of this name"):
        frames(nn.Sequential(nn.Conv2d(3, 4, 3)), (3, 16, 16), ("1",))
