"""DeepLIFT: differences of activations to those of a reference, handed back layer by layer (Shrikumar et al. 2017).

Source: arXiv:1704.02685, section 3.5.1, the rescale rule. Image and reference run as one batch, and each operation gets
the slope between its two values in place of its gradient at one of them. So a map's sum is the difference of the two
scores, exactly but for rounding.

- Linear operations, as convolutions, means, and normalisation in eval mode, have their own gradient.
- Functions of each value alone, as ReLU, ReLU6, SiLU, sigmoid and GELU, have the slope of the secant,
  `(f(x) - f(r)) / (x - r)`; where `x` and `r` are as good as equal, the gradient between them.
- The product of two tensors of the image, as in squeeze and excitation, goes to each factor by the other's mean:
  `d(ab) = da (b + b') / 2 + db (a + a') / 2`, which is exact, and Shapley's value of the factors.
- The maximum of a window goes to one place: where it rises to the image's highest, where it falls to the reference's.
  What changes there is of the same sign and no smaller, so that the slope is between 0 and 1.
- Softmax, attention and layer normalisation are taken apart into these.

Frameworks that have no rule for an operation take its gradient without a word, and their maps add up to anything. Here
an operation without a rule is an error that names it. Two nets are spread for it: functions are caught before they run
where they would hide a dependence, as comparisons do; and afterwards autograd's record of the pass, in which all that
had a rule has become linear, may hold linear steps only.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from vitrail.classes import TissueClass
from vitrail.errors import ModelError
from vitrail.explain.hooks import frozen
from vitrail.explain.input_gradients import ImageScore, blurred
from vitrail.explain.methods.base import ExplanationMethod
from vitrail.explain.target import target_pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from vitrail.explain.dense import DenseNetwork
    from vitrail.explain.methods.base import Head
    from vitrail.explain.saliency import Maps
    from vitrail.explain.target import Pixels

PAIRS = 16
"""Images that run at once, each with its reference."""


class DeepLift(ExplanationMethod):
    """DeepLIFT with the rescale rule, from the blurred tile."""

    name, title, colour = "deeplift", "DeepLIFT", (204, 121, 167)
    passes, gradients = 2, 2  # of the reference, too
    complete = True
    any_network = True

    def explain(
        self,
        network: nn.Module,
        images: Tensor,
        target: TissueClass = TissueClass.TUMOR,
        *,
        head: Head = None,  # noqa: ARG002 - it has none
        pixels: Pixels = "predicted",
        mpp: float | None = None,  # noqa: ARG002 - pixels have no size here
        dense: DenseNetwork | None = None,  # noqa: ARG002 - nor has a pixel other cells
    ) -> Maps:
        """Explain images; see `ExplanationMethod.explain` and `deeplift`."""
        return deeplift(network, images, target=target, pixels=pixels)


METHOD = DeepLift()


def deeplift(
    network: nn.Module,
    images: Tensor,
    baseline: Tensor | None = None,
    target: TissueClass = TissueClass.TUMOR,
    *,
    pixels: Pixels = "predicted",
) -> Maps:
    """Explain images by the differences to a reference.

    Parameters
    ----------
    network
        A classifier or a segmenter, in either mode.
    images
        `[n, 3, h, w]`, standardised.
    baseline
        The reference, of the images' shape or one that expands to it: `white_glass`, or any image. None takes the
        blurred images, see `blurred`.
    target
        The class.
    pixels
        Of a segmenter: which pixels' class is explained, see `target_pixels`.

    Returns
    -------
    Maps
        One map an image; a map's sum is the score of the image minus that of the reference, up to rounding.

    Raises
    ------
    ModelError
        The network does something to the images that has no rule.
    """
    images = images.detach()
    references = blurred(images) if baseline is None else baseline.to(images).expand_as(images)
    parts = []
    for start in range(0, len(images), PAIRS):
        rows = slice(start, start + PAIRS)
        chosen = pixels[rows] if isinstance(pixels, torch.Tensor) else pixels
        parts.append(_explain(network, images[rows], references[rows], target, chosen))
    output, residue = (torch.cat(each) for each in zip(*((p.output, p.residue) for p in parts), strict=True))
    return replace(parts[0], values=torch.cat([part.values for part in parts]), output=output, residue=residue)


def _explain(network: nn.Module, images: Tensor, references: Tensor, target: TissueClass, pixels: Pixels) -> Maps:
    """Explain as many images as run at once."""
    count = len(images)
    with frozen(network):
        leaf = images.clone().requires_grad_()
        with Secants(count):
            output = network(torch.cat([leaf, references]))
        own, others = output[:count], output[count:]
        inside = None if output.ndim == 1 else target_pixels(own.detach(), target, pixels)
        score = ImageScore(network=network, target=target, output=own.detach(), inside=inside)
        total = score.of(own).sum()
        check_linear(total)
        (multipliers,) = torch.autograd.grad(total, leaf)
        relevance = multipliers * (images - references)
        return score.maps(METHOD.name, relevance, score.of(others.detach()))


class Secants(TorchFunctionMode):
    """Makes a network linear between images and references: every operation has its value, and a secant's slope.

    Parameters are frozen, so what requires gradients is what depends on the images.

    Parameters
    ----------
    count
        Images; as many references follow them in each batch.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of torch by its rule, where it has one and needs it."""
        call, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if "input" in call:
            args = (call.pop("input"), *args)
        dependent = [each for each in (*args, *call.values()) if isinstance(each, torch.Tensor) and each.requires_grad]
        if not dependent:
            return func(*args, **call)
        if not torch.is_grad_enabled():  # in a function with a gradient of its own, or where gradients are switched off
            raise no_rule(f"{name} out of autograd's sight")
        key, x, rest = name.strip("_"), args[0], args[1:]
        if key == "div" and dependent[-1] is args[1]:
            func, key, args = torch.mul, "mul", (x, self.secant(torch.reciprocal, args[1]))
        alone = len(dependent) == 1 and dependent[0] is x
        if alone and key in _KINKED | _SMOOTH:
            result = self.secant(lambda values: func(values, *rest, **call), x, kinked=key in _KINKED)
        elif alone and key in _RULES:
            result = _RULES[key](self, x, *rest, **call)
        elif key == "scaled_dot_product_attention":
            result = self.attention(*args, **call)
        elif len(dependent) > 1 and key in _PRODUCTS:
            result = self.product(_PRODUCTS[key], *args)
        else:
            result = func(*args, **call)
            constant = isinstance(result, torch.Tensor) and not result.requires_grad
            if constant and not key.endswith("_like") and not key.startswith("new_"):
                raise no_rule(key)  # as a comparison: whatever is made with it would look linear
            return result
        in_place = call.get("inplace") or (name.endswith("_") and not name.endswith("__"))
        return args[0].copy_(result) if in_place else result

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Part what images have made from what references have made, without gradients."""
        if x.ndim == 0 or len(x) % (2 * self.count):
            raise no_rule(f"an activation of shape {list(x.shape)}, which does not begin with the images")
        own, others = x.detach().chunk(2)
        return own, others

    def secant(self, function: Callable[[Tensor], Tensor], x: Tensor, *, kinked: bool = False) -> Tensor:
        """Apply a function of each value alone.

        Parameters
        ----------
        function
            It, which may work in place.
        x
            `[2 n, ...]`.
        kinked
            Whether it consists of straight pieces, so that the secant of the closest values is still exact.

        Returns
        -------
        Tensor
            The function's values; in between linear in `x`.
        """
        own, others = self.halves(x)
        with torch.no_grad():
            out = function(x.detach().clone())
        middle = ((own + others) / 2).requires_grad_()
        (slope,) = torch.autograd.grad(function(middle.clone()).sum(), middle)
        rise, run = out[: len(own)] - out[len(own) :], own - others
        least = 0.0 if kinked else torch.finfo(x.dtype).eps ** 0.5  # below it, rounding beats the curve's bend
        return _surrogate(out, (torch.mul, x, torch.where(run.abs() > least, rise / run, slope)))

    def product(self, multiply: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
        """Multiply two tensors, with each other's mean as the slope."""
        if a.ndim != b.ndim:
            raise no_rule(f"the product of {list(a.shape)} and {list(b.shape)}")
        mean_a, mean_b = (torch.lerp(*self.halves(each), 0.5) for each in (a, b))
        out = multiply(a.detach(), b.detach())
        return _surrogate(out, (multiply, a, mean_b), (lambda x, mean: multiply(mean, x), b, mean_a))

    def maximum(self, x: Tensor, *geometry: Any, **options: Any) -> Tensor:
        """Take the maxima of windows of `x` `[2 n, c, h, w]`, as `functional.max_pool2d` does."""
        out, index = functional.max_pool2d(x.detach(), *geometry, **options | {"return_indices": True})
        (own, others), (highest, highest_before) = self.halves(out), index.chunk(2)
        place = torch.where(own >= others, highest, highest_before).flatten(2)
        candidates = x.flatten(2).gather(2, torch.cat([place, place])).view_as(out)
        after, before = self.halves(candidates)
        run = after - before
        slope = torch.where(run == 0, torch.ones_like(run), (own - others) / run)
        return _surrogate(out, (torch.mul, candidates, slope))

    def softmax(self, x: Tensor, dim: int, **_options: Any) -> Tensor:
        """Take the softmax; what is subtracted from the exponents is one number for image and reference."""
        highest = torch.maximum(*self.halves(x)).amax(dim, keepdim=True)
        powers = self.secant(torch.exp, x - torch.cat([highest, highest]))
        return self.product(torch.mul, powers, self.secant(torch.reciprocal, powers.sum(dim, keepdim=True)))

    def attention(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        """Attend, as `functional.scaled_dot_product_attention` does: two products, and a softmax between them."""
        if any(options.get(name) for name in ("dropout_p", "is_causal")) or options.get("attn_mask") is not None:
            raise no_rule("attention with a mask, or with dropout")
        scale = options.get("scale") or query.shape[-1] ** -0.5
        likeness = self.product(torch.matmul, query * scale, key.transpose(-2, -1))
        return self.product(torch.matmul, self.softmax(likeness, -1), value)

    def layer_norm(
        self,
        x: Tensor,
        shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        """Normalise each image's values over the last dimensions, as `functional.layer_norm` does."""
        dims = tuple(range(-len(shape), 0))
        centred = x - x.mean(dims, keepdim=True)
        variance = self.secant(torch.square, centred).mean(dims, keepdim=True)
        result = self.product(torch.mul, centred, self.secant(torch.rsqrt, variance + eps))
        result = result if weight is None else result * weight
        return result if bias is None else result + bias


def _surrogate(out: Tensor, *terms: tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]) -> Tensor:
    """Give values the gradient of a sum of products.

    Parameters
    ----------
    out
        The values.
    *terms
        Of each a product, a factor `[2 n, ...]` that gradients flow to, and the other, `[n, ...]`, which image and
        reference share.

    Returns
    -------
    Tensor
        `out`.
    """
    result = out.detach()
    for multiply, x, slope in terms:
        nothing = (x - x.detach()).reshape(2, -1, *x.shape[1:])
        result = result + multiply(nothing, slope).flatten(0, 1)
    return result


def check_linear(score: Tensor) -> None:
    """Make sure that a number was computed from what requires gradients by linear operations alone.

    Parameters
    ----------
    score
        The number, with autograd's record of how it came about.

    Raises
    ------
    ModelError
        An operation is not linear; it is named as in autograd.
    """
    visited, waiting = set(), [score.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        sources = [source for source, _ in node.next_functions]
        name = re.sub(r"Backwards?\d*$", "", node.name().rpartition("::")[2])
        one = name in _LINEAR_IN_EACH and sum(source is not None for source in sources) <= 1
        if name == "Div":
            one = sources[1] is None
        elif name.endswith("BatchNorm"):
            one &= not getattr(node, "_saved_training", False)  # with statistics of the batch
        if not (one or name in _LINEAR):
            raise no_rule(name)
        waiting += sources


def no_rule(operation: str) -> ModelError:
    """Return the error that names an operation which DeepLIFT cannot explain."""
    cure = "Take another method (in a study leave deeplift out of explain.methods), or another network"
    return ModelError("DeepLIFT", f"has no rule for {operation}", cure)


_RULES: dict[str, Callable[..., Tensor]] = {
    "max_pool2d": Secants.maximum, "softmax": Secants.softmax, "layer_norm": Secants.layer_norm,
}  # fmt: skip
"""By torch function: what takes its place."""

_PRODUCTS = {"mul": torch.mul, "multiply": torch.mul, "matmul": torch.matmul, "bmm": torch.matmul}
"""By torch function: the product that it is, where both factors depend on the image."""

_KINKED = frozenset(
    {"relu", "relu6", "hardtanh", "leaky_relu", "prelu", "hardsigmoid", "clamp", "clamp_min", "clamp_max", "abs"}
)
_SMOOTH = frozenset(
    {
        "silu", "sigmoid", "hardswish", "gelu", "tanh", "elu", "selu", "celu", "mish", "softplus", "logsigmoid",
        "softsign", "exp", "log", "sqrt", "rsqrt", "square", "pow", "reciprocal", "rdiv",
    }
)  # fmt: skip
"""Functions of each value alone, of straight pieces and of others."""

_LINEAR = frozenset(
    {
        "AccumulateGrad", "AdaptiveAvgPool2D", "Add", "Alias", "AsStrided", "AvgPool2D", "Cat", "Clone",
        "ConstantPadNd", "Copy", "CopySlices", "Expand", "Flip", "Gather", "Index", "IndexSelect", "Mean", "Neg",
        "Permute", "PixelShuffle", "PixelUnshuffle", "ReflectionPad2D", "Repeat", "ReplicationPad2D", "ReshapeAlias",
        "Roll", "Rsub", "Select", "Slice", "Split", "SplitWithSizes", "Squeeze", "Stack", "Sub", "Sum", "T", "ToCopy",
        "Transpose", "Unbind", "Unsqueeze", "UnsafeSplit", "UnsafeView", "UpsampleBicubic2D", "UpsampleBilinear2D",
        "UpsampleNearest2D", "View",
    }
)  # fmt: skip
_LINEAR_IN_EACH = frozenset(
    {
        "Addmm", "Baddbmm", "Bmm", "Convolution", "ConvolutionOverrideable", "CudnnBatchNorm", "Div", "Linear",
        "MiopenBatchNorm", "Mm", "Mul", "NativeBatchNorm",
    }
)  # fmt: skip
"""Operations by their names in autograd: linear, and linear in each argument, of which one alone may vary."""
