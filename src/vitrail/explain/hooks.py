"""Look into a network while it runs, and leave it as it was found.

Everything here is a `with` block. Whatever happens inside, afterwards no hook is left, every module is in the mode it
was in, and parameters require gradients, and hold them, as before.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from vitrail.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

T = TypeVar("T")

_MAPS = 4  # n, c, h, w
_ASIDE: ContextVar[int] = ContextVar("aside", default=0)


@contextmanager
def suspend_hooks() -> Iterator[None]:
    """Run a network on something else in between, unseen by `record_activations` and `leaf_at` around this block."""
    token = _ASIDE.set(_ASIDE.get() + 1)
    try:
        yield
    finally:
        _ASIDE.reset(token)


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Hold a network in eval mode, in float32 and with parameters that need no gradients.

    Gradients of what is made to require them inside can be computed, even if the caller had switched them off.
    """
    training = [module for module in network.modules() if module.training]  # a user may have set parts to eval
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    kinds = {parameter.device.type for parameter in network.parameters()} or {"cpu"}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        for kind in kinds:  # maps of half precision correlate badly with those of float32
            stack.enter_context(torch.autocast(kind, enabled=False))

        def switch(*, on: bool) -> None:
            for module in training:
                module.training = on
            for parameter in trained:
                parameter.requires_grad = on

        stack.callback(switch, on=True)
        switch(on=False)
        yield


@contextmanager
def record_activations(
    network: nn.Module, layers: tuple[str, ...], read: Callable[[str, Tensor], T]
) -> Iterator[dict[str, T]]:
    """Read the feature maps of named layers during one forward pass.

    Parameters
    ----------
    network
        Any module.
    layers
        Names as in `named_modules()`.
    read
        Is given a layer's name and its output `[n, c, h, w]` as soon as the layer has run; what it returns is kept.
        Reading at once needs little memory, and later layers may work in place.

    Yields
    ------
    dict[str, T]
        What `read` returned, by layer; empty until the network has run.

    Raises
    ------
    ModelError
        The network has no such layer, or it runs twice, or its output is not `[n, c, h, w]`.
    """
    results: dict[str, T] = {}
    depth = _ASIDE.get()

    def attach(name: str) -> RemovableHandle:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if _ASIDE.get() == depth:
                results[name] = read(name, _feature_maps(name, output, results))

        return _module(network, name).register_forward_hook(hook)

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(attach(layer).remove)
        yield results


@contextmanager
def leaf_at(network: nn.Module, layer: str) -> Iterator[dict[str, Tensor]]:
    """Let gradients begin at a named layer's output during one forward pass.

    Parameters
    ----------
    network
        Any module.
    layer
        Its name as in `named_modules()`.

    Yields
    ------
    dict[str, Tensor]
        Under the layer's name its output `[n, c, h, w]`, a leaf that requires gradients; empty until the network has
        run.

    Raises
    ------
    ModelError
        As for `record_activations`.
    """
    leaves: dict[str, Tensor] = {}
    depth = _ASIDE.get()

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
        if _ASIDE.get() != depth:
            return None
        leaves[layer] = _feature_maps(layer, output, leaves).detach().requires_grad_()
        return leaves[layer].clone()  # the next layer may work in place, which a leaf forbids

    handle = _module(network, layer).register_forward_hook(hook)
    try:
        yield leaves
    finally:
        handle.remove()


def seen(results: dict[str, T], layer: str) -> T:
    """Return what was recorded at a layer.

    Parameters
    ----------
    results
        What `record_activations` or `leaf_at` gave.
    layer
        The layer's name.

    Returns
    -------
    T
        What was read there.

    Raises
    ------
    ModelError
        The layer did not run.
    """
    if layer not in results:
        raise ModelError(f"layer {layer!r}", "did not run in the forward pass", "Name one that does")
    return results[layer]


def _module(network: nn.Module, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError:
        cure = "network.named_modules() lists the names"
        raise ModelError(f"layer {name!r}", f"{type(network).__name__} has none of this name", cure) from None


def _feature_maps(name: str, output: Any, earlier: dict[str, Any]) -> Tensor:
    """Return a layer's output, if it is feature maps and the first of this pass."""
    if not isinstance(output, torch.Tensor) or output.ndim != _MAPS:
        shape = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ModelError(
            f"layer {name!r}", f"gives {shape}, not feature maps [n, c, h, w]", "Name a convolutional layer"
        )
    if name in earlier:
        raise ModelError(f"layer {name!r}", "runs more than once", "Name one that runs once in a forward pass")
    return output
