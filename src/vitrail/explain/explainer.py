"""Explain arrays of images: standardise, run in batches, return one `Saliency` an image."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import torch

from vitrail.classes import TissueClass
from vitrail.core.shown import Shown
from vitrail.explain.dense import dense_network, stride_of
from vitrail.explain.fused import ExplainingClassifier, ExplainingSegmenter, assemble, read_pass
from vitrail.explain.hooks import frozen
from vitrail.explain.layers import find_layers, pool
from vitrail.explain.methods.base import METHODS
from vitrail.explain.receptive_field import FEATURES
from vitrail.models.batches import Batches
from vitrail.models.classifier import Classifier
from vitrail.models.device import pick_device
from vitrail.models.openvino import Compiled, use_openvino
from vitrail.models.preprocessing import FromBytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from vitrail.explain.fused import Reader
    from vitrail.explain.layers import Layers
    from vitrail.explain.methods.base import ExplanationMethod, Head
    from vitrail.explain.methods.hrcam import HRCamHead
    from vitrail.explain.saliency import Maps, Saliency
    from vitrail.explain.target import Pixels
    from vitrail.models.segmenter import Segmenter
    from vitrail.models.store import Model
    from vitrail.settings.schema import EngineName

    Images = NDArray[np.uint8]

BATCH = 32
"""Images in one pass; Grad-CAM of a segmenter keeps what its gradient needs."""


class Explainer(Shown):
    """A trained model on a device, asked why. It computes in float32.

    Where the device's memory is too small, batches are halved, from then on and down to single images; with too little
    for one, every method raises `ModelError`.

    Parameters
    ----------
    model
        What `load_model` returns; it is moved to the device. Of an ensemble the representative member is explained.
    device
        Where to run; None takes a CUDA GPU where there is one, else the CPU.
    batch
        Images in one pass.
    layers
        That heads look at, as `find_layers` returns them; None takes the default ones.
    engine
        What computes the maps of a classifier, and those of a U-Net where they are asked for together with Grad-CAM of
        its own or of all pixels. OpenVINO, which `"auto"` takes on a CPU where it is installed, compiles the network
        with the weights it has when it is first asked; all else is torch's.
    stride, margin_px
        Of the cells of methods that show feature maps, and by how much images are continued for them; see
        `dense_network` and `stride_of`. 0 and 0 are the network's own maps, as in the paper.

    Raises
    ------
    SettingsError
        OpenVINO is asked for, but not installed, or the device is no CPU.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device | None = None,
        batch: int = BATCH,
        *,
        layers: Layers | None = None,
        engine: EngineName = "auto",
        stride: int | None = 0,
        margin_px: int = 0,
    ) -> None:
        self.device = device = device or pick_device("auto")
        model = model.explained
        self._layers = layers
        self.network = model.module.to(device).to(memory_format=torch.channels_last)
        self.spec = model.spec
        self.dense = dense_network(self.network, stride_of(stride, model.spec.side_px), margin_px)
        self.batches = Batches(model.spec, device, batch, "explanation")
        self._openvino = use_openvino(engine, device)
        self._compiled: list[tuple[list[tuple[str, Head]], Compiled]] = []

    @cached_property
    def layers(self) -> Layers:
        """The layers that heads look at."""
        return self._layers or find_layers(self.network)

    def __repr__(self) -> str:
        return f"<Explainer of a {self.spec.task}: {self.spec.encoder}, on {self.device}>"

    def maps(
        self,
        images: Images,
        names: Sequence[str],
        heads: Mapping[str, Head] = MappingProxyType({}),
        target: TissueClass = TissueClass.TUMOR,
        *,
        pixels: Pixels = "predicted",
    ) -> Iterator[tuple[Maps, ...]]:
        """Explain images with several methods, which share a forward pass where they can.

        Parameters
        ----------
        images
            Bytes `[n, h, w, 3]`.
        names
            Of the methods, see `METHODS`.
        heads
            By the method's name what was fitted for it; those that need nothing are missing.
        target
            The class.
        pixels
            Of a segmenter: which pixels' class is explained, see `segmenter_gradcam`; a mask has all images.

        Yields
        ------
        tuple[Maps, ...]
            Batch by batch the maps of each method, in the order of the names, still on the device.

        Raises
        ------
        ModelError
            The device's memory is too small.
        """
        methods = [METHODS[name] for name in names]
        readers = [r for m in methods if (r := m.reader(self.network, heads.get(m.name))) is not None]
        alone = [method for method in methods if method.name not in {reader.method for reader in readers}]
        recorded, compiled = None, None
        if self._openvino and isinstance(self.network, Classifier):
            compiled = self._compile(readers, heads) if readers else None
        elif self._openvino and isinstance(pixels, str):
            recorded = next((method for method in alone if method.records(self.network)), None)
            compiled = self._compile(readers, heads, recorded, target, pixels) if recorded else None
        # a method that runs the network once anyhow leads the readers, unless they want what only the plain pass gives
        free = compiled is None and not any(FEATURES in reader.layers for reader in readers)
        leader = next((method for method in alone if method.passes == 1), None) if free else None
        blank: list[Maps] = []  # all of the recorded method's maps but their values

        def explain(part: slice, batch: Tensor) -> tuple[Maps, ...]:
            maps: dict[str, Maps] = {}
            output: Tensor | None

            def run(method: ExplanationMethod, batch: Tensor = batch) -> Maps:
                chosen = pixels[part] if isinstance(pixels, torch.Tensor) else pixels
                head = heads.get(method.name)
                return method.explain(
                    self.network, batch, target, head=head, pixels=chosen, mpp=self.spec.mpp, dense=self.dense
                )

            def lead() -> Tensor | None:
                first = cast("ExplanationMethod", leader)
                maps[first.name] = run(first)
                return maps[first.name].output

            with frozen(self.network):
                if compiled is not None:
                    if recorded is not None and not blank:  # first: where cells look is not to be measured in a record
                        blank.append(run(recorded, batch[:1]))
                    output, *flat = (torch.from_numpy(array) for array in compiled(images[part]))
                    if recorded is not None:
                        maps[recorded.name] = replace(blank[0], values=flat.pop(0), output=output)
                    sums = {
                        reader.method: [flat.pop(0) for _ in range(len(reader.layers) + (reader.bias is not None))]
                        for reader in readers
                    }
                elif readers:
                    output, sums = read_pass(self.network, batch, readers, lead if leader else None, self.dense)
                for reader in readers:
                    shape = 3, images.shape[1], images.shape[2]
                    maps[reader.method] = assemble(
                        self.network, reader, sums[reader.method], shape, target, output=output, dense=self.dense
                    )
            for method in alone:
                if method.name not in maps:
                    maps[method.name] = run(method)
            return tuple(maps[name] for name in names)

        if alone or compiled is None:
            return self.batches.run(images, explain)
        size, unused = self.batches.size, torch.empty(0)  # the compiled graph takes bytes
        return (explain(slice(at, at + size), unused) for at in range(0, len(images), size))

    def saliencies(
        self,
        images: Images,
        method: str,
        heads: Mapping[str, Head] = MappingProxyType({}),
        target: TissueClass = TissueClass.TUMOR,
        *,
        pixels: Pixels = "predicted",
    ) -> list[Saliency]:
        """Explain images with one method.

        Parameters
        ----------
        images
            Bytes `[n, h, w, 3]`.
        method
            Its name, see `METHODS`.
        heads, target, pixels
            As of `maps`.

        Returns
        -------
        list[Saliency]
            One map an image, over its image.

        Raises
        ------
        ModelError
            The device's memory is too small.
        """
        batches = self.maps(images, [method], heads, target, pixels=pixels)
        saliencies = (each for (maps,) in batches for each in maps.saliencies())
        return [each.over(image) for image, each in zip(images, saliencies, strict=True)]

    def gradcam(
        self, images: Images, target: TissueClass = TissueClass.TUMOR, pixels: Pixels = "predicted"
    ) -> list[Saliency]:
        """Explain images with Grad-CAM (Selvaraju et al. 2017, doi 10.1109/ICCV.2017.74).

        Parameters
        ----------
        images
            `[n, h, w, 3]`, bytes.
        target
            The class to explain.
        pixels
            Of a segmenter: which pixels' class is explained, see `segmenter_gradcam`.

        Returns
        -------
        list[Saliency]
            One map an image.
        """
        return self.saliencies(images, "gradcam", {}, target, pixels=pixels)

    def hrcam(self, images: Images, hrcam_head: HRCamHead, target: TissueClass = TissueClass.TUMOR) -> list[Saliency]:
        """Explain images with HR-CAM.

        Parameters
        ----------
        images
            `[n, h, w, 3]`, bytes.
        hrcam_head
            The dense layer that was fitted on this network.
        target
            The class to explain.

        Returns
        -------
        list[Saliency]
            One map an image.
        """
        return self.saliencies(images, "hrcam", {"hrcam": hrcam_head}, target)

    def pool(self, images: Images | Tensor) -> Tensor:
        """Average the feature maps of `layers` over images, for `fit`.

        Parameters
        ----------
        images
            Bytes `[n, h, w, 3]`; or a tensor of intensities 0 to 1, `[n, 3, h, w]`.

        Returns
        -------
        Tensor
            `[n, sum of channels]`, on the CPU.
        """
        pooled = self.batches.run(images, lambda _, batch: pool(self.network, batch, self.layers).cpu())
        return torch.cat([torch.empty(0, sum(self.layers.channels)), *pooled])

    def outputs(self, images: Images) -> Iterator[Tensor]:
        """Yield the network's outputs for images `[n, h, w, 3]`, batch by batch."""

        def work(_part: slice, batch: Tensor) -> Tensor:
            with frozen(self.network), torch.no_grad():
                output: Tensor = self.network(batch)
            return output

        return self.batches.run(images, work)

    def _compile(
        self,
        readers: Sequence[Reader],
        heads: Mapping[str, Head],
        recorded: ExplanationMethod | None = None,
        target: TissueClass = TissueClass.TUMOR,
        pixels: str = "",
    ) -> Compiled:
        """Return the graph of some methods and heads; there are few, and a new head may be another of equal content."""
        key = [(reader.method, heads.get(reader.method)) for reader in readers]
        key += [(f"{recorded.name} {target.key} {pixels}", None)] if recorded else []
        for other, graph in self._compiled:
            if len(other) == len(key) and all(a[0] == b[0] and a[1] is b[1] for a, b in zip(other, key, strict=True)):
                return graph
        module: nn.Module
        if recorded is None:
            module = ExplainingClassifier(cast("Classifier", self.network), readers, dense=self.dense)
        else:
            explain = partial(
                recorded.explain, self.network, target=target, pixels=cast("Pixels", pixels), dense=self.dense
            )
            module = ExplainingSegmenter(cast("Segmenter", self.network), explain, readers, self.dense)
        self._compiled.append((key, Compiled(FromBytes(module, self.spec))))
        return self._compiled[-1][1]
