"""The gradient of a segmenter's decoder with respect to the bottleneck: of a U-Net, written out.

Each block of the decoder enlarges its input twofold by repeating, puts the encoder's map of that size beside it, and
applies convolution, batch normalisation and ReLU, twice. The gradient with respect to the input alone needs less work
than automatic differentiation does:

- of the first convolution only the half counts that sees the input, not the one that sees the encoder's map;
- its 3x3 kernel on values repeated 2x2 is, backwards, a 4x4 kernel of stride 2: 4/9 of the products;
- batch normalisation is a factor per channel, which goes into the kernel.

The forward pass is the network's own, so what it says does not change by a bit. Other architectures' gradients are
torch's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn import functional

from vitrail.explain.hooks import record_activations, seen
from vitrail.models.fused_decoder import doubling_kernel

if TYPE_CHECKING:
    from torch import Tensor

    from vitrail.classes import TissueClass
    from vitrail.models.segmenter import Segmenter

    Size = tuple[int, int]

_BLOCKS = "unet.decoder.blocks"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Block:
    """One block of the decoder, the channels of its input, and what its two convolutions gave behind their ReLU."""

    layers: Any
    channels: int
    first: Tensor
    second: Tensor

    def back(self, gradient: Tensor) -> Tensor:
        """Map the gradient of the output to that of the input."""
        twice = functional.conv_transpose2d(_where(self.second, gradient), _folded(self.layers.conv2), padding=1)
        kernel = doubling_kernel(_folded(self.layers.conv1)[:, : self.channels])
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        return functional.conv2d(_where(self.first, twice), kernel, stride=2, padding=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoded:
    """What the decoder says, and what its gradient needs.

    Attributes
    ----------
    logits
        `[n, classes, h, w]`, cropped to the image.
    blocks
        The decoder's blocks, deepest first.
    head
        The weights of its last convolution, `[classes, c, k, k]`.
    """

    logits: Tensor
    blocks: list[_Block]
    head: Tensor

    def gradient(self, target: TissueClass, inside: Tensor) -> Tensor:
        """Return the gradient of a score with respect to the bottleneck, `[n, c, h, w]`.

        Parameters
        ----------
        target
            The class.
        inside
            `[n, h, w]`: the score is the sum of the class's logits, each times the weight here.

        Returns
        -------
        Tensor
            The gradient.
        """
        sides = zip(self.blocks[-1].second.shape[2:], inside.shape[1:], strict=True)
        bottom, right = (padded - cropped for padded, cropped in sides)
        pixels = functional.pad(inside[:, None].to(self.head), (0, right, 0, bottom))
        kernel = self.head[None, target]
        gradient = functional.conv_transpose2d(pixels, kernel, padding=kernel.shape[2] // 2)
        for block in reversed(self.blocks):
            gradient = block.back(gradient)
        return gradient


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Differentiated:
    """What a decoder says that is no U-Net's, and its gradient by automatic differentiation.

    Attributes
    ----------
    logits
        `[n, classes, h, w]`, cropped to the image, with the record of how they came about.
    bottleneck
        The leaf that gradients end at, `[n, c, h', w']`.
    """

    logits: Tensor
    bottleneck: Tensor

    def gradient(self, target: TissueClass, inside: Tensor) -> Tensor:
        """Do what `Decoded.gradient` does."""
        with torch.enable_grad():
            score = (self.logits[:, target] * inside.to(self.logits)).sum()
        (gradient,) = torch.autograd.grad(score, self.bottleneck)
        return gradient


def decode(network: Segmenter, encoded: list[Tensor], size: Size) -> Decoded | Differentiated:
    """Run a segmenter's decoder on what `encode` returned for images of a height and width.

    Parameters
    ----------
    network
        In eval mode.
    encoded
        Feature maps, finest first.
    size
        Height and width.

    Returns
    -------
    Decoded | Differentiated
        Logits, and what their gradient needs.
    """
    if network.architecture != "unet":
        with torch.enable_grad():
            leaf = encoded[-1].detach().requires_grad_()
            return Differentiated(logits=network.decode([*encoded[:-1], leaf], size), bottleneck=leaf)
    unet: Any = network.body
    names = tuple(f"{_BLOCKS}.{i}.conv{j}" for i in range(len(unet.decoder.blocks)) for j in (1, 2))
    with record_activations(network, names, lambda _, maps: maps) as recorded:
        logits = network.decode(encoded, size)
    outputs = [seen(recorded, name) for name in names]
    inputs = [encoded[-1], *outputs[1::2]]
    each = zip(unet.decoder.blocks, inputs, outputs[::2], outputs[1::2], strict=False)  # the last output enters none
    blocks = [_Block(layers=block, channels=x.shape[1], first=a, second=b) for block, x, a, b in each]
    return Decoded(logits=logits, blocks=blocks, head=unet.segmentation_head[0].weight)


def _folded(layers: Any) -> Tensor:
    """Return the kernel of a convolution, `[out, in, 3, 3]`, times the factors of the normalisation behind it."""
    convolution, norm, *_ = layers
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return cast("Tensor", convolution.weight * factor[:, None, None, None])


def _where(output: Tensor, gradient: Tensor) -> Tensor:
    """Let a gradient through where a ReLU did: one pass over memory, where a product with a mask takes two."""
    jit: Any = torch.jit  # has no types
    if jit.is_tracing():  # for OpenVINO, which does not know torch's own
        return torch.where(output > 0, gradient, torch.zeros_like(gradient))
    return cast("Tensor", torch.ops.aten.threshold_backward(gradient, output, 0))
