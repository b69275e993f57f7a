"""Several networks of one kind in the place of one: the mean of their logits counts.

How far they differ says how sure the mean is (Lakshminarayanan et al. 2017, arXiv:1612.01474).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

    from vitrail.models.spec import ModelSpec


class Ensemble(nn.Module):
    """Networks of one kind, asked together.

    Each standardises what it sees as it did when it was trained: where that is not what the ensemble is given, channels
    are scaled and shifted on their way into it.

    Parameters
    ----------
    members
        The networks, in the order of `spec.colours`.
    spec
        Of the ensemble.
    """

    _scale: Tensor
    _shift: Tensor

    def __init__(self, members: Iterable[nn.Module], spec: ModelSpec) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self._differ = bool(spec.colours)
        given, own = (
            tuple(
                torch.tensor([getattr(each, name) for each in colours], dtype=torch.float64) for name in ("mean", "std")
            )
            for colours in ([spec], spec.colours or [spec])
        )
        scale, shift = given[1] / own[1], (given[0] - own[0]) / own[1]
        self.register_buffer("_scale", scale.float()[:, :, None, None], persistent=False)
        self.register_buffer("_shift", shift.float()[:, :, None, None], persistent=False)

    def seen(self, x: Tensor) -> Iterator[tuple[nn.Module, Tensor]]:
        """Yield each member, and what it sees of the images `[n, 3, h, w]` that the ensemble is given."""
        for number, member in enumerate(self.members):
            yield member, x * self._scale[number] + self._shift[number] if self._differ else x

    def mean(self, x: Tensor, ask: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
        """Return the mean of what members answer.

        Parameters
        ----------
        x
            Standardised images `[n, 3, h, w]`.
        ask
            Takes a member and what it sees, and returns its answer.

        Returns
        -------
        Tensor
            Of the shape of one answer.
        """
        answers = [ask(member, own) for member, own in self.seen(x)]
        return torch.stack(answers).mean(0)

    def forward(self, x: Tensor) -> Tensor:
        """Map standardised images `[n, 3, h, w]` to the mean of the members' logits."""
        return self.mean(x, lambda member, own: member(own))


class EachMember(nn.Module):
    """The logits of all members, one beside the other; of a single network its own.

    Parameters
    ----------
    network
        An ensemble, or a single network; it shares its weights with this.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Map standardised images `[n, 3, h, w]` to logits `[n, members, ...]`."""
        if isinstance(self.network, Ensemble):
            return torch.stack([member(own) for member, own in self.network.seen(x)], 1)
        logits: Tensor = self.network(x)
        return logits.unsqueeze(1)
