"""One forward pass that gives a network's output and the maps of several methods.

Methods that need nothing of a network but feature maps say so by a `Reader`, and share one pass. In a module,
`ExplainingClassifier`, such a pass can be recorded and compiled, and its maps laid onto the pixels of a whole slide.

A slide's map is blended from windows of several tiles, in the methods' own units: nothing is stretched one by one, so
that places of a slide can be compared. Grad-CAM has few cells, HR-CAM many; both are brought to the same pixels:
interpolated linearly as `Saliency.upsample` does, each value where its cell looks, and averaged over each pixel. All of
it is linear, and so a product with two small matrices a layer, within the graph that computes the logits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from vitrail.classes import LABELS, TissueClass
from vitrail.explain.hooks import record_activations, seen
from vitrail.explain.layers import patch_of, run
from vitrail.explain.receptive_field import FEATURES, frames
from vitrail.explain.saliency import Maps
from vitrail.models.classifier import Classifier

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from vitrail.explain.dense import DenseNetwork
    from vitrail.models.segmenter import Segmenter

    Sums = dict[str, list[Tensor]]

POINTS = 8
"""Along a side of a pixel of the slide's map: where the interpolated map is looked up to be averaged."""

_STRIDE, _MEASURED_STRIDES = 32, 5


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
        Maps a layer's name, its feature maps `[n, c, h, w]` and the network's own ones to the weighted sum of the
        former, `[n, h, w]`. The two differ where the former are a `DenseNetwork`'s; gradients belong to the latter.
        What it does may not depend on what the images show, so that it can be recorded.
    unit
        What a value of the map is, in words.
    bias
        Of a method with a head; None of one without.
    adds_up
        Whether a map's cells are parts of a sum, and so each holds less where there are more; else they are answers.
    """

    method: str
    layers: tuple[str, ...]
    strides: tuple[int, ...]
    read: Callable[[str, Tensor, Tensor], Tensor]
    unit: str
    bias: float | None = None
    adds_up: bool = False


def read_pass(
    network: nn.Module,
    images: Tensor,
    readers: Sequence[Reader],
    lead: Callable[[], Tensor | None] | None = None,
    dense: DenseNetwork | None = None,
) -> tuple[Tensor | None, Sums]:
    """Run a network once, for all readers; and its dense one once more, where their maps shall be of that.

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
    dense
        Whose feature maps are weighed, of the images continued; None takes the network's own.

    Returns
    -------
    tuple[Tensor | None, dict[str, list[Tensor]]]
        What `lead` returned; else a classifier's logits `[n]`, or None of any other network, of which only so much runs
        as its feature maps need. And by method what was read of each of its layers, `[n, h, w]`; behind them, of a
        method with a head, the sum of the means of what was read of the images as they are, `[n]`.
    """
    readers_of = {layer: [r for r in readers if layer in r.layers] for reader in readers for layer in reader.layers}
    named = tuple(layer for layer in readers_of if layer != FEATURES)
    # a head's logit is that of the images as they are
    plain = tuple(n for n in named if any(r.bias is not None for r in readers_of[n])) if dense else named
    own: dict[str, Tensor] = {}

    def read(layer: str, maps: Tensor) -> dict[str, Tensor]:
        return {reader.method: reader.read(layer, maps, own.get(layer, maps)) for reader in readers_of[layer]}

    with record_activations(network, plain, read) as sums:
        if lead is not None:
            output = lead()
        elif isinstance(network, Classifier):
            features = own[FEATURES] = network.features(images)
            if FEATURES in readers_of and not dense:
                sums[FEATURES] = read(FEATURES, features)
            output = network.head(features)
        else:
            output = None
            if plain:
                run(network, images)
    pooled = {
        reader.method: [torch.stack([seen(sums, name)[reader.method].mean((1, 2)) for name in reader.layers]).sum(0)]
        for reader in readers
        if reader.bias is not None
    }
    if dense and readers:
        with record_activations(dense.network, named, read) as sums:
            maps = run(dense.network, dense.continued(images))
            if FEATURES in readers_of:
                sums[FEATURES] = read(FEATURES, cast("Tensor", maps))
    result = {}
    for reader in readers:
        share = dense.closer**2 if dense and reader.adds_up else 1
        parts = [seen(sums, name)[reader.method] / share for name in reader.layers]
        result[reader.method] = [*parts, *pooled.get(reader.method, [])]
    return output, result


def assemble(
    network: nn.Module,
    reader: Reader,
    sums: Sequence[Tensor],
    shape: tuple[int, int, int],
    target: TissueClass = TissueClass.TUMOR,
    *,
    output: Tensor | None = None,
    dense: DenseNetwork | None = None,
) -> Maps:
    """Enlarge and add up what was read from the layers.

    Parameters
    ----------
    network
        The network that ran.
    reader
        Who read.
    sums
        As `read_pass` returns them.
    shape
        Channels, height and width of the images.
    target
        `TUMOR`, or `NON_TUMOR` for the negative.
    output
        The network's, for `Maps.output`.
    dense
        As for `read_pass`.

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
    image_px = shape[1:]
    if dense is not None:
        network = dense.network
        reader = replace(reader, strides=tuple(min(stride, dense.stride) for stride in reader.strides))
        shape = shape[0], *dense.continued_px(image_px)
    positions = frames(network, shape, reader.layers, reader.strides)
    values, head_logits = sums[0], None
    at = positions[0].centres((values.shape[1], values.shape[2]))
    for part, frame in zip(sums[1 : len(positions)], positions[1:], strict=True):
        rows, columns = (torch.from_numpy(each).to(part) for each in frame.onto((part.shape[1], part.shape[2]), *at))
        values = values + rows @ part @ columns.T
    if reader.bias is not None:
        head_logits = sums[-1] + reader.bias
        values = values + reader.bias
    maps = Maps(
        method=reader.method,
        layers=reader.layers,
        target=target.key,
        values=values * (1 if target is TissueClass.TUMOR else -1),
        output=output,
        frame=positions[0],
        head_logits=head_logits,
    )
    return dense.cut(maps, image_px) if dense else maps


