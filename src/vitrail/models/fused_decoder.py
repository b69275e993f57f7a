"""The U-Net decoder's blocks with less work: the same figures, but for rounding, from the same weights.

A block enlarges the map from below twofold by repeating each value 2x2, puts the encoder's map of that size beside it,
and applies a 3x3 convolution. On repeated values most products of that convolution are the same ones again: of each 3x3
window only 2x2 values differ. Adding up the weights that meet the same value gives a 4x4 kernel of a transposed
convolution of stride 2, which takes 4 products an output where there were 9, and needs neither the enlarged map nor the
joined one in memory. The encoder's map keeps its 3x3 kernel, and the two sums are added. Gradients flow through the
addition of the weights, so that training learns the same 3x3 kernels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from torch import Tensor


class Joined(NamedTuple):
    """What a block's first convolution takes in: two maps that are nowhere joined in memory.

    Attributes
    ----------
    below
        The map to enlarge, `[n, c, h, w]`.
    beside
        The encoder's map of the larger size, `[n, d, h', w']`; None where there is none.
    size
        Height and width to enlarge to.
    """

    below: Tensor
    beside: Tensor | None
    size: tuple[int, int]


class DoublingBlock(nn.Module):
    """Stands for a block of segmentation_models_pytorch's U-Net decoder, with its parameters and their names.

    Parameters
    ----------
    block
        Whose layers are taken over; without attention.

    Attributes
    ----------
    recomputes
        Whether activations within the block are computed anew for the gradient, see `vitrail.models.recompute`.
    """

    recomputes = False

    def __init__(self, block: Any) -> None:
        super().__init__()
        convolution, *further = block.conv1
        self.conv1 = nn.Sequential(DoublingConvolution(convolution), *further)
        self.conv2 = block.conv2

    def forward(self, below: Tensor, height: int, width: int, skip_connection: Tensor | None = None) -> Tensor:
        """Enlarge `below` `[n, c, h, w]` to height and width, and join it with the encoder's map of that size."""
        if self.recomputes and self.training:
            decoded: Tensor = checkpoint(self._decoded, below, skip_connection, (height, width), use_reentrant=False)
            return decoded
        return self._decoded(below, skip_connection, (height, width))

    def _decoded(self, below: Tensor, beside: Tensor | None, size: tuple[int, int]) -> Tensor:
        decoded: Tensor = self.conv2(self.conv1(Joined(below, beside, size)))
        return decoded


class DoublingConvolution(nn.Module):
    """A 3x3 convolution of an enlarged map and the one beside it.

    Parameters
    ----------
    convolution
        Whose weights are taken over; of stride 1, padded by 1, and without bias.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight = convolution.weight

    def reset_parameters(self) -> None:
        """Draw the weights anew, as `nn.Conv2d` does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, joined: Joined) -> Tensor:
        """Convolve the maps as if they were joined.

        Parameters
        ----------
        joined
            The maps.

        Returns
        -------
        Tensor
            `[n, out, h', w']`.
        """
        below, beside, size = joined
        # On GPUs they are joined: what is saved here has not been measured there. Nor is less work possible where the
        # larger map is not exactly twice as large, as with encoders that do not pad.
        if below.device.type != "cpu" or (2 * below.shape[2], 2 * below.shape[3]) != tuple(size):
            enlarged = functional.interpolate(below, size=size, mode="nearest")
            both = enlarged if beside is None else torch.cat([enlarged, beside], dim=1)
            return functional.conv2d(both, self.weight, padding=1)
        own, others = self.weight[:, : below.shape[1]], self.weight[:, below.shape[1] :]
        enlarged = functional.conv_transpose2d(below, doubling_kernel(own), stride=2, padding=1)
        if beside is None or not others.shape[1]:
            return enlarged
        return enlarged + functional.conv2d(beside, others, padding=1)


def doubling_kernel(kernel: Tensor) -> Tensor:
    """Turn a kernel of maps whose values are repeated 2x2 into one of the maps before.

    Parameters
    ----------
    kernel
        `[out, in, 3, 3]`.

    Returns
    -------
    Tensor
        `[in, out, 4, 4]`, for a transposed convolution of stride 2, padded by 1; the gradient with respect to the map
        before is that of the map behind, convolved with it, with the same stride and padding.
    """
    planes = kernel.flip(2, 3).permute(2, 3, 1, 0)  # whole planes are added: twice as fast as windows of 3x3
    for dim in (0, 1):  # each plane and the one before it: of 3 come 4
        none = torch.zeros_like(planes.narrow(dim, 0, 1))
        planes = torch.cat([planes, none], dim) + torch.cat([none, planes], dim)
    return planes.permute(2, 3, 0, 1)
