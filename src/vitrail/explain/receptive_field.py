"""Where the cells of a feature map look.

A cell of stride 32 is taken to speak for its square of 32 pixels. But a convolution of stride 2 with padding has its
kernel beside the middle of the two cells that it merges: half a step above and left of it where padding is symmetric,
half a step below and right of it where it is TensorFlow's "same" on an even side. Five of them are 15.5 pixels, half a
cell. Training takes most of that back: kernels grow lopsided until the network looks at the middle (uneven padding
makes weights uneven: Alsallakh et al. 2021, arXiv:2010.02178). So neither the square nor the kernels' geometry tells
where a cell looks. The weights do, and in an image whose sides do not divide, where the same layers pad otherwise,
a map moves by up to a cell.

It is measured by sending places through the network. Each value of a feature map is a weighted sum, and if its terms
are independent, the centre of what it depends on is the mean of their centres, weighted by the squared weights. So the
network runs once with squared kernels, on an image of ones, one of row numbers and one of column numbers: the ratios
at a cell are the row and the column that it looks at. Batch normalisation sets how much each channel varies, to what
its factor says; padding continues rows and columns; non-linearities see values so small that they are linear.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from vitrail.explain.hooks import frozen, record_activations, seen, suspend_hooks
from vitrail.explain.saliency import Frame
from vitrail.models.classifier import Classifier
from vitrail.models.segmenter import Segmenter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from vitrail.explain.saliency import Size

    Floats = NDArray[np.float64]
    Shape = tuple[int, int, int]
    Given = Mapping[str, Any]
    Pair = tuple[int, int]

FEATURES, BOTTLENECK = "features", "bottleneck"
"""The maps that Grad-CAM explains: the last ones of a classifier, and of a segmenter's encoder."""

_IMAGES = 3  # ones, rows, columns
_TINY = 2.0**-30  # so near 0 activations are linear and gates constant
_BEFORE_PX = 512  # numbers begin here, so that those beyond the border stay positive
_TOLERANCE_PX = 0.02

_KNOWN: WeakKeyDictionary[nn.Module, dict[Any, tuple[Frame, ...]]] = WeakKeyDictionary()


def frames(
    network: nn.Module, shape: Shape, names: tuple[str, ...], strides: tuple[int, ...] | None = None
) -> tuple[Frame, ...]:
    """Find where the maps of layers lie on images, measured once for a network, its layers and a size.

    The network runs once, in eval mode, on three images of almost 0. Where that shows no regular grid, as in a network
    that mixes all places, or where a map has one cell only, cells are taken to look at the middle of their squares.

    Parameters
    ----------
    network
        Any module. If its weights change afterwards, what was measured before stands.
    shape
        Channels, height and width of the images.
    names
        Layers as in `named_modules()`; or `FEATURES` of a classifier, or `BOTTLENECK` of a segmenter.
    strides
        Pixels between two cells of each layer. None measures them; where that fails, the map is taken to span the
        image exactly.

    Returns
    -------
    One frame a layer.

    Raises
    ------
    ModelError
        There is no such layer, it runs twice or not at all, or it gives no feature maps.
    """
    known, key = _KNOWN.setdefault(network, {}), (shape, names, strides)
    if key not in known:
        maps = _places(network, shape, names)
        each = zip(maps, strides or (None,) * len(maps), strict=True)
        known[key] = tuple(_frame(places, shape[1:], stride) for places, stride in each)
    return known[key]


def _places(network: nn.Module, shape: Shape, names: tuple[str, ...]) -> list[Floats]:
    """Send places through a network; returns for each layer mass, rows times mass and columns times mass."""
    with suspend_hooks(), frozen(network), torch.no_grad(), _Places():
        maps = _maps(network, names, _image(network, shape))
    return [each.cpu().double().numpy() for each in maps]


