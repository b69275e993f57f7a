"""Networks on images: standardise, run in batches without gradients, return plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from vitrail.models.device import precision
from vitrail.models.inputs import Standardiser, intensities

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from vitrail.models.store import Model

BATCH = 64
"""Images in one pass through a network."""


class Engine:
    """A trained model on a device, fed with images.

    Parameters
    ----------
    model
        What `load_model` returns; it is moved to the device and set to evaluation.
    device
        Where to run.
    """

    def __init__(self, model: Model, device: torch.device) -> None:
        self.spec, self.device = model.spec, device
        self.module = model.module.to(device).to(memory_format=torch.channels_last).eval()
        self._standardise = Standardiser(model.spec, device)
        self._precision = precision(device)

    def outputs(self, images: NDArray[np.uint8]) -> Iterator[Tensor]:
        """Yield the network's float32 outputs for images `[n, h, w, 3]`, batch by batch."""
        with torch.inference_mode():
            for start in range(0, len(images), BATCH):
                batch = torch.tensor(images[start : start + BATCH], device=self.device)
                with self._precision.autocast():
                    output = self.module(self._standardise(intensities(batch)))
                yield output.float()

    def tumor_probability(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Classify images `[n, h, w, 3]`; returns the probability of tumor, `[n]`."""
        outputs = [torch.sigmoid(logits.cpu().double()).numpy() for logits in self.outputs(images)]
        return np.concatenate([np.empty(0), *outputs])

    def pixel_classes(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Segment images `[n, h, w, 3]`; returns the likeliest class of each pixel, `[n, h, w]`."""
        outputs = [logits.argmax(1).byte().cpu().numpy() for logits in self.outputs(images)]
        return np.concatenate([np.empty((0, *images.shape[1:3]), np.uint8), *outputs])
