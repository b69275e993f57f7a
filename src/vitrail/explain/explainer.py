"""Explain arrays of images: standardise, run in batches, return one `Saliency` an image."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from vitrail.classes import TissueClass
from vitrail.errors import ModelError
from vitrail.explain.cam import classifier_gradcam, segmenter_gradcam
from vitrail.explain.hrcam import hrcam, pool, watching
from vitrail.explain.layers import find_layers
from vitrail.models.classifier import Classifier
from vitrail.models.inputs import Standardiser, intensities

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from vitrail.explain.cam import Pixels
    from vitrail.explain.hrcam import Auxiliary
    from vitrail.explain.layers import Layers
    from vitrail.explain.saliency import Maps, Saliency
    from vitrail.models.store import Model

    Images = NDArray[np.uint8]

BATCH = 32
"""Images in one pass; Grad-CAM of a segmenter keeps what its gradient needs."""


class Explainer:
    """A trained model on a device, asked why. It computes in float32.

    Parameters
    ----------
    model
        What `load_model` returns; it is moved to the device.
    device
        Where to run.
    batch
        Images in one pass.
    """

    def __init__(self, model: Model, device: torch.device, batch: int = BATCH) -> None:
        self.device, self.batch = device, batch
        self.network = model.module.to(device).to(memory_format=torch.channels_last)
        self._standardise = Standardiser(model.spec, device)

    @cached_property
    def layers(self) -> Layers:
        """The layers that HR-CAM looks at by default."""
        return find_layers(self.network)

    def gradcam(
        self, images: Images, target: TissueClass = TissueClass.TUMOR, pixels: Pixels = "predicted"
    ) -> list[Saliency]:
        """Explain images `[n, h, w, 3]` with Grad-CAM; `pixels` is for the segmenter, see `segmenter_gradcam`."""
        found: list[Saliency] = []
        for start, batch in self._batches(images):
            chosen = pixels[start : start + self.batch] if isinstance(pixels, torch.Tensor) else pixels
            found += self.gradcam_maps(batch, target, chosen).saliencies()
        return found

    def hrcam(self, images: Images, auxiliary: Auxiliary, target: TissueClass = TissueClass.TUMOR) -> list[Saliency]:
        """Explain images `[n, h, w, 3]` with HR-CAM."""
        maps = (hrcam(self.network, batch, auxiliary, target) for _, batch in self._batches(images))
        return [saliency for batch in maps for saliency in batch.saliencies()]

    def both(
        self, images: Images, auxiliary: Auxiliary, target: TissueClass = TissueClass.TUMOR
    ) -> Iterator[tuple[Maps, Maps]]:
        """Yield Grad-CAM and HR-CAM of images `[n, h, w, 3]` batch by batch, from one forward pass."""
        for _, batch in self._batches(images):
            with watching(self.network, auxiliary) as watched:
                maps = self.gradcam_maps(batch, target)
            yield maps, watched.maps(maps.frame.image_px, target)

    def pool(self, images: Images, layers: Layers | None = None) -> Tensor:
        """Average feature maps over images `[n, h, w, 3]` for `fit`; returns `[n, sum of channels]` on the CPU."""
        wanted = layers or self.layers
        pooled = [pool(self.network, batch, wanted).cpu() for _, batch in self._batches(images)]
        return torch.cat([torch.empty(0, sum(wanted.channels)), *pooled])

    def gradcam_maps(self, batch: Tensor, target: TissueClass, pixels: Pixels = "predicted") -> Maps:
        """Explain standardised images `[n, 3, h, w]` in one pass with the Grad-CAM of this kind of network.

        Raises
        ------
        ModelError
            The device's memory is too small.
        """
        try:
            if isinstance(self.network, Classifier):
                return classifier_gradcam(self.network, batch, target)
            return segmenter_gradcam(self.network, batch, target, pixels)
        except torch.cuda.OutOfMemoryError:
            problem = f"{self.device.type} has too little memory for {len(batch)} tiles at once"
            raise ModelError("explanation", problem, "Explain fewer at once (batch)") from None

    def _batches(self, images: Images) -> Iterator[tuple[int, Tensor]]:
        for start in range(0, len(images), self.batch):
            tensor = torch.tensor(np.asarray(images[start : start + self.batch]), device=self.device)
            yield start, self._standardise(intensities(tensor))
