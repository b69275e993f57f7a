from __future__ import annotations

import pytest
import torch
from torch import nn

from vitrail.classes import TissueClass
from vitrail.explain.decoder_gradient import decode
from vitrail.explain.methods.gradcam import segmenter_gradcam
from vitrail.models.spec import SegmenterSpec
from vitrail.models.store import build

SHARED = {"side_um": 199.1, "side_px": 64, "mean": (0.7, 0.5, 0.6), "std": (0.2, 0.25, 0.15)}


def network_of(encoder, **layout):
    """An untrained segmenter whose normalisation layers are random, and where they let half of the values through."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(SegmenterSpec(encoder=encoder, decoder=(24, 16, 12, 8, 8), **layout, **SHARED)).eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                nn.init.uniform_(module.weight, -2.5, 2.5)
                nn.init.normal_(module.bias, 0, 0.3)
    return network


def automatic(network, encoded, target, inside):
    """The same gradient through the decoder as a whole."""
    leaf = encoded[-1].clone().requires_grad_()
    logits = network.decode([*encoded[:-1], leaf], tuple(inside.shape[1:]))
    (gradient,) = torch.autograd.grad((logits[:, target] * inside).sum(), leaf)
    return logits.detach(), gradient


@pytest.mark.parametrize("size", [(64, 96), (50, 70)])
@pytest.mark.parametrize(
    ("encoder", "layout"),
    [
        ("test_efficientnet", {}),
        ("test_resnet", {"head_px": 1}),
        ("test_convnext", {}),
        ("mobilenetv2_035", {"layout": "paper", "head_px": 1}),
    ],
)
def test_the_gradient_is_that_of_automatic_differentiation(encoder, layout, size):
    network, generator = network_of(encoder, **layout), torch.Generator().manual_seed(1)
    inside = torch.rand(3, *size, generator=generator) > 0.6
    with torch.no_grad():
        encoded = network.encode(torch.randn(3, 3, *size, generator=generator))
        decoded = decode(network, encoded, size)
        found = {target: decoded.gradient(target, inside) for target in TissueClass}
    for target, gradient in found.items():
        logits, expected = automatic(network, encoded, target, inside)
        scale = expected.abs().max()
        assert scale > 0
        torch.testing.assert_close(gradient / scale, expected / scale, atol=1e-5, rtol=1e-5)
        assert torch.equal(decoded.logits, logits)


def test_what_is_said_is_what_the_network_says_to_the_last_bit():
    network, x = network_of("test_efficientnet"), torch.randn(2, 3, 50, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(segmenter_gradcam(network, x).output, network(x))
