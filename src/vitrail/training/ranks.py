"""The processes that share a training, each with a part of every batch: data parallel, on torch's collectives.

All of them hold the same weights. Each works at its share of a batch; what a loss or a normalisation layer needs of the
whole batch is added up, and so are the gradients, so that every process takes the step of the whole batch. Sums come
out the same on all processes, to the bit, and so weights never drift apart.
"""

# Not torch's DistributedDataParallel. It groups gradients anew after its first step, and sums of three processes or
# more depend on the groups: a training that is taken up again would end with other bytes. And a step here is several
# passes (parts of a batch, tiles of glass, heads on kept features), not one call of the network.

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from vitrail.errors import RunError
from vitrail.training.loader import Part, Share
from vitrail.training.losses import alone

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor, nn

    from vitrail.training.losses import Total

GRACE_S = 5.0
"""Seconds in which a process that fails can say why, before the others say that it is gone."""

_NOTHING = Part(0, slice(0), is_idle=False)

_BUCKET = 25_000_000 // 4  # values that are added up in one go, as many as DistributedDataParallel takes


@dataclass(slots=True, kw_only=True)
class Ranks:
    """Which of the processes that share a training this one is; by default it is alone, and nothing is exchanged.

    Attributes
    ----------
    rank
        Its number; 0 writes.
    size
        How many there are.
    part
        The part of a batch that passes through the network now.
    """

    rank: int = 0
    size: int = 1
    part: Part = _NOTHING

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    @property
    def total(self) -> Total:
        """What adds up values of all processes; the gradient of each goes back to its own."""
        return alone if self.size == 1 else _total

    def share(self, tiles: int, parts: int = 1) -> Share:
        """Return what this process works at of a batch, see `Share.of`."""
        return Share.of(tiles, parts=parts, rank=self.rank, ranks=self.size)

    def joined(self, own: Tensor, share: Share) -> Tensor:
        """Return an entry for each tile of a batch, of which each process has those of its share."""
        if share.rows is None:
            return own
        whole = own.new_zeros((share.total, *own.shape[1:]))
        for part in share.parts:
            if not part.is_idle:
                whole[torch.from_numpy(share.rows[part.own]).to(own.device)] = own[part.own]
        return _total(whole)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all processes, in place."""
        if self.size == 1:
            return
        buckets: list[list[Tensor]] = []
        for gradient in (parameter.grad for parameter in parameters if parameter.grad is not None):
            if not buckets or sum(each.numel() for each in buckets[-1]) > _BUCKET:
                buckets.append([])
            buckets[-1].append(gradient)
        flat = [torch.cat([gradient.reshape(-1) for gradient in bucket]) for bucket in buckets]
        with collective():
            for work in [dist.all_reduce(each, async_op=True) for each in flat]:
                work.wait()
        for bucket, each in zip(buckets, flat, strict=True):
            sizes = [gradient.numel() for gradient in bucket]
            for gradient, summed in zip(bucket, torch.split(each, sizes), strict=True):
                gradient.copy_(summed.view(gradient.shape))

    def wait(self) -> None:
        """Wait until all processes have come here."""
        self.is_agreed(0)

    def is_agreed(self, value: int) -> bool:
        """Tell whether a number is the same in all processes; each must ask. It waits for all of them."""
        if self.size == 1:
            return True
        values = torch.zeros(self.size, dtype=torch.int64)
        values[self.rank] = value
        with collective():
            dist.all_reduce(values)
        return len(set(values.tolist())) == 1


class _Sum(torch.autograd.Function):
    """Adds up over processes: all compute the same loss from the sum, and each has the gradient of its summand."""

    @staticmethod
    def forward(_ctx: Any, own: Tensor) -> Tensor:
        summed = own.clone()
        with collective():
            dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def _total(own: Tensor) -> Tensor:
    summed: Tensor = _Sum.apply(own)
    return summed


@contextmanager
def collective() -> Iterator[None]:
    """Exchange something with the other processes; where one of them is gone, this is a `RunError`.

    Raises
    ------
    RunError
        Another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        time.sleep(GRACE_S)  # whoever has failed says it sooner, and then this process is ended
        problem = f"another process has ended, or is not reached ({' '.join(str(error).split())[:200]})"
        cure = "See what it said; the same command goes on from the last epoch"
        raise RunError("training on several processes", problem, cure) from None
