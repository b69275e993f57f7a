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
        stack.callback(_switch, training, trained, on=True)
        _switch(training, trained, on=False)
        yield


def _switch(modules: list[nn.Module], parameters: list[nn.Parameter], *, on: bool) -> None:
    for module in modules:
        module.training = on
    for parameter in parameters:
        parameter.requires_grad = on


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
    What `read` returned, by layer; empty until the network has run.

    Raises
    ------
    ModelError
        The network has no such layer, or it runs twice, or its output is not `[n, c, h, w]`.
    """
    found: dict[str, T] = {}
    depth = _ASIDE.get()

    def attach(name: str) -> RemovableHandle:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if _ASIDE.get() == depth:
                found[name] = read(name, _checked(name, output, found))

        return _module(network, name).register_forward_hook(hook)

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(attach(layer).remove)
        yield found


@contextmanager
def leaf_at(network: nn.Module, layer: str) -> Iterator[dict[str, Tensor]]:
    """Let gradients begin at a named layer's output during one forward pass.

    Yields
    ------
    Under the layer's name its output `[n, c, h, w]`, a leaf that requires gradients; empty until the network has run.

    Raises
    ------
    ModelError
        As for `record_activations`.
    """
    found: dict[str, Tensor] = {}
    depth = _ASIDE.get()

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
        if _ASIDE.get() != depth:
            return None
        found[layer] = _checked(layer, output, found).detach().requires_grad_()
        return found[layer].clone()  # the next layer may work in place, which a leaf forbids

    handle = _module(network, layer).register_forward_hook(hook)
    try:
        yield found
    finally:
        handle.remove()


def seen(found: dict[str, T], layer: str) -> T:
    """Return what was found at a layer.

    Raises
    ------
    ModelError
        The layer did not run.
    """
    if layer not in found:
        raise ModelError(f"layer {layer!r}", "did not run in the forward pass", "Name one that does")
    return found[layer]


def _module(network: nn.Module, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError:
        cure = "network.named_modules() lists the names"
        raise ModelError(f"layer {name!r}", f"{type(network).__name__} has none of this name", cure) from None


def _checked(name: str, output: Any, found: dict[str, Any]) -> Tensor:
    if not isinstance(output, torch.Tensor) or output.ndim != _MAPS:
        shape = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ModelError(
            f"layer {name!r}", f"gives {shape}, not feature maps [n, c, h, w]", "Name a convolutional layer"
        )
    if name in found:
        raise ModelError(f"layer {name!r}", "runs more than once", "Name one that runs once in a forward pass")
    return output