def _image(network: nn.Module, shape: Shape) -> Tensor:
    """Return ones, row numbers and column numbers as images `[3, c, h, w]`, close to 0."""
    some = next(network.parameters(), torch.empty(0))
    rows, columns = (
        torch.arange(side, device=some.device, dtype=some.dtype) + (_BEFORE_PX + 0.5) for side in shape[1:]
    )
    grid = torch.stack([torch.ones_like(rows[:, None] * columns), *torch.meshgrid(rows, columns, indexing="ij")])
    return (grid[:, None] * _TINY).repeat(1, shape[0], 1, 1)


def _maps(network: nn.Module, names: tuple[str, ...], image: Tensor) -> list[Tensor]:
    match network, names:
        case Classifier(), (name,) if name == FEATURES:
            return [network.features(image).mean(1)]
        case Segmenter(), (name,) if name == BOTTLENECK:
            return [network.encode(image)[-1].mean(1)]
    with record_activations(network, names, lambda _, maps: maps.mean(1)) as found:
        network(image)
    return [seen(found, name) for name in names]


def _frame(places: Floats, image_px: Size, stride: int | None) -> Frame:
    mass, rows, columns = places
    with np.errstate(divide="ignore", invalid="ignore"):
        centres = np.median(rows / mass, 1) - _BEFORE_PX, np.median(columns / mass, 0) - _BEFORE_PX
    rest = zip(centres, image_px, strict=True)
    (height, down), (width, right) = (_axis(at, len(at) * stride if stride else side, stride) for at, side in rest)
    return Frame(image_px=image_px, span_px=(height, width), shift_px=(down, right))


