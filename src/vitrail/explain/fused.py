"""A classifier that says why, as one compiled graph from bytes to logits and both maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vitrail.explain.hooks import frozen, record_activations, seen
from vitrail.explain.methods.gradcam import classifier_cam, classifier_maps
from vitrail.explain.methods.hrcam import Watched, weight_maps
from vitrail.models.openvino import Compiled
from vitrail.models.preprocessing import FromBytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from vitrail.classes import TissueClass
    from vitrail.explain.methods.hrcam import HRCamHead
    from vitrail.explain.saliency import Maps
    from vitrail.models.classifier import Classifier
    from vitrail.models.spec import ModelSpec

    Images = NDArray[np.uint8]


class ExplainedClassifier(FromBytes):
    """A classifier with Grad-CAM of tumor and, where it is asked for, what HR-CAM needs of every layer.

    Parameters
    ----------
    network
        The classifier, in eval mode; the graph shares its weights.
    spec
        Whose mean and standard deviation images are standardised with.
    auxiliary
        HR-CAM's dense layer; None leaves HR-CAM out.
    """

    network: Classifier

    def __init__(self, network: Classifier, spec: ModelSpec, hrcam_head: HRCamHead | None) -> None:
        super().__init__(network, spec)
        self._auxiliary = hrcam_head

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]  # more than the logits
        """Map RGB bytes `[n, h, w, 3]` to logits `[n]`, maps `[n, h', w']`, and each layer's weighted sum."""
        standardised = self.standardised(images)
        if self._auxiliary is None:
            return classifier_cam(self.network, standardised)
        names = self._auxiliary.layers.names
        with record_activations(self.network, names, weight_maps(self._auxiliary, torch.device("cpu"))) as weighted:
            logits, values = classifier_cam(self.network, standardised)
        return (logits, values, *(seen(weighted, name) for name in names))


class CompiledClassifier:
    """Explains images with OpenVINO; what it returns is what `classifier_gradcam` and `hrcam` return.

    Parameters
    ----------
    network
        The classifier; its weights must not change any more.
    spec
        Whose mean and standard deviation images are standardised with.
    """

    def __init__(self, network: Classifier, spec: ModelSpec) -> None:
        self._network, self._spec = network, spec
        self._known: list[tuple[HRCamHead | None, Compiled]] = []

    def gradcam(self, images: Images, target: TissueClass) -> Maps:
        """Explain images `[n, h, w, 3]` with Grad-CAM."""
        logits, values = self._outputs(images, None)
        return self._maps(images, logits, values, target)

    def both(self, images: Images, hrcam_head: HRCamHead, target: TissueClass) -> tuple[Maps, Maps]:
        """Explain images `[n, h, w, 3]` with Grad-CAM and HR-CAM, from one pass."""
        logits, values, *parts = self._outputs(images, hrcam_head)
        weighted = dict(zip(hrcam_head.layers.names, parts, strict=True))
        watched = Watched(network=self._network, hrcam_head=hrcam_head, channels=3, weighted=weighted)
        return self._maps(images, logits, values, target), watched.maps((images.shape[1], images.shape[2]), target)

    def _maps(self, images: Images, logits: Tensor, values: Tensor, target: TissueClass) -> Maps:
        return classifier_maps(self._network, (3, images.shape[1], images.shape[2]), logits, values, target)

    def _outputs(self, images: Images, hrcam_head: HRCamHead | None) -> list[Tensor]:
        with frozen(self._network):
            return [torch.from_numpy(array) for array in self._compiled(hrcam_head)(images)]

    def _compiled(self, hrcam_head: HRCamHead | None) -> Compiled:
        """Return the graph for a dense layer; there are few, and a new one may be another object of equal content."""
        found = next((graph for known, graph in self._known if known is hrcam_head), None)
        if found is None:
            found = Compiled(ExplainedClassifier(self._network, self._spec, hrcam_head))
            self._known.append((hrcam_head, found))
        return found
