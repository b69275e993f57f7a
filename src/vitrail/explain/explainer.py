"""Explain arrays of images: standardise, run in batches, return one `Saliency` an image."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from vitrail.classes import TissueClass
from vitrail.errors import ModelError
from vitrail.explain.fused import CompiledClassifier
from vitrail.explain.layers import find_layers
from vitrail.explain.methods.gradcam import classifier_gradcam, segmenter_gradcam
from vitrail.explain.methods.hrcam import hrcam, pool, watching
from vitrail.models.classifier import Classifier
from vitrail.models.openvino import use_openvino
from vitrail.models.preprocessing import Normalizer, intensities

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from vitrail.explain.layers import Layers
    from vitrail.explain.methods.gradcam import Pixels
    from vitrail.explain.methods.hrcam import HRCamHead
    from vitrail.explain.saliency import Maps, Saliency
    from vitrail.models.store import Model
    from vitrail.settings.schema import EngineName

    Images = NDArray[np.uint8]

T = TypeVar("T")

BATCH = 32
"""Images in one pass; Grad-CAM of a segmenter keeps what its gradient needs."""


class Explainer:
    """A trained model on a device, asked why. It computes in float32.

    Where the device's memory is too small, batches are halved, from then on and down to single images; with too little
    for one, every method raises `ModelError`.

    Parameters
    ----------
    model
        What `load_model` returns; it is moved to the device.
    device
        Where to run.
    batch
        Images in one pass.
    layers
        That HR-CAM looks at, as `find_layers` returns them; None takes the default ones.
    engine
        What computes the maps of a classifier. OpenVINO, which `"auto"` takes on a CPU where it is installed, compiles
        the network with the weights it has when it is first asked; a segmenter's maps are always torch's.

    Raises
    ------
    SettingsError
        OpenVINO is asked for, but not installed, or the device is no CPU.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device,
        batch: int = BATCH,
        *,
        layers: Layers | None = None,
        engine: EngineName = "auto",
    ) -> None:
        self.device, self.batch, self._layers = device, batch, layers
        self.network = model.module.to(device).to(memory_format=torch.channels_last)
        self._standardise = Normalizer(model.spec, device)
        self._compiled = None
        if isinstance(self.network, Classifier) and use_openvino(engine, device):
            self._compiled = CompiledClassifier(self.network, model.spec)

    @cached_property
    def layers(self) -> Layers:
        """The layers that HR-CAM looks at."""
        return self._layers or find_layers(self.network)

    def gradcam(
        self, images: Images, target: TissueClass = TissueClass.TUMOR, pixels: Pixels = "predicted"
    ) -> list[Saliency]:
        """Explain images `[n, h, w, 3]` with Grad-CAM; `pixels` is for the segmenter, see `segmenter_gradcam`."""
        if self._compiled is not None:
            found = [self._compiled.gradcam(images[part], target) for part in self._parts(images)]
            return [saliency for maps in found for saliency in maps.saliencies()]

        def explain(part: slice, batch: Tensor) -> list[Saliency]:
            chosen = pixels[part] if isinstance(pixels, torch.Tensor) else pixels
            return self._gradcam(batch, target, chosen).saliencies()

        return [saliency for batch in self._each(images, explain) for saliency in batch]

    def hrcam(self, images: Images, hrcam_head: HRCamHead, target: TissueClass = TissueClass.TUMOR) -> list[Saliency]:
        """Explain images `[n, h, w, 3]` with HR-CAM."""
        if self._compiled is not None:
            return [saliency for _, maps in self.both(images, hrcam_head, target) for saliency in maps.saliencies()]

        def explain(_part: slice, batch: Tensor) -> list[Saliency]:
            return hrcam(self.network, batch, hrcam_head, target).saliencies()

        return [saliency for batch in self._each(images, explain) for saliency in batch]

    def both(
        self, images: Images, hrcam_head: HRCamHead, target: TissueClass = TissueClass.TUMOR
    ) -> Iterator[tuple[Maps, Maps]]:
        """Yield Grad-CAM and HR-CAM of images `[n, h, w, 3]` batch by batch, from one forward pass."""
        if self._compiled is not None:
            compiled = self._compiled
            return (compiled.both(images[part], hrcam_head, target) for part in self._parts(images))

        def explain(_part: slice, batch: Tensor) -> tuple[Maps, Maps]:
            with watching(self.network, hrcam_head) as watched:
                maps = self._gradcam(batch, target)
            return maps, watched.maps(maps.frame.image_px, target)

        return self._each(images, explain)

    def pool(self, images: Images | Tensor, layers: Layers | None = None) -> Tensor:
        """Average feature maps over images for `fit`.

        Parameters
        ----------
        images
            Bytes `[n, h, w, 3]`; or a tensor of intensities 0 to 1, `[n, 3, h, w]`.
        layers
            None takes the explainer's.

        Returns
        -------
        `[n, sum of channels]`, on the CPU.
        """
        wanted = layers or self.layers
        pooled = self._each(images, lambda _, batch: pool(self.network, batch, wanted).cpu())
        return torch.cat([torch.empty(0, sum(wanted.channels)), *pooled])

    def gradcam_maps(self, batch: Tensor, target: TissueClass, pixels: Pixels = "predicted") -> Maps:
        """Explain standardised images `[n, 3, h, w]` in one pass with the Grad-CAM of this kind of network.

        Raises
        ------
        ModelError
            The device's memory is too small.
        """
        try:
            return self._gradcam(batch, target, pixels)
        except torch.cuda.OutOfMemoryError:
            problem = f"{self.device.type} has too little memory for {len(batch)} tiles at once"
            raise ModelError("explanation", problem, "Explain fewer at once") from None

    def _gradcam(self, batch: Tensor, target: TissueClass, pixels: Pixels = "predicted") -> Maps:
        if isinstance(self.network, Classifier):
            return classifier_gradcam(self.network, batch, target)
        return segmenter_gradcam(self.network, batch, target, pixels)

    def _parts(self, images: Images) -> list[slice]:
        return [slice(start, start + self.batch) for start in range(0, len(images), self.batch)]

    def _each(self, images: Images | Tensor, work: Callable[[slice, Tensor], T]) -> Iterator[T]:
        """Do work on standardised images, batch by batch."""
        start = 0
        while start < len(images):
            part = slice(start, min(start + self.batch, len(images)))
            try:
                done = work(part, self._prepared(images[part]))
            except torch.cuda.OutOfMemoryError:
                self._halve(part.stop - part.start)
                continue
            start = part.stop
            yield done

    def _prepared(self, images: Images | Tensor) -> Tensor:
        if isinstance(images, torch.Tensor):
            return self._standardise(images.to(self.device))
        return self._standardise(intensities(torch.tensor(np.ascontiguousarray(images), device=self.device)))

    def _halve(self, tried: int) -> None:
        if tried == 1:
            problem = f"{self.device.type} has too little memory for a single tile"
            raise ModelError("explanation", problem, 'Free its memory, or set compute.device = "cpu" in study.toml')
        self.batch = tried // 2
        torch.cuda.empty_cache()  # does nothing where CUDA is not in use
