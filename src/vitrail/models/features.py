"""What the encoder of a trained network makes of tiles: the means of its last feature maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vitrail.models.batches import Batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.models.store import Model

_BATCH = 64


class PooledFeatures:
    """The encoder of a network on a device, fed with images.

    Where the device's memory is too small, batches are halved, see `Batches`. It computes in float32.

    Parameters
    ----------
    model
        A classifier or a segmenter; of an ensemble `Model.explained`. It is moved to the device and set to evaluation.
    device
        Where to run.

    Attributes
    ----------
    spec, device
        Of the network, and where it is.
    """

    def __init__(self, model: Model, device: torch.device) -> None:
        self.spec, self.device = model.spec, device
        self._module: Any = model.module.to(device).eval()
        self._batches = Batches(model.spec, device, _BATCH, f"{model.spec.task} features")

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the mean over each image of every channel of the last feature map.

        Parameters
        ----------
        images
            `[n, h, w, 3]`, RGB, at the model's mpp.

        Returns
        -------
        NDArray[np.float32]
            `[n, channels]`.

        Raises
        ------
        ModelError
            The memory is too small even for one image.
        """
        parts = list(self._batches.run(images, self._pooled))
        return torch.cat(parts).numpy() if parts else np.empty((0, 0), np.float32)

    @torch.inference_mode()
    def _pooled(self, _rows: slice, batch: torch.Tensor) -> torch.Tensor:
        maps = self._module.features(batch) if self.spec.task == "classifier" else self._module.encode(batch)[-1]
        means: torch.Tensor = maps.float().mean((2, 3)).cpu()
        return means
