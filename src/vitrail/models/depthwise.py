"""Depthwise convolutions whose weights learn sooner from small maps.

Where a map has fewer rows than the kernel, oneDNN, which torch calls on CPUs, takes ten times as long as elsewhere for
the gradient of a depthwise convolution's weights: at 96 pixels, EfficientNet spends a seventh of a training step on
three layers of 5x5 on maps of 3x3. Written out as one product and sum for each weight of the kernel, over the part of
the map that this weight meets, it costs next to nothing. All else is torch's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


def replace_depthwise(network: nn.Module) -> None:
    """Turn a network's depthwise convolutions into `DepthwiseConvolution`, in place: the same layers and weights."""
    for module in network.modules():
        if type(module) is not nn.Conv2d:  # one that pads by itself, as timm's for TensorFlow's networks, is another
            continue
        plain = module.padding_mode == "zeros" and not isinstance(module.padding, str) and module.dilation == (1, 1)
        depthwise = 1 < module.groups == module.in_channels == module.out_channels
        if plain and depthwise and module.kernel_size != (1, 1):
            module.__class__ = DepthwiseConvolution


class DepthwiseConvolution(nn.Conv2d):
    """A convolution of each channel with its own kernel; what it gives is what `nn.Conv2d` gives, to the bit."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Convolve maps `[n, c, h, w]`."""
        slow = input.device.type == "cpu" and input.shape[2] < self.kernel_size[0]
        if not (slow and self.training) or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        output: Tensor = _OnSmallMaps.apply(input, self.weight, self.stride, self.padding)
        return output if self.bias is None else output + self.bias.view(-1, 1, 1)


class _OnSmallMaps(torch.autograd.Function):
    """A depthwise convolution with the gradient of its weights written out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(x, weight, stride=stride, padding=padding, groups=x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        of_x, _, _ = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), x.shape[1], (True, False, False)  # noqa: FBT003 - torch takes them in this order
        )  # fmt: skip
        of_weight = torch.zeros_like(weight)
        sizes = zip(weight.shape[2:], x.shape[2:], gradient.shape[2:], ctx.stride, ctx.padding, strict=True)
        rows, columns = (_meetings(*each) for each in sizes)
        for i, (above, row) in enumerate(rows):
            for j, (left, column) in enumerate(columns):
                of_weight[:, 0, i, j] = (gradient[:, :, above, left] * x[:, :, row, column]).sum((0, 2, 3))
        return of_x, of_weight, None, None


def _meetings(kernel: int, size: int, outputs: int, stride: int, padding: int) -> list[tuple[slice, slice]]:
    """Return, for each weight along a side of the kernel, the outputs that it adds to and the inputs that it meets.

    Output `o` meets input `stride * o + shift`, which must lie within the map.
    """
    meetings = []
    for shift in range(-padding, kernel - padding):
        first = max(0, -(shift // stride))
        last = max(first, min(outputs, (size - 1 - shift) // stride + 1))
        begin = stride * first + shift
        meetings.append((slice(first, last), slice(begin, begin + stride * (last - first), stride)))
    return meetings
