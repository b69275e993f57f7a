"""One forward pass that gives a network's output and the maps of several methods.

Methods that need nothing of a network but feature maps say so by a `Reader`, and share one pass. In a module,
`ExplainingClassifier`, such a pass can be recorded and compiled, and its maps laid onto the pixels of a whole slide.

A slide's map consists of its tiles' maps side by side, in the methods' own units: nothing is stretched tile by tile, so
that places of a slide can be compared. Grad-CAM has few cells a tile, HR-CAM many; both are brought to the same pixels:
interpolated linearly as `Saliency.upsample` does, each value where its cell looks, and averaged over each pixel. All of
it is linear, and so a product with two small matrices a layer, within the graph that computes the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from vitrail.classes import LABELS, TissueClass
from vitrail.explain.hooks import record_activations, seen
from vitrail.explain.layers import run
from vitrail.explain.receptive_field import FEATURES, frames
from vitrail.explain.saliency import Maps
from vitrail.models.classifier import Classifier

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    Sums = dict[str, list[Tensor]]

POINTS = 8
"""Along a side of a pixel of the slide's map: where the interpolated map is looked up to be averaged."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reader:
    """What a method takes from one forward pass, where that is nothing but feature maps.

    Its map is the sum of what it reads from each layer, enlarged to the cells of the finest one, and of the bias.

    Attributes
    ----------
    method
        Its name.
    layers
        Names as in `named_modules()`, finest first; or `FEATURES` of a classifier.
    strides
        Pixels of the image between two cells of each layer.
    read
        Maps a layer's name and its feature maps `[n, c, h, w]` to their weighted sum, `[n, h, w]`. What it does may not
        depend on what the images show, so that it can be recorded.
    unit
        What a value of the map is, in words.
    bias
        Of a method with a head; None of one without.
    """

    method: str
    layers: tuple[str, ...]
    strides: tuple[int, ...]
    read: Callable[[str, Tensor], Tensor]
    unit: str
    bias: float | None = None


def read_pass(
    network: nn.Module, images: Tensor, readers: Sequence[Reader], lead: Callable[[], Tensor | None] | None = None
) -> tuple[Tensor | None, Sums]:
    """Run a network once, for all readers.

    Parameters
    ----------
    network
        In eval mode, see `frozen`.
    images
        `[n, 3, h, w]`, standardised.
    readers
        Whose layers are read.
    lead
        Runs the network, once and on these images, in place of the plain pass, and returns its output. No reader may
        want `FEATURES` then.

    Returns
    -------
    tuple[Tensor | None, dict[str, list[Tensor]]]
        What `lead` returned; else a classifier's logits `[n]`, or None of any other network, of which only so much runs
        as its feature maps need. And by method what was read of each of its layers, `[n, h, w]`.
    """
    wanted = {layer: [r for r in readers if layer in r.layers] for reader in readers for layer in reader.layers}

    def read(layer: str, maps: Tensor) -> dict[str, Tensor]:
        return {reader.method: reader.read(layer, maps) for reader in wanted[layer]}

    named = tuple(layer for layer in wanted if layer != FEATURES)
    with record_activations(network, named, read) as sums:
        if lead is not None:
            output = lead()
        elif isinstance(network, Classifier):
            features = network.features(images)
            if FEATURES in wanted:
                sums[FEATURES] = read(FEATURES, features)
            output = network.head(features)
        else:
            output = None
            run(network, images)
    return output, {reader.method: [seen(sums, name)[reader.method] for name in reader.layers] for reader in readers}


