"""LayerCAM: each cell of a feature map weighted by its own gradient, at several layers (Jiang et al. 2021).

Source: doi:10.1109/TIP.2021.3089943, equations 6 and 7: `sum over channels of max(gradient, 0) * features`, rectified.
That only knows what speaks for a score. Maps are signed here: that of the score minus that of its negative, before
they are rectified, which is `sum over channels of gradient * features`.

So each layer's map is in logits: to the first order, what the score would lose without this cell's features. The source
scales the maps of shallow layers by hand before it takes the maximum over layers. Here each is spread over the cells of
the finest layer, where its sum stays what it was, and the map is the mean over layers: fine layers say where exactly,
deep ones what for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from vitrail.classes import TissueClass
from vitrail.explain.layer_gradients import layer_gradients
from vitrail.explain.layers import Layers, find_layers
from vitrail.explain.methods.base import ExplanationMethod
from vitrail.explain.receptive_field import frames
from vitrail.explain.saliency import Maps
from vitrail.explain.target import target_pixels, target_score

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vitrail.explain.dense import DenseNetwork
    from vitrail.explain.methods.base import Head
    from vitrail.explain.target import Pixels

FINEST_STRIDE = 8
"""Layers of finer cells are left out: they show edges, whatever the score."""

_LAYERS: WeakKeyDictionary[nn.Module, Layers] = WeakKeyDictionary()


class LayerCam(ExplanationMethod):
    """LayerCAM of both networks' encoders."""

    name, title, colour = "layercam", "LayerCAM", (27, 120, 55)
    describes = "weighs each cell of feature maps at several layers by how far it raises the score itself"
    gradients = 1

    def explain(
        self,
        network: nn.Module,
        images: Tensor,
        target: TissueClass = TissueClass.TUMOR,
        *,
        head: Head = None,  # noqa: ARG002 - it has none
        pixels: Pixels = "predicted",
        mpp: float | None = None,  # noqa: ARG002 - cells have no size here
        dense: DenseNetwork | None = None,  # noqa: ARG002 - gradients belong to the network's own cells
    ) -> Maps:
        """Explain images; see `ExplanationMethod.explain` and `layercam`."""
        return layercam(network, images, target=target, pixels=pixels)


METHOD = LayerCam()


def layercam(
    network: nn.Module,
    images: Tensor,
    layers: Layers | None = None,
    target: TissueClass = TissueClass.TUMOR,
    *,
    pixels: Pixels = "predicted",
) -> Maps:
    """Explain images by the feature maps of an encoder's layers.

    Parameters
    ----------
    network
        A classifier or a segmenter, in either mode.
    images
        `[n, 3, h, w]`, standardised.
    layers
        Finest first; None takes the last one of each stride from `FINEST_STRIDE` on.
    target
        The class.
    pixels
        Of a segmenter: which pixels' class is explained, see `target_pixels`.

    Returns
    -------
    Maps
        One map an image, at the finest layer's resolution, in logits.

    Raises
    ------
    ModelError
        A layer is not there, or the encoder does not say where its stages end.
    """
    layers = coarse_layers(network) if layers is None else layers

    def score(output: Tensor) -> Tensor:
        inside = target_pixels(output, target, pixels) if output.ndim > 1 else None
        return target_score(output, target, inside)

    result = layer_gradients(network, images, layers.names, score)
    shape = images.shape[1], images.shape[2], images.shape[3]
    positions = frames(network, shape, layers.names, layers.strides)
    parts = [(maps * slope).sum(1) for maps, slope in zip(result.features, result.gradients, strict=True)]
    values = torch.zeros_like(parts[0])
    at = positions[0].centres((values.shape[1], values.shape[2]))
    for part, frame, stride in zip(parts, positions, layers.strides, strict=True):
        rows, columns = (torch.from_numpy(each).to(part) for each in frame.onto((part.shape[1], part.shape[2]), *at))
        values += rows @ part @ columns.T * ((layers.strides[0] / stride) ** 2 / len(parts))
    return Maps(
        method=METHOD.name,
        layers=layers.names,
        target=target.key,
        values=values,
        output=result.output,
        frame=positions[0],
    )


def coarse_layers(network: nn.Module) -> Layers:
    """Find the last layer of each stride from `FINEST_STRIDE` on, or the last of all where none is as coarse."""
    if network not in _LAYERS:
        every = find_layers(network)
        last = dict(zip(every.strides, zip(every.names, every.channels, strict=True), strict=True))
        strides = [stride for stride in last if stride >= FINEST_STRIDE] or [max(last)]
        names, channels = zip(*(last[stride] for stride in strides), strict=True)
        _LAYERS[network] = Layers(names=names, channels=channels, strides=tuple(strides))
    return _LAYERS[network]
