"""Tiles of a whole slide: classified and explained by both methods in one pass, on one grid for all tiles.

A slide's map consists of its tiles' maps side by side, in the methods' own units: nothing is stretched tile by tile, so
that places of a slide can be compared. Grad-CAM has few cells a tile, HR-CAM many; both are brought to the same pixels:
interpolated linearly as `Saliency.upsample` does, each value where its cell looks, and averaged over each pixel. All of
it is linear, and so a product with two small matrices a layer, within the graph that computes the logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from vitrail.errors import ModelError
from vitrail.explain.hooks import record_activations, seen
from vitrail.explain.layers import final_stride
from vitrail.explain.methods.gradcam import classifier_cam
from vitrail.explain.methods.hrcam import weight_maps
from vitrail.explain.receptive_field import FEATURES, frames
from vitrail.models.classifier import Classifier

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from vitrail.explain.methods.hrcam import HRCamHead
    from vitrail.explain.saliency import Frame, Size
    from vitrail.models.store import Model

    Floats = NDArray[np.float64]

POINTS = 8
"""Along a side of a pixel of the slide's map: where the interpolated map is looked up to be averaged."""


class ExplainedTiles(nn.Module):
    """A classifier of tiles that also says why, for tumor.

    Parameters
    ----------
    network
        The classifier, in eval mode and on the CPU; its weights are shared and must not change any more.
    side_px
        Side of a tile.
    pixels
        Of the maps, along a tile.
    auxiliary
        HR-CAM's dense layer, fitted on this classifier; None leaves HR-CAM out.

    Attributes
    ----------
    methods
        What there is to know of each method's map, by key, in the order of the maps.
    """

    def __init__(self, network: Classifier, side_px: int, pixels: int, hrcam_head: HRCamHead | None) -> None:
        super().__init__()
        self.network, self._auxiliary, self._pixels = network, hrcam_head, pixels
        stride, shape = final_stride(network), (3, side_px, side_px)
        (frame,) = frames(network, shape, (FEATURES,), (stride,))
        self._keep(FEATURES, *_onto_pixels(frame, _cells(frame, stride), pixels))
        self.methods: dict[str, dict[str, Any]] = {"gradcam": _about_gradcam(_cells(frame, stride))}
        if hrcam_head is not None:
            self._place_layers(hrcam_head, shape)
            self.methods["hrcam"] = _about_hrcam(hrcam_head)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map standardised images `[n, 3, h, w]` to logits `[n]` and maps `[n, methods, pixels, pixels]`."""
        if self._auxiliary is None:
            logits, values = classifier_cam(self.network, images)
            return logits, self._placed(FEATURES, values)[:, None]
        names = self._auxiliary.layers.names
        with record_activations(self.network, names, weight_maps(self._auxiliary, images.device)) as weighted:
            logits, values = classifier_cam(self.network, images)
        layers = [self._placed(name, seen(weighted, name)) for name in names]
        hrcam = torch.stack(layers).sum(0) + self._auxiliary.bias
        return logits, torch.stack([self._placed(FEATURES, values), hrcam], 1)

    def _place_layers(self, hrcam_head: HRCamHead, shape: tuple[int, int, int]) -> None:
        """Find each layer's matrices: from its cells to those of the finest layer, and from there to pixels."""
        layers = hrcam_head.layers
        places = frames(self.network, shape, layers.names, layers.strides)
        cells = [_cells(*each) for each in zip(places, layers.strides, strict=True)]
        finest = _onto_pixels(places[0], cells[0], self._pixels)
        for name, frame, own in zip(layers.names, places, cells, strict=True):
            onto = frame.onto(own, *places[0].centres(cells[0])) if name != layers.names[0] else (np.eye(own[0]),) * 2
            rows, columns = (outer @ inner for outer, inner in zip(finest, onto, strict=True))
            self._keep(name, rows, columns)

    def _keep(self, name: str, rows: Floats, columns: Floats) -> None:
        for axis, matrix in (("rows", rows), ("columns", columns.T)):
            kept = torch.from_numpy(np.ascontiguousarray(matrix)).float()
            self.register_buffer(_buffer(axis, name), kept, persistent=False)

    def _placed(self, name: str, values: Tensor) -> Tensor:
        """Bring a layer's maps `[n, h, w]` to `[n, pixels, pixels]`."""
        with torch.autocast(values.device.type, enabled=False):
            rows, columns = (self.get_buffer(_buffer(axis, name)) for axis in ("rows", "columns"))
            return rows @ (values @ columns)


def explained_tiles(model: Model, pixels: int, hrcam_head: HRCamHead | None) -> ExplainedTiles:
    """Make a classifier that `load_model` returned say why.

    Raises
    ------
    ModelError
        It is no classifier, or HR-CAM's dense layer was fitted on another network.
    """
    if not isinstance(model.module, Classifier):
        raise ModelError(f"the {model.spec.task}", "cannot be explained on whole slides", "Give a classifier")
    return ExplainedTiles(model.module, model.spec.side_px, pixels, hrcam_head)


def _buffer(axis: str, name: str) -> str:
    return f"{axis}_{name.replace('.', '_')}"  # a buffer's name has no dots


def _cells(frame: Frame, stride: int) -> Size:
    return frame.span_px[0] // stride, frame.span_px[1] // stride


def _onto_pixels(frame: Frame, cells: Size, pixels: int) -> tuple[Floats, Floats]:
    """Return the matrices that turn a map's rows and columns into means over equal parts of the image."""
    rows, columns = frame.matrices(cells, (pixels * POINTS, pixels * POINTS))
    return _means(rows), _means(columns)


def _means(matrix: Floats) -> Floats:
    means: Floats = matrix.reshape(-1, POINTS, matrix.shape[1]).mean(1)
    return means


def _about_gradcam(cells: Size) -> dict[str, Any]:
    unit = "logit of tumor in a cell of the feature map: a tile's cells add up to its logit, but for the biases"
    return {"layers": [FEATURES], "cells": list(cells), "unit": unit}


def _about_hrcam(hrcam_head: HRCamHead) -> dict[str, Any]:
    unit = "logit of tumor of HR-CAM's dense layer, from the feature maps at each place alone"
    return {"layers": list(hrcam_head.layers.names), "bias": hrcam_head.bias, "unit": unit}
