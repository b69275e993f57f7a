"""From tiles of bytes to what a network takes in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from vitrail.models.spec import Colours, ModelSpec


def intensities(tiles: Tensor) -> Tensor:
    """Turn RGB bytes `[n, h, w, 3]` into intensities 0 to 1, `[n, 3, h, w]`, whose memory stays channels-last."""
    return tiles.permute(0, 3, 1, 2).float().div_(255)


class Normalizer:
    """Standardises intensities with a model's mean and standard deviation.

    Parameters
    ----------
    spec
        Whose `mean` and `std` are taken.
    device
        Where the images will be.
    """

    def __init__(self, spec: ModelSpec | Colours, device: torch.device) -> None:
        self._mean = torch.tensor(spec.mean, device=device).view(1, 3, 1, 1)
        self._scale = torch.tensor([1 / s for s in spec.std], device=device).view(1, 3, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Map intensities `[n, 3, h, w]` to standardised ones in channels-last memory."""
        return (images.contiguous(memory_format=torch.channels_last) - self._mean).mul_(self._scale)


class FromBytes(nn.Module):
    """A network that takes bytes.

    Parameters
    ----------
    network
        Takes standardised images.
    spec
        Whose mean and standard deviation images are standardised with.
    """

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.network = network
        self._standardise = Normalizer(spec, torch.device("cpu"))

    def standardised(self, images: Tensor) -> Tensor:
        """Map RGB bytes `[n, h, w, 3]` to what the network takes in, `[n, 3, h, w]`."""
        return self._standardise(intensities(images))

    def forward(self, images: Tensor) -> Tensor:
        """Map RGB bytes `[n, h, w, 3]` to what the network gives."""
        output: Tensor = self.network(self.standardised(images))
        return output
