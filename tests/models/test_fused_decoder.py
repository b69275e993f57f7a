from __future__ import annotations

import copy

import pytest
import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d

from vitrail.models.fused_decoder import DoublingBlock, DoublingConvolution, doubling_kernel
from vitrail.models.spec import SegmenterSpec
from vitrail.models.store import build

SHARED = {"side_um": 199.1, "side_px": 64, "mean": (0.7, 0.5, 0.6), "std": (0.2, 0.25, 0.15)}
DECODER = (24, 16, 12, 8, 8)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def spec_of(encoder):
    return SegmenterSpec(encoder=encoder, decoder=DECODER, **SHARED)


def library(encoder):
    """The network as the library builds it."""
    return smp.Unet(f"tu-{encoder}", encoder_weights=None, decoder_channels=DECODER, classes=4)


def pair_of(encoder):
    """The library's network and Vitrail's, with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs, ours = library(encoder), build(spec_of(encoder))
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
    ours.unet.load_state_dict(theirs.state_dict())  # strict: every name and shape
    return theirs, ours


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4)])
def test_the_kernel_is_the_one_of_repeated_values(size):
    """With whole numbers, so that no rounding hides an error."""
    x, kernel = (drawn(*shape).mul(8).round() for shape in ((2, 3, *size), (4, 3, 3, 3)))
    repeated = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = conv2d(repeated, kernel, padding=1)
    found = conv_transpose2d(x, doubling_kernel(kernel), stride=2, padding=1)
    assert expected.abs().max() > 0
    assert torch.equal(found, expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 2)])
@pytest.mark.parametrize("beside", [7, 0, None])
def test_a_block_is_the_librarys_with_its_gradients(beside, size, training):
    with torch.random.fork_rng(devices=[]):
        theirs = UnetDecoderBlock(6, beside or 0, 4).double().train(training)
    ours = DoublingBlock(copy.deepcopy(theirs)).train(training)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    large = (2 * size[0], 2 * size[1])
    results = []
    for block in (theirs, ours):
        inputs = [drawn(3, 6, *size)] + ([] if beside is None else [drawn(3, beside, *large, seed=1)])
        inputs = [each.requires_grad_() for each in inputs]
        output = block(inputs[0], *large, skip_connection=inputs[1] if inputs[1:] else None)
        leaves = [*inputs, *block.parameters()]
        gradients = torch.autograd.grad(output, leaves, drawn(*output.shape, seed=2), materialize_grads=True)
        results.append([output, *gradients, *block.buffers()])
    assert results[0][0].abs().max() > 0
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-10)


@pytest.mark.parametrize("large", [(7, 8), (8, 7), (9, 8), (13, 4)])
def test_a_map_that_is_not_twice_as_large_is_joined_as_in_the_library(large):
    with torch.random.fork_rng(devices=[]):
        theirs = UnetDecoderBlock(6, 5, 4).double().eval()
    ours = DoublingBlock(copy.deepcopy(theirs)).eval()
    below, beside = drawn(2, 6, 4, 4), drawn(2, 5, *large, seed=1)
    with torch.inference_mode():
        assert torch.equal(ours(below, *large, skip_connection=beside), theirs(below, *large, skip_connection=beside))


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("encoder", ["test_efficientnet", "test_resnet", "test_convnext"])
def test_a_segmenter_is_the_librarys_network_to_rounding(encoder, order):
    theirs, ours = (network.to(memory_format=order) for network in pair_of(encoder))
    x = drawn(2, 3, 64, 96).float().contiguous(memory_format=order)
    expected, found = theirs.eval()(x), ours.eval()(x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    for logits in (expected, found):
        logits.square().mean().backward()
    for (name, one), other in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        scale = one.grad.abs().max()
        assert scale > 0 or name.endswith("bias"), name
        torch.testing.assert_close(other.grad / (scale + 1e-9), one.grad / (scale + 1e-9), atol=1e-4, rtol=0)


def test_training_starts_from_the_librarys_weights():
    """Of the same seed, and leaves the generator where the library does."""
    states = []
    for make in (lambda: library("test_efficientnet"), lambda: build(spec_of("test_efficientnet")).unet):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            states.append([*make().state_dict().items(), ("next", torch.rand(3))])
    for (name, expected), (own, found) in zip(*states, strict=True):
        assert own == name
        assert torch.equal(found, expected), name


def test_weights_are_drawn_anew_as_a_convolutions_are():
    plain = nn.Conv2d(5, 4, 3, padding=1, bias=False)
    ours = DoublingConvolution(copy.deepcopy(plain))
    for layer in (plain, ours):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            layer.reset_parameters()
    assert torch.equal(ours.weight, plain.weight)


def test_bfloat16_differs_by_its_rounding_alone():
    _, ours = pair_of("test_efficientnet")
    x = drawn(2, 3, 64, 64).float()
    with torch.inference_mode():
        exact = ours.eval()(x)
        with torch.autocast("cpu", torch.bfloat16):
            rough = ours(x)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.05 * exact.abs().max()