def _axis(at: Floats, span: int, stride: int | None) -> tuple[int, float]:
    """Return span and shift of cells that look at these places; the span as given, and 0, where they are no grid.

    Where maps were enlarged by repeating, places come in groups; so steps are taken over as many cells as can be.
    """
    if len(at) < 2 or not np.isfinite(at).all():
        return span, 0.0
    over = 2 ** int(np.log2(len(at) // 2))
    steps = (at[over:] - at[:-over]) / over
    step = round(float(np.median(steps)))
    regular = np.median(np.abs(steps - step)) < _TOLERANCE_PX  # in the middle; borders may differ
    if not regular or step < 1 or stride not in {None, step}:
        return span, 0.0
    shift = np.median(at - (np.arange(len(at)) + 0.5) * step)
    return len(at) * step, round(float(shift), 2) + 0.0  # no negative zero


class _Places(TorchFunctionMode):
    """Lets layers pass on places: by squared weights, and beyond the border as within."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        names, rule = _RULES.get(getattr(func, "__name__", ""), ((), None))
        given = dict(zip(names, args, strict=False)) | (kwargs or {})
        x = given.get("input")
        if rule is None or not isinstance(x, torch.Tensor) or len(x) != _IMAGES:
            return func(*args, **(kwargs or {}))  # of no concern, or it prepares weights
        return rule(given)


def _convolution(given: Given) -> Tensor:
    x, weight = _precise(given["input"]), given["weight"]
    geometry = {name: given[name] for name in ("stride", "dilation", "groups") if name in given}
    padded = _continued(x, *_padding(given, weight.shape[2:]))
    return functional.conv2d(padded, weight.to(x).square(), **geometry).to(given["input"])


def _transposed(given: Given) -> Tensor:
    x, weight = _precise(given["input"]), given["weight"]
    names = ("stride", "padding", "output_padding", "groups", "dilation")
    geometry = {name: given[name] for name in names if name in given}
    return functional.conv_transpose2d(x, weight.to(x).square(), **geometry).to(given["input"])


def _pooling(given: Given) -> Tensor:
    x, kernel = _precise(given["input"]), _pair(given["kernel_size"])
    stride, padding = _pair(given.get("stride") or kernel), _pair(given.get("padding", 0))
    geometry = {"stride": stride, "dilation": given.get("dilation", 1)}
    shape = functional.max_pool2d(x, kernel, padding=padding, ceil_mode=given.get("ceil_mode", False), **geometry).shape
    sides = [(before, before + step) for before, step in zip(padding, stride, strict=True)]  # as far as ceil_mode goes
    mean = x.new_full((x.shape[1], 1, *kernel), 1 / (kernel[0] * kernel[1]))
    looked = functional.conv2d(_continued(x, *sides), mean, groups=x.shape[1], **geometry)
    return looked[..., : shape[2], : shape[3]].to(given["input"]).contiguous()


def _border(given: Given) -> Tensor:
    if len(given["pad"]) > 4:
        return functional.pad(**given)
    left, right, top, bottom = (*given["pad"], 0, 0)[:4]
    return _continued(given["input"], (top, bottom), (left, right))


def _dense(given: Given) -> Tensor:
    return functional.linear(given["input"], given["weight"].square())


def _normalised(given: Given) -> Tensor:
    """Give each channel the variance that the normalisation gives it, and leave its places alone."""
    x, weight = given["input"], given.get("weight")
    factor = torch.ones_like(x[:1]) if weight is None else weight.to(x).square()
    if weight is not None and "normalized_shape" not in given:  # else the channels come last
        factor = factor.view(-1, *[1] * (x.ndim - 2))
    return torch.where(x[:1] > 0, x / x[:1], 0) * factor * _TINY


def _continued(x: Tensor, vertical: Pair, horizontal: Pair) -> Tensor:
    """Let places go on beyond the border at the pace that they have there."""
    for dim, (before, after) in ((2, vertical), (3, horizontal)):
        last = x.shape[dim] - 1
        at = torch.arange(-before, last + after + 1, device=x.device)
        within = at.clamp(0, last)
        pace = x.narrow(dim, last, 1) - x.narrow(dim, max(last - 1, 0), 1)
        x = x.index_select(dim, within) + pace * (at - within).view(-1, *[1] * (3 - dim))
    return x


def _padding(given: Given, kernel: Sequence[int]) -> tuple[Pair, Pair]:
    """Return the rows above and below, and the columns left and right, that a convolution pads."""
    padding = given.get("padding", 0)
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        totals = [gap * (side - 1) for gap, side in zip(_pair(given.get("dilation", 1)), kernel, strict=True)]
        return (totals[0] // 2, -(-totals[0] // 2)), (totals[1] // 2, -(-totals[1] // 2))
    rows, columns = _pair(padding)
    return (rows, rows), (columns, columns)


def _precise(x: Tensor) -> Tensor:
    """Return float64, where there is any: sums of thousands of places need it, and GPUs may round before they add."""
    return x if x.device.type == "mps" else x.double()


def _pair(sides: int | Sequence[int]) -> Pair:
    """Give both sides of what torch takes as one number or as two."""
    pair = (sides,) if isinstance(sides, int) else tuple(sides)
    return pair[0], pair[-1]


_RULES: dict[str, tuple[tuple[str, ...], Callable[[Given], Tensor]]] = {
    "conv2d": (("input", "weight", "bias", "stride", "padding", "dilation", "groups"), _convolution),
    "conv_transpose2d": (
        ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"), _transposed,
    ),
    "max_pool2d": (("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode"), _pooling),
    "avg_pool2d": (("input", "kernel_size", "stride", "padding", "ceil_mode"), _pooling),
    "pad": (("input", "pad", "mode", "value"), _border),
    "linear": (("input", "weight"), _dense),
    "batch_norm": (("input", "running_mean", "running_var", "weight"), _normalised),
    "instance_norm": (("input", "running_mean", "running_var", "weight"), _normalised),
    "group_norm": (("input", "num_groups", "weight"), _normalised),
    "layer_norm": (("input", "normalized_shape", "weight"), _normalised),
    "rms_norm": (("input", "normalized_shape", "weight"), _normalised),
}  # fmt: skip
"""By torch function: what its arguments are called, and what takes its place."""
