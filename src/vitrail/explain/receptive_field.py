"""Where the cells of a feature map look.

A cell of stride 32 is taken to speak for its square of 32 pixels. But a convolution of stride 2 with padding has its
kernel beside the middle of the two cells that it merges: half a step above and left of it where padding is symmetric,
half a step below and right of it where it is TensorFlow's "same" on an even side. Five of them are 15.5 pixels, half a
cell. Training takes most of that back: kernels grow lopsided until the network looks at the middle (uneven padding
makes weights uneven: Alsallakh et al. 2021, arXiv:2010.02178). So neither the square nor the kernels' geometry tells
where a cell looks. The weights do, and in an image whose sides do not divide, where the same layers pad otherwise,
a map moves by up to a cell.

It is measured by sending positions through the network. Each value of a feature map is a weighted sum, and if its terms
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

    Floats = NDArray[np.float64]
    Shape = tuple[int, int, int]
    Call = Mapping[str, Any]
    Pair = tuple[int, int]

FEATURES, BOTTLENECK = "features", "bottleneck"
"""The maps that Grad-CAM explains: the last ones of a classifier, and of a segmenter's encoder."""

_IMAGES = 3  # ones, rows, columns
_TINY = 2.0**-30  # so near 0 activations are linear and gates constant
_BEFORE_PX = 512  # numbers begin here, so that those beyond the border stay positive
_TOLERANCE_PX = 0.02

_MEASURED: WeakKeyDictionary[nn.Module, dict[Any, tuple[Frame, ...]]] = WeakKeyDictionary()


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
    tuple[Frame, ...]
        One frame a layer.

    Raises
    ------
    ModelError
        There is no such layer, it runs twice or not at all, or it gives no feature maps.
    """
    measured, key = _MEASURED.setdefault(network, {}), (shape, names, strides)
    if key in measured:
        return measured[key]
    result = []
    for maps, stride in zip(_send_positions(network, shape, names), strides or (None,) * len(names), strict=True):
        mass, rows, columns = maps
        with np.errstate(divide="ignore", invalid="ignore"):
            centres = np.median(rows / mass, 1) - _BEFORE_PX, np.median(columns / mass, 0) - _BEFORE_PX
        (height, down), (width, right) = (
            _axis(at, len(at) * stride if stride else side, stride) for at, side in zip(centres, shape[1:], strict=True)
        )
        result.append(Frame(image_px=shape[1:], span_px=(height, width), shift_px=(down, right)))
    measured[key] = tuple(result)
    return measured[key]


def share_frames(source: nn.Module, target: nn.Module) -> None:
    """Let what was, and will be, measured of a network hold for another one of the same geometry.

    Parameters
    ----------
    source
        The network, in whose weights cells look where they do.
    target
        The other one.
    """
    _MEASURED[target] = _MEASURED.setdefault(source, {})


def _send_positions(network: nn.Module, shape: Shape, names: tuple[str, ...]) -> list[Floats]:
    """Send positions through a network; returns for each layer mass, rows times mass and columns times mass."""
    weights = next(network.parameters(), torch.empty(0))
    rows, columns = (
        torch.arange(side, device=weights.device, dtype=weights.dtype) + (_BEFORE_PX + 0.5) for side in shape[1:]
    )
    grid = torch.stack([torch.ones_like(rows[:, None] * columns), *torch.meshgrid(rows, columns, indexing="ij")])
    images = (grid[:, None] * _TINY).repeat(1, shape[0], 1, 1)  # ones, row numbers, column numbers, close to 0
    with suspend_hooks(), frozen(network), torch.no_grad(), _Positions():
        match network, names:
            case Classifier(), (name,) if name == FEATURES:
                maps = [network.features(images).mean(1)]
            case Segmenter(), (name,) if name == BOTTLENECK:
                maps = [network.encode(images)[-1].mean(1)]
            case _:
                with record_activations(network, names, lambda _, maps: maps.mean(1)) as means:
                    network(images)
                maps = [seen(means, name) for name in names]
    return [each.cpu().double().numpy() for each in maps]


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


class _Positions(TorchFunctionMode):
    """Lets layers pass on positions: by squared weights, and beyond the border as within."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        names, rule = _RULES.get(getattr(func, "__name__", ""), ((), None))
        call = dict(zip(names, args, strict=False)) | (kwargs or {})
        x = call.get("input")
        if rule is None or not isinstance(x, torch.Tensor) or len(x) != _IMAGES:
            return func(*args, **(kwargs or {}))  # of no concern, or it prepares weights
        return rule(call)


