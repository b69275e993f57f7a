"""Networks whose explanation is known, and small ones that captum can explain."""

from __future__ import annotations

import torch
from torch import nn


class LinearNetwork(nn.Module):
    """A weighted sum of all values: of a classifier one, of a segmenter one for each pixel and class."""

    def __init__(self, side, *, pixels=False, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3, side, side, generator=generator))
        self.pixels = pixels

    def forward(self, x):
        product = (x * self.weight).sum(1)
        return torch.stack([product] * 4, 1) if self.pixels else product.sum((1, 2)) + 0.5


class Product(nn.Module):
    """The sum of products of the first two channels; the third does nothing."""

    def forward(self, x):
        return (x[:, 0] * x[:, 1]).sum((1, 2))


def small_network(activation=nn.ReLU, *, pixels=False, seed=0):
    """Convolutions, activations and mean pooling: a classifier's logit, or a segmenter's logits."""
    end = [nn.ConvTranspose2d(8, 4, 2, 2)] if pixels else [nn.Flatten(), nn.LazyLinear(1), nn.Flatten(0)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(3, 6, 3, padding=1), activation(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 3, padding=1)]
        network = nn.Sequential(*layers, activation(), *end).eval()
        network(torch.zeros(1, 3, 16, 16))
        for parameter in network.parameters():
            nn.init.normal_(parameter, 0, 0.3)
    return network


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
