"""The small network that comes with Vitrail and tells nuclei from everything else.

A U-Net of three scales: 1, 2 and 4 um per pixel. Pixels of 0.5 um come in as four of the coarser ones side by side
(Shi et al. 2016, doi:10.1109/CVPR.2016.207), and go out the same way, which spares three quarters of the work. For every
pixel it gives whether it belongs to a nucleus, and how deep inside it lies: the distance from the nucleus' border, as a
share of the largest in it, so that nuclei of all sizes have one peak.

`python -m bench.nuclei_training` made the weights, from synthetic slides and from points that pathologists set on
nuclei in TCGA's breast cancers (BRCA-M2C: Abousamra et al. 2021, doi:10.1109/ICCV48922.2021.00397; BSD-3-Clause).
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Plane = NDArray[np.float32]

STEP_PX = 8
"""Images have sides of a multiple of it."""

_WIDTHS = (24, 48, 64)
_WEIGHTS = "network.safetensors"


class NucleusNetwork(nn.Module):
    """From absorbed light to nuclei.

    Parameters
    ----------
    normalised
        Whether batch normalisation follows each convolution, as in training; in use it is part of their weights.
    """

    def __init__(self, *, normalised: bool = False) -> None:
        super().__init__()
        fine, middle, coarse = _WIDTHS

        def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
            convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=not normalised)
            between = [nn.BatchNorm2d(outputs)] if normalised else []
            return nn.Sequential(convolution, *between, nn.ReLU(inplace=True))

        self.fine = nn.Sequential(block(12, fine), block(fine, fine))
        self.middle = nn.Sequential(block(fine, middle, 2), block(middle, middle), block(middle, middle))
        self.coarse = nn.Sequential(block(middle, coarse, 2), block(coarse, coarse), block(coarse, coarse))
        self.from_coarse, self.from_middle = nn.Conv2d(coarse, middle, 1), nn.Conv2d(middle, fine, 1)
        self.middle_up = nn.Sequential(block(middle, middle), block(middle, middle))
        self.fine_up = nn.Sequential(block(fine, fine), block(fine, fine))
        self.head = nn.Conv2d(fine, 8, 3, padding=1)

    def forward(self, absorbed: Tensor) -> Tensor:
        """Look at images.

        Parameters
        ----------
        absorbed
            `[n, 3, h, w]`, 1 - RGB / 255 at 0.5 um per pixel; sides are multiples of `STEP_PX`.

        Returns
        -------
        Tensor
            `[n, 2, h, w]`: logit of a nucleus, and depth in it, about 0 to 1.
        """
        fine = self.fine(functional.pixel_unshuffle(absorbed, 2))
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = self.middle_up(middle + _enlarged(self.from_coarse(coarse), middle))
        fine = self.fine_up(fine + _enlarged(self.from_middle(middle), fine))
        return functional.pixel_shuffle(self.head(fine), 2)


def look(image: NDArray[np.uint8]) -> tuple[Plane, Plane]:
    """Run the network that comes with Vitrail.

    Parameters
    ----------
    image
        `[h, w, 3]`, RGB, at 0.5 um per pixel.

    Returns
    -------
    tuple[NDArray[np.float32], NDArray[np.float32]]
        `[h, w]` each: probability of a nucleus, and depth in it, about 0 to 1.
    """
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % STEP_PX), (0, -width % STEP_PX), (0, 0)), mode="edge")
    absorbed = torch.from_numpy(1 - padded.astype(np.float32) / 255).permute(2, 0, 1)[None]
    with torch.inference_mode():
        output = _trained()(absorbed.contiguous(memory_format=torch.channels_last))[0, :, :height, :width]
        return torch.sigmoid(output[0]).numpy(), output[1].numpy()


def _enlarged(maps: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(maps, size=like.shape[-2:], mode="bilinear", align_corners=False)


@lru_cache(maxsize=1)
def _trained() -> NucleusNetwork:
    """Load the weights; they are stored in 16 bits."""
    network = NucleusNetwork()
    weights = load((files("vitrail.nuclei") / _WEIGHTS).read_bytes())
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # noqa: FBT003 - torch's name
