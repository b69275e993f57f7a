from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from vitrail.models.depthwise import DepthwiseConvolution, replace_depthwise
from vitrail.models.encoder import create_encoder
from vitrail.models.spec import SegmenterSpec
from vitrail.models.store import build


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def pair_of(kernel, *, stride=1, padding=None, bias=False):
    """A convolution of torch, and the quickened one of the same weights."""
    padding = kernel // 2 if padding is None else padding
    with torch.random.fork_rng(devices=[]):
        plain = nn.Conv2d(4, 4, kernel, stride, padding, groups=4, bias=bias).double()
    ours = copy.deepcopy(plain)
    replace_depthwise(ours)
    assert type(ours) is DepthwiseConvolution
    return plain, ours


def outcome(layer, *size):
    """Output and all gradients for maps of a size."""
    x = drawn(3, 4, *size).requires_grad_()
    output = layer(x)
    return [output, *torch.autograd.grad(output, [x, *layer.parameters()], drawn(*output.shape, seed=1))]


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (4, 4), (2, 9), (3, 1), (6, 6)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_output_and_gradients_are_torchs(kernel, stride, size):
    for bias in (False, True):
        expected, found = (outcome(layer, *size) for layer in pair_of(kernel, stride=stride, bias=bias))
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
        assert expected[0].abs().max() > 0


@pytest.mark.parametrize(("kernel", "padding"), [(4, 1), (4, 2), (5, 1), (5, (1, 2)), ((7, 3), (3, 1)), (5, 4)])
def test_kernels_and_padding_of_any_kind(kernel, padding):
    expected, found = (outcome(layer, 3, 4) for layer in pair_of(kernel, padding=padding))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_an_own_backward_pass_only_where_it_is_sooner(training):
    _, ours = pair_of(5)
    ours.train(training)
    names = {size: type(ours(drawn(1, 4, size, 8).requires_grad_()).grad_fn).__name__ for size in (4, 5)}
    assert ("OnSmallMaps" in names[4]) == training
    assert "OnSmallMaps" not in names[5]


def test_other_convolutions_stay_what_they_are():
    others = [
        nn.Conv2d(4, 4, 5), nn.Conv2d(4, 8, 5, groups=4), nn.Conv2d(4, 4, 5, groups=2), nn.Conv2d(4, 4, 1, groups=4),
        nn.Conv2d(4, 4, 3, dilation=2, groups=4), nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", groups=4), nn.Conv2d(1, 1, 3),
    ]  # fmt: skip
    network = nn.Sequential(*others)
    replace_depthwise(network)
    assert all(type(layer) is nn.Conv2d for layer in network)


@pytest.mark.parametrize("name", ["efficientnet_b0", "test_convnext", "tf_efficientnet_lite0"])
def test_an_encoder_keeps_weights_and_outputs(name):
    networks = []
    for make in (lambda: timm.create_model(name, num_classes=0), lambda: create_encoder(name)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            networks.append(make().train())
    states = [network.state_dict() for network in networks]
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(one, other) for one, other in zip(*(state.values() for state in states), strict=True))
    assert sum(isinstance(module, DepthwiseConvolution) for module in networks[1].modules()) > 3
    x = drawn(4, 3, 64, 64).float()
    outputs = []
    for network in networks:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)  # of what drops out
            outputs.append(network.forward_features(x))
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().mean().backward()
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        if one.grad is not None:
            scale = one.grad.abs().max() + 1e-9
            torch.testing.assert_close(other.grad / scale, one.grad / scale, atol=1e-4, rtol=0)


def test_a_segmenters_encoder_is_quickened_too():
    shared = {"side_um": 199.1, "side_px": 64, "mean": (0.7, 0.5, 0.6), "std": (0.2, 0.25, 0.15)}
    network = build(SegmenterSpec(encoder="test_efficientnet", decoder=(8, 8, 8, 8, 8), **shared))
    assert any(isinstance(module, DepthwiseConvolution) for module in network.backbone.modules())
