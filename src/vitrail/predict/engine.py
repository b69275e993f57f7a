"""Networks on images: standardise, run in batches without gradients, return plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from vitrail.classes import CLASSES
from vitrail.errors import ModelError
from vitrail.models.device import precision
from vitrail.models.inputs import Standardiser, intensities

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from vitrail.models.store import Model

BATCH = 64
"""Images in one pass through a network, where the device's memory allows it."""


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
        self._batch = BATCH

    def outputs(self, images: NDArray[np.uint8]) -> Iterator[Tensor]:
        """Yield the network's float32 outputs for images `[n, h, w, 3]`, batch by batch.

        Where the device's memory is too small, batches are halved, from then on and down to single images.

        Raises
        ------
        ModelError
            The memory is too small even for one image.
        """
        start = 0
        while start < len(images):
            batch = images[start : start + self._batch]
            output = self._output(batch)
            if output is None:
                self._halve(len(batch))
            else:
                start += len(batch)
                yield output

    @torch.inference_mode()
    def _output(self, images: NDArray[np.uint8]) -> Tensor | None:
        """Return the outputs of one pass, or None where the device's memory is too small for it."""
        try:
            batch = torch.tensor(images, device=self.device)
            with self._precision.autocast():
                output: Tensor = self.module(self._standardise(intensities(batch)))
            return output.float()
        except torch.cuda.OutOfMemoryError:
            return None

    def _halve(self, tried: int) -> None:
        if tried == 1:
            problem = f"{self.device.type} has too little memory for a single tile"
            raise ModelError(
                f"{self.spec.task} prediction", problem, 'Free its memory, or set compute.device = "cpu" in study.toml'
            )
        self._batch = tried // 2
        torch.cuda.empty_cache()  # does nothing where CUDA is not in use

    def tumor_probability(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Classify images `[n, h, w, 3]`; returns the probability of tumor, `[n]`."""
        outputs = [torch.sigmoid(logits.cpu().double()).numpy() for logits in self.outputs(images)]
        return np.concatenate([np.empty(0), *outputs])

    def pixel_classes(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Segment images `[n, h, w, 3]`; returns the likeliest class of each pixel, `[n, h, w]`."""
        outputs = [logits.argmax(1).byte().cpu().numpy() for logits in self.outputs(images)]
        return np.concatenate([np.empty((0, *images.shape[1:3]), np.uint8), *outputs])

    def class_probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Segment images `[n, h, w, 3]`; returns the probability of each class at each pixel, `[n, 4, h, w]`."""
        outputs = [torch.softmax(logits, 1).cpu().numpy() for logits in self.outputs(images)]
        return np.concatenate([np.empty((0, len(CLASSES), *images.shape[1:3]), np.float32), *outputs])