def assemble(
    network: nn.Module,
    reader: Reader,
    sums: Sequence[Tensor],
    shape: tuple[int, int, int],
    target: TissueClass = TissueClass.TUMOR,
    output: Tensor | None = None,
) -> Maps:
    """Enlarge and add up what was read from the layers.

    Parameters
    ----------
    network
        The network that ran.
    reader
        Who read.
    sums
        Of each of its layers, `[n, h, w]`.
    shape
        Channels, height and width of the images.
    target
        `TUMOR`, or `NON_TUMOR` for the negative.
    output
        The network's, for `Maps.output`.

    Returns
    -------
    Maps
        At the finest layer's resolution.

    Raises
    ------
    ValueError
        The target is none of these two.
    """
    if target not in LABELS:  # one logit has but two sides
        raise ValueError(f"a classifier tells tumor from non_tumor, not {target.key}")
    positions = frames(network, shape, reader.layers, reader.strides)
    values, head_logits = sums[0], None
    at = positions[0].centres((values.shape[1], values.shape[2]))
    for part, frame in zip(sums[1:], positions[1:], strict=True):
        rows, columns = (torch.from_numpy(each).to(part) for each in frame.onto((part.shape[1], part.shape[2]), *at))
        values = values + rows @ part @ columns.T
    if reader.bias is not None:
        head_logits = torch.stack([part.mean((1, 2)) for part in sums]).sum(0) + reader.bias
        values = values + reader.bias
    return Maps(
        method=reader.method,
        layers=reader.layers,
        target=target.key,
        values=values * (1 if target is TissueClass.TUMOR else -1),
        output=output,
        frame=positions[0],
        head_logits=head_logits,
    )


class ExplainingClassifier(nn.Module):
    """A classifier that also says why, for tumor, in the pass that classifies.

    Parameters
    ----------
    network
        The classifier, in eval mode and on the CPU; its weights are shared and must not change any more.
    readers
        Of the methods.
    side_px
        Side of a tile, for maps on a grid of pixels.
    pixels
        Of the maps, along a tile. None leaves what was read as it is.

    Attributes
    ----------
    methods
        What there is to know of each method's map on a grid, by name, in the order of the maps.
    """

    def __init__(
        self, network: Classifier, readers: Sequence[Reader], side_px: int = 0, pixels: int | None = None
    ) -> None:
        super().__init__()
        self.network, self.readers, self._pixels = network, tuple(readers), pixels
        self.methods: dict[str, dict[str, Any]] = {}
        if pixels is None:
            return
        for reader in readers:
            places = frames(network, (3, side_px, side_px), reader.layers, reader.strides)
            cells = [
                (frame.span_px[0] // stride, frame.span_px[1] // stride)
                for frame, stride in zip(places, reader.strides, strict=True)
            ]
            own = {"cells": list(cells[0])} if reader.bias is None else {"bias": reader.bias}
            self.methods[reader.method] = {"layers": list(reader.layers), **own, "unit": reader.unit}
            fine = places[0].matrices(cells[0], (pixels * POINTS, pixels * POINTS))
            finest = [matrix.reshape(pixels, POINTS, -1).mean(1) for matrix in fine]
            for number, (frame, size) in enumerate(zip(places, cells, strict=True)):
                # from a layer's cells to those of the finest one, and from there to means over pixels
                onto = frame.onto(size, *places[0].centres(cells[0])) if number else (np.eye(size[0]), np.eye(size[1]))
                rows, columns = (outer @ inner for outer, inner in zip(finest, onto, strict=True))
                for axis, matrix in (("rows", rows), ("columns", columns.T)):
                    buffer = torch.from_numpy(np.ascontiguousarray(matrix)).float()
                    self.register_buffer(f"{axis}_{reader.method}_{number}", buffer, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map standardised images `[n, 3, h, w]` to logits `[n]` and maps.

        Parameters
        ----------
        images
            The images.

        Returns
        -------
        tuple[Tensor, ...]
            The logits; then with `pixels` the maps `[n, methods, pixels, pixels]`, without them what was read from each
            layer of each reader, `[n, h, w]`.
        """
        logits, sums = read_pass(self.network, images, self.readers)
        logits = cast("Tensor", logits)  # of a classifier
        if self._pixels is None:
            return (logits, *(part for parts in sums.values() for part in parts))
        maps = []
        with torch.autocast(images.device.type, enabled=False):
            for reader in self.readers:
                placed = [
                    self.get_buffer(f"rows_{reader.method}_{number}")
                    @ (part @ self.get_buffer(f"columns_{reader.method}_{number}"))
                    for number, part in enumerate(sums[reader.method])
                ]
                total = torch.stack(placed).sum(0) if len(placed) > 1 else placed[0]
                maps.append(total if reader.bias is None else total + reader.bias)
        return logits, torch.stack(maps, 1)
