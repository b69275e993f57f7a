"""Training with less memory: activations are computed a second time for the gradient, in the place of being kept.

The numbers stay the same, to the bit: dropout draws the same again, and normalisation layers, which keep running
statistics, do not count a batch twice.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

from vitrail.models.fused_decoder import DoublingBlock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitrail.models.classifier import Classifier
    from vitrail.models.segmenter import Segmenter


def recompute_activations(network: Classifier | Segmenter) -> None:
    """Let a network compute the activations within its encoder's blocks, and within a U-Net's, anew in backward passes.

    Parameters
    ----------
    network
        Changed in place. An encoder for which timm offers no such thing stays as it is.
    """
    switch = getattr(network.backbone, "set_grad_checkpointing", None)
    if switch is not None:
        switch(enable=True)
    for module in network.modules():
        if isinstance(module, DoublingBlock):
            module.recomputes = True


@contextmanager
def backward_pass(network: nn.Module) -> Iterator[None]:
    """Run a backward pass, in which running statistics stay as the forward pass has left them.

    Parameters
    ----------
    network
        Whose normalisation layers are meant.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, (momentum, batches) in zip(layers, before, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, batches
