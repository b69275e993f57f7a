"""Empty glass as training tiles: no outlined tile shows it, and a network that never saw it may call it anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

_PALEST, _DARKEST = 1.0, 0.82  # of glass under the lamps of scanners: white, down to a light grey
_TINT = 0.04  # by how much its channels differ at the most
_FALL_OFF = 0.03  # by how much the light changes across a tile
_NOISE = 0.015


def glass_tiles(count: int, side_px: int, generator: Generator) -> Tensor:
    """Draw tiles of empty glass: one pale colour each, light that falls off across the tile, and the camera's noise.

    Parameters
    ----------
    count
        How many.
    side_px
        Their side.
    generator
        Of the CPU.

    Returns
    -------
    Tensor
        Intensities 0 to 1, `[count, 3, side_px, side_px]`, on the CPU.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, 1, 1, generator=generator).mul_(high - low).add_(low)

    colour = uniform(_DARKEST, _PALEST, 1) - uniform(0, _TINT, 3)
    across = torch.linspace(-0.5, 0.5, side_px)
    light = uniform(-_FALL_OFF, _FALL_OFF, 1) * across + uniform(-_FALL_OFF, _FALL_OFF, 1) * across[:, None]
    noise = torch.randn(count, 3, side_px, side_px, generator=generator) * uniform(0, _NOISE, 1)
    return (colour + light + noise).clamp_(0, 1)


def glass_count(share: float, tiles: int, generator: Generator) -> int:
    """Draw how many tiles of glass join a batch, so that on average they are a share of its number of tiles."""
    return int(torch.rand((), generator=generator) + share * tiles)
