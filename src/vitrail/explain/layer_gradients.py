"""Feature maps of several layers, and the gradient of a score with respect to them, in one pass forth and one back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vitrail.errors import ModelError
from vitrail.explain.hooks import frozen, leaf_at, record_activations, seen

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerGradients:
    """What a network gave for images at some of its layers, and how its score depends on that.

    Attributes
    ----------
    features, gradients
        Of each layer, `[n, c, h, w]`.
    output
        The network's.
    """

    features: list[Tensor]
    gradients: list[Tensor]
    output: Tensor


def layer_gradients(
    network: nn.Module, images: Tensor, layers: tuple[str, ...], score: Callable[[Tensor], Tensor]
) -> LayerGradients:
    """Run a network once, and the gradient of its score back to the first of some layers.

    Parameters
    ----------
    network
        Any module, in either mode; it treats the images of a batch apart when it is in eval mode.
    images
        What it takes, `[n, c, h, w]`.
    layers
        Names as in `named_modules()`, in the order in which they run.
    score
        Maps the output to each image's score, `[n]`.

    Returns
    -------
    LayerGradients
        Apart from any graph.

    Raises
    ------
    ModelError
        There is no such layer, it runs twice or not at all, it gives no feature maps, or the score does not depend on
        it.
    """
    first, *later = layers
    with (
        frozen(network),
        leaf_at(network, first) as leaves,  # no graph is built in front of it
        record_activations(network, tuple(later), lambda _, maps: maps) as recorded,
    ):
        output = network(images.detach())
        total = score(output).sum()
        features = [seen(leaves, first), *(seen(recorded, layer) for layer in later)]
        gradients = torch.autograd.grad(total, features, allow_unused=True) if total.requires_grad else [None]
    for layer, gradient in zip(layers, gradients, strict=False):
        if gradient is None:
            raise ModelError(f"layer {layer!r}", "the score does not depend on it", "Name another layer")
    return LayerGradients(
        features=[maps.detach() for maps in features],
        gradients=[gradient for gradient in gradients if gradient is not None],
        output=output.detach(),
    )