def _convolution(call: Call) -> Tensor:
    x, weight, padding = _precise(call["input"]), call["weight"], call.get("padding", 0)
    geometry = {name: call[name] for name in ("stride", "dilation", "groups") if name in call}
    if padding == "same":
        sides = zip(_pair(call.get("dilation", 1)), weight.shape[2:], strict=True)
        vertical, horizontal = ((gap * (side - 1) // 2, -(-gap * (side - 1) // 2)) for gap, side in sides)
    else:
        vertical, horizontal = ((side, side) for side in _pair(0 if padding == "valid" else padding))
    padded, squared = _continued(x, vertical, horizontal), weight.to(x).square()
    if geometry.get("groups", 1) == len(weight) == x.shape[1] > 1:
        return _depthwise(padded, squared, call).to(call["input"])
    return functional.conv2d(padded, squared, **geometry).to(call["input"])


def _depthwise(padded: Tensor, weight: Tensor, call: Call) -> Tensor:
    """Convolve each channel by itself, tap by tap: in float64 torch would go through the channels one by one."""
    steps, gaps = _pair(call.get("stride", 1)), _pair(call.get("dilation", 1))
    sides = [
        (side - gap * (taps - 1) - 1) // step + 1
        for side, taps, gap, step in zip(padded.shape[2:], weight.shape[2:], gaps, steps, strict=True)
    ]
    total = padded.new_zeros(len(padded), len(weight), *sides)
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            part = padded[:, :, row * gaps[0] :: steps[0], column * gaps[1] :: steps[1]]
            total += weight[:, :, row, column, None] * part[:, :, : sides[0], : sides[1]]
    return total


def _transposed(call: Call) -> Tensor:
    x, weight = _precise(call["input"]), call["weight"]
    names = ("stride", "padding", "output_padding", "groups", "dilation")
    geometry = {name: call[name] for name in names if name in call}
    return functional.conv_transpose2d(x, weight.to(x).square(), **geometry).to(call["input"])


def _pooling(call: Call) -> Tensor:
    x, kernel = _precise(call["input"]), _pair(call["kernel_size"])
    stride, padding = _pair(call.get("stride") or kernel), _pair(call.get("padding", 0))
    geometry = {"stride": stride, "dilation": call.get("dilation", 1)}
    shape = functional.max_pool2d(x, kernel, padding=padding, ceil_mode=call.get("ceil_mode", False), **geometry).shape
    sides = [(before, before + step) for before, step in zip(padding, stride, strict=True)]  # as far as ceil_mode goes
    mean = x.new_full((x.shape[1], 1, *kernel), 1 / (kernel[0] * kernel[1]))
    looked = functional.conv2d(_continued(x, *sides), mean, groups=x.shape[1], **geometry)
    return looked[..., : shape[2], : shape[3]].to(call["input"]).contiguous()


def _border(call: Call) -> Tensor:
    if len(call["pad"]) > 4:
        return functional.pad(**call)
    left, right, top, bottom = (*call["pad"], 0, 0)[:4]
    return _continued(call["input"], (top, bottom), (left, right))


def _normalised(call: Call) -> Tensor:
    """Give each channel the variance that the normalisation gives it, and leave its positions alone."""
    x, weight = call["input"], call.get("weight")
    factor = torch.ones_like(x[:1]) if weight is None else weight.to(x).square()
    if weight is not None and "normalized_shape" not in call:  # else the channels come last
        factor = factor.view(-1, *[1] * (x.ndim - 2))
    return torch.where(x[:1] > 0, x / x[:1], 0) * factor * _TINY


def _continued(x: Tensor, vertical: Pair, horizontal: Pair) -> Tensor:
    """Let positions go on beyond the border at the pace that they have there."""
    for dim, (before, after) in ((2, vertical), (3, horizontal)):
        last = x.shape[dim] - 1
        at = torch.arange(-before, last + after + 1, device=x.device)
        within = at.clamp(0, last)
        pace = x.narrow(dim, last, 1) - x.narrow(dim, max(last - 1, 0), 1)
        x = x.index_select(dim, within) + pace * (at - within).view(-1, *[1] * (3 - dim))
    return x


def _precise(x: Tensor) -> Tensor:
    """Return float64, where there is any: sums of thousands of terms need it, and GPUs may round before they add."""
    return x if x.device.type == "mps" else x.double()


def _pair(sides: int | Sequence[int]) -> Pair:
    """Give both sides of what torch takes as one number or as two."""
    pair = (sides,) if isinstance(sides, int) else tuple(sides)
    return pair[0], pair[-1]


_RULES: dict[str, tuple[tuple[str, ...], Callable[[Call], Tensor]]] = {
    "conv2d": (("input", "weight", "bias", "stride", "padding", "dilation", "groups"), _convolution),
    "conv_transpose2d": (
        ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"), _transposed,
    ),
    "max_pool2d": (("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode"), _pooling),
    "avg_pool2d": (("input", "kernel_size", "stride", "padding", "ceil_mode"), _pooling),
    "pad": (("input", "pad", "mode", "value"), _border),
    "linear": (("input", "weight"), lambda call: functional.linear(call["input"], call["weight"].square())),
    "batch_norm": (("input", "running_mean", "running_var", "weight"), _normalised),
    "instance_norm": (("input", "running_mean", "running_var", "weight"), _normalised),
    "group_norm": (("input", "num_groups", "weight"), _normalised),
    "layer_norm": (("input", "normalized_shape", "weight"), _normalised),
    "rms_norm": (("input", "normalized_shape", "weight"), _normalised),
}  # fmt: skip
"""By torch function: what its arguments are called, and what takes its place."""
