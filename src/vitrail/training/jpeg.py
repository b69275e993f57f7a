"""What JPEG does to a tile: a batch at once, on the device, without its entropy coding, which loses nothing.

ITU-T T.81: colours to luma and chroma, chroma at half the resolution, blocks of 8 by 8 pixels as cosines, and these
rounded to multiples that the quality decides.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import avg_pool2d, interpolate, pad

if TYPE_CHECKING:
    from torch import Tensor

_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
"""Steps of luma at quality 50: T.81, table K.1."""

_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), *((99,) * 8 for _ in range(4)),
)  # fmt: skip
"""Of chroma: table K.2."""

_HALF = 0.5 + 1e-4  # halves, which white glass has, are rounded up as libjpeg's whole numbers are

_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def compress(images: Tensor, quality: Tensor) -> Tensor:
    """Compress and decompress.

    Parameters
    ----------
    images
        Intensities 0 to 1, `[n, 3, h, w]`.
    quality
        Of each image, `[n]`, 1 to 100, as libjpeg counts it.

    Returns
    -------
    Tensor
        Of the same shape, within 0 to 1.
    """
    height, width = images.shape[2:]
    bytes_ = pad((images * 255).round(), (0, -width % 16, 0, -height % 16), mode="replicate")
    colours = torch.einsum("cd,ndhw->nchw", _YCC.to(images.device), bytes_)
    luma = _rounded(colours[:, :1] - 128, _LUMA, quality) + 128
    chroma = _rounded(avg_pool2d(colours[:, 1:], 2), _CHROMA, quality)
    chroma = interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    back = torch.einsum("cd,ndhw->nchw", torch.linalg.inv(_YCC).to(images.device), torch.cat([luma, chroma], 1))
    return back[..., :height, :width].round().clamp(0, 255) / 255


def _rounded(planes: Tensor, table: tuple[tuple[int, ...], ...], quality: Tensor) -> Tensor:
    """Round the cosines of 8 by 8 blocks of planes `[n, c, h, w]` to the steps of a table at a quality."""
    n, channels, height, width = planes.shape
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).view(n, 1, 1, 1, 1, 1)
    base = torch.tensor(table, device=planes.device, dtype=planes.dtype)
    steps = ((base * scale + 50) / 100).floor().clamp(1, 255)
    cosines = _cosines().to(planes.device)
    blocks = planes.view(n, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    counts = cosines @ blocks @ cosines.T / steps
    values = counts.sign() * (counts.abs() + _HALF).floor() * steps
    return (cosines.T @ values @ cosines).transpose(3, 4).reshape(planes.shape)


@cache
def _cosines() -> Tensor:
    """Return the orthonormal cosine transform of 8 values, `[8, 8]`."""
    order, at = torch.arange(8.0).view(8, 1), torch.arange(8.0)
    matrix = torch.cos((2 * at + 1) * order * math.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix
