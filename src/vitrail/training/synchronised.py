"""Layers that see a whole batch, where several processes have a share of it each: batch normalisation and dropout.

Torch's own synchronised batch normalisation works on GPUs alone; this one is the same on every device, so that what is
tested on a CPU is what a GPU does. Each process's mean and variance are exchanged, not sums of squares, which would
cancel. In eval mode all is as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from timm.layers.drop import DropPath
from timm.layers.norm_act import BatchNormAct2d
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from vitrail.training.ranks import collective

if TYPE_CHECKING:
    from torch import Tensor

    from vitrail.training.ranks import Ranks


def synchronise(network: nn.Module, ranks: Ranks) -> None:
    """Let a network's layers see the whole batch, in place: the same weights under the same names.

    Parameters
    ----------
    network
        Whose batch normalisation, dropout and drop path are changed, whatever it consists of besides.
    ranks
        Whose `part` says, at each pass in training mode, which tiles this process has.
    """
    for module in network.modules():
        kind: type[nn.Module] | None = _KINDS.get(type(module))
        if kind is not None:
            module.__class__ = kind
            module.ranks = ranks  # type: ignore[assignment] # no module: torch keeps it as it is


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """Standardises with mean and variance of the tiles of all processes."""

    ranks: Ranks

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - torch's
        return self.normalised(x) if self.training else super().forward(x)

    def normalised(self, x: Tensor) -> Tensor:
        """Standardise maps `[n, c, h, w]`, and let the running statistics follow."""
        part = self.ranks.part
        running = cast("tuple[Tensor, Tensor]", (self.running_mean, self.running_var))
        count = part.tiles * x[0, 0].numel()  # the maps of all tiles have one size: nothing is read from the device
        mean, variance = _statistics(x.detach(), self.ranks)
        share, batches = self.momentum, self.num_batches_tracked
        if batches is not None:  # it is None where a batch passes a second time
            batches.add_(1)
            share = 1 / float(batches) if share is None else share
        for buffer, value in zip(running, (mean, variance * (count / (count - 1))), strict=True):
            buffer.lerp_(value, share or 0.0)
        output: Tensor = _Normalisation.apply(x, self.weight, self.bias, mean, variance, count, self.eps, part.is_idle)
        return output


class SynchronisedBatchNormAct(SynchronisedBatchNorm):
    """The same of timm, with an activation behind it."""

    act: nn.Module
    drop: nn.Module

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - torch's
        activated: Tensor = self.act(self.drop(super().forward(x)))
        return activated


def _statistics(x: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Return mean and variance (divided by the number of values) of each channel, over the tiles of all processes."""
    channels, device = x.shape[1], x.device
    # with float32 buffers, which are not changed, maps of 16 bits give statistics in float32
    buffers = torch.zeros(channels, device=device), torch.ones(channels, device=device)
    mean, variance = torch.batch_norm_update_stats(x, *buffers, 0.0)
    share = torch.full((1,), 0.0 if ranks.part.is_idle else len(x) / ranks.part.tiles, device=device)
    own = torch.cat([share, mean, variance])
    every = [torch.empty_like(own) for _ in range(ranks.size)]
    with collective():
        dist.all_gather(every, own)
    shares, means, variances = torch.split(torch.stack(every).double(), [1, channels, channels], 1)
    mean = (shares * means).sum(0)
    variance = (shares * (variances + (means - mean) ** 2)).sum(0)
    return mean.float(), variance.float()


class _Normalisation(torch.autograd.Function):
    """Batch normalisation with statistics that are given, whose gradient knows that they follow from the maps."""

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917 - torch takes them in order
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, count: int, eps: float,
        is_idle: bool,  # noqa: FBT001 - torch takes them in order
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.count, ctx.eps, ctx.is_idle = count, eps, is_idle
        return functional.batch_norm(x, mean, variance, weight, bias, training=False, momentum=0.0, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        through, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, (True, True, True)  # noqa: FBT003 - torch takes them in this order
        )  # fmt: skip
        sums = torch.cat([of_weight, of_bias])
        with collective():
            dist.all_reduce(sums)
        inverse = (variance + ctx.eps).rsqrt()
        slope, level = torch.split(sums, len(mean))
        slope, level = slope * inverse / ctx.count, level / ctx.count
        # what flows through the statistics, scale * (level + slope * (x - mean)), is taken off in one more pass
        scale = weight * inverse
        factor, offset = (each.view(1, -1, 1, 1) for each in (-scale * slope, scale * (slope * mean - level)))
        if ctx.is_idle:
            through = torch.zeros_like(through)
        elif x.dtype == torch.float32:
            through.add_(torch.addcmul(offset, x, factor))
        else:
            through = (through.float() + torch.addcmul(offset, x.float(), factor)).to(x.dtype)
        return through, of_weight, of_bias, None, None, None, None, None


class SynchronisedDropout(nn.Dropout):
    """Dropout that is drawn for the tiles of all processes, so that each loses what it loses in one process."""

    ranks: Ranks

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, D102 - torch's
        if not self.training or not self.p:
            return input
        return input * _drawn(input, input.shape[1:], self.ranks, lambda ones: functional.dropout(ones, self.p))


class SynchronisedDropPath(DropPath):
    """Stochastic depth, in the same way."""

    ranks: Ranks

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - torch's
        if not self.training or not self.drop_prob:
            return x
        ones = torch.Size([1] * (x.ndim - 1))
        return x * _drawn(x, ones, self.ranks, super().forward)


def _drawn(x: Tensor, shape: torch.Size, ranks: Ranks, draw: Any) -> Tensor:
    """Draw factors for all tiles of a part of a batch, and return those of this process's."""
    share = ranks.share(ranks.part.tiles)
    drawn: Tensor = draw(x.new_ones(share.total, *shape))
    return share.take(drawn)


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: SynchronisedBatchNorm, BatchNormAct2d: SynchronisedBatchNormAct,
    nn.Dropout: SynchronisedDropout, DropPath: SynchronisedDropPath,
}  # fmt: skip
