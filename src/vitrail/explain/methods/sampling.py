"""Chance that belongs to an image: what is drawn for it is the same alone, in any batch, and in every run."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor


def image_generators(images: Tensor) -> list[Generator]:
    """Make a generator of random numbers for each image.

    Parameters
    ----------
    images
        `[n, c, h, w]`, on any device.

    Returns
    -------
    list[Generator]
        Of the CPU, each seeded with the CRC-32 of its image's values in float32.
    """
    arrays = images.detach().float().cpu().contiguous().numpy()  # contiguous: the order of bytes is that of n, c, h, w
    return [torch.Generator().manual_seed(zlib.crc32(array.tobytes())) for array in arrays]