class ExplainingSegmenter(nn.Module):
    """A segmenter that also says why, by a method whose gradient is written out, and by readers of the same pass.

    Parameters
    ----------
    network
        The segmenter, in eval mode and on the CPU; its weights are shared and must not change any more.
    explain
        Runs it once on standardised images, `[n, 3, h, w]`; the maps' output is the network's.
    readers, dense
        As for `read_pass`.
    """

    def __init__(
        self,
        network: Segmenter,
        explain: Callable[[Tensor], Maps],
        readers: Sequence[Reader],
        dense: DenseNetwork | None = None,
    ) -> None:
        super().__init__()
        self.network, self.readers, self._explain, self._dense = network, tuple(readers), explain, dense
        self.closer = dense.network if dense else None

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map standardised images `[n, 3, h, w]` to logits, the method's maps, and what each reader read."""
        maps: list[Maps] = []

        def lead() -> Tensor | None:
            maps.append(self._explain(images))
            return maps[0].output

        logits, sums = read_pass(self.network, images, self.readers, lead, self._dense)
        return cast("Tensor", logits), maps[0].values, *(part for parts in sums.values() for part in parts)


class ExplainingClassifier(nn.Module):
    """A classifier that also says why, for tumor.

    On a grid of pixels it does so for windows of several tiles a side, which are laid over a slide and blended: what
    looks at each tile alone gives every tile a map of its own, and all of them have a border. What is explained is the
    network's answer to the window. That makes a difference where weights depend on the image, as Grad-CAM's behind a
    dense layer with a ReLU: a window has one set of them. Those of HR-CAM are the same everywhere.

    Parameters
    ----------
    network
        The classifier, in eval mode and on the CPU; its weights are shared and must not change any more.
    readers
        Of the methods.
    dense
        As for `read_pass`.
    pixels
        Of the maps, along a tile. None leaves what was read as it is.
    side_px
        Side of a tile, for maps on a grid of pixels.
    tiles
        Along a side of the images that are then explained. Values of maps that add up are as many times larger as there
        are tiles in such a window: so they are in the unit of a single tile's, and the mean over tiles is what adds up.

    Attributes
    ----------
    methods
        What there is to know of each method's map on a grid, by name, in the order of the maps.
    """

    def __init__(
        self,
        network: Classifier,
        readers: Sequence[Reader],
        dense: DenseNetwork | None = None,
        *,
        pixels: int | None = None,
        side_px: int = 0,
        tiles: int = 1,
    ) -> None:
        super().__init__()
        self.network, self.readers, self._pixels, self._dense = network, tuple(readers), pixels, dense
        self.closer = dense.network if dense else None  # its own buffers follow to a device only if it is a module here
        self.methods: dict[str, dict[str, Any]] = {}
        if pixels is None:
            return
        window_px, margin_px = tiles * side_px, dense.margin_px if dense else 0
        total_px, _ = dense.continued_px((window_px, window_px)) if dense else (window_px, window_px)
        # where cells look is the same for all sizes that leave the same rest, and measured sooner for a small one
        stride = patch_of(network) or _STRIDE
        small_px = min(total_px, _MEASURED_STRIDES * stride + total_px % stride)
        points = margin_px + (np.arange(tiles * pixels * POINTS, dtype=np.float64) + 0.5) * (
            side_px / (pixels * POINTS)
        )
        for reader in readers:
            strides = tuple(min(stride, dense.stride) if dense else stride for stride in reader.strides)
            small = frames(dense.network if dense else network, (3, small_px, small_px), reader.layers, strides)
            further = total_px - small_px
            positions = [
                replace(
                    frame,
                    image_px=(total_px, total_px),
                    span_px=(frame.span_px[0] + further, frame.span_px[1] + further),
                )
                for frame in small
            ]
            cells = [
                (frame.span_px[0] // stride, frame.span_px[1] // stride)
                for frame, stride in zip(positions, strides, strict=True)
            ]
            a_tile = -(-side_px // strides[0])
            own = {"cells": [a_tile, a_tile]} if reader.bias is None else {"bias": reader.bias}
            self.methods[reader.method] = {"layers": list(reader.layers), **own, "unit": reader.unit}
            scale = tiles if reader.adds_up else 1  # along each axis
            for number, (frame, size) in enumerate(zip(positions, cells, strict=True)):
                # from a layer's cells to those of the finest one, and from there to means over pixels
                places = positions[0].centres(cells[0]) if number else (points, points)
                # neighbours among closer cells look at different ones of the layer before, and scatter: so the mean
                # over the network's own stride is shown, as if it had looked from all shifts
                shifts = np.arange(0, reader.strides[number], strides[number], dtype=np.float64)
                shifted = [frame.onto(size, *(at + by for at in places)) for by in shifts - shifts.mean()]
                onto = [np.mean(matrices, axis=0) for matrices in zip(*shifted, strict=True)]
                if not number:
                    finest = [scale * matrix.reshape(tiles * pixels, POINTS, -1).mean(1) for matrix in onto]
                rows, columns = [outer @ inner for outer, inner in zip(finest, onto, strict=True)] if number else finest
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
            The logits; then with `pixels` the maps, `[n, methods, h, w]` with so many pixels a tile; without them what
            was read from each layer of each reader, `[n, h, w]`.
        """
        logits, sums = read_pass(self.network, images, self.readers, dense=self._dense)
        logits = cast("Tensor", logits)  # of a classifier
        if self._pixels is None:
            return (logits, *(part for parts in sums.values() for part in parts))
        maps = []
        with torch.autocast(images.device.type, enabled=False):
            for reader in self.readers:
                placed = [
                    self.get_buffer(f"rows_{reader.method}_{number}")
                    @ (part @ self.get_buffer(f"columns_{reader.method}_{number}"))
                    for number, part in enumerate(sums[reader.method][: len(reader.layers)])
                ]
                total = torch.stack(placed).sum(0) if len(placed) > 1 else placed[0]
                maps.append(total if reader.bias is None else total + reader.bias)
        return logits, torch.stack(maps, 1)
