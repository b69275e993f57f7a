"""The networks as graphs that run without Vitrail: what goes in, what comes out, and a record of what is in between."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from vitrail.errors import ModelError
from vitrail.models.ensemble import Ensemble
from vitrail.models.preprocessing import FromBytes

if TYPE_CHECKING:
    from torch import Tensor

    from vitrail.models.segmenter import Segmenter
    from vitrail.models.spec import ModelSpec
    from vitrail.models.store import Model

_TOLERANCE = 1e-4
"""Two runs of one float32 network differ by less in their logits, whatever the size of the batch."""


class TumorLogits(nn.Module):
    """A classifier, or an ensemble of them, with a logit for each of two classes, for programs that apply a softmax.

    The logits are (0, z), where z is the classifier's own: softmax((0, z)) = (1 - sigmoid(z), sigmoid(z)).

    Parameters
    ----------
    classifier
        What it shares its weights with.
    temperature
        What its logits are divided by.
    """

    def __init__(self, classifier: nn.Module, temperature: float = 1.0) -> None:
        super().__init__()
        self.classifier = classifier
        self._sharpness = 1 / temperature

    def forward(self, x: Tensor) -> Tensor:
        """Map standardised images `[n, 3, h, w]` to logits `[n, 2]`, of non-tumor and of tumor."""
        logit: Tensor = self.classifier(x) * self._sharpness
        return torch.stack([torch.zeros_like(logit), logit], dim=1)


class _Calibrated(FromBytes):
    """A network that takes bytes, and whose logits are divided by its temperature."""

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        super().__init__(network, spec)
        self._sharpness = 1 / spec.temperature


class TumorProbability(_Calibrated):
    """A classifier, or an ensemble of them, from bytes to the probability of tumor."""

    def forward(self, images: Tensor) -> Tensor:
        """Map RGB bytes `[n, h, w, 3]` to probabilities of tumor, `[n]`."""
        return torch.sigmoid(self.network(self.standardised(images)) * self._sharpness)


class ClassProbabilities(_Calibrated):
    """A segmenter, or an ensemble of them, from bytes of any height and width to the probability of each class.

    The border is repeated up to a multiple of its stride as in `Segmenter.encode`, but by rules that hold for every
    size: a recorded graph cannot ask whether there is anything to pad.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Map RGB bytes `[n, h, w, 3]` to probabilities `[n, classes, h, w]`."""
        height, width = images.shape[1], images.shape[2]
        network = self.network
        stride = cast("Segmenter", network.members[0] if isinstance(network, Ensemble) else network).stride
        seen = self.standardised(images[:, _padded(height, stride)][:, :, _padded(width, stride)])
        logits = network.mean(seen, _segmented) if isinstance(network, Ensemble) else _segmented(network, seen)
        return (logits[:, :, :height, :width] * self._sharpness).softmax(dim=1)


def _segmented(network: nn.Module, seen: Tensor) -> Tensor:
    """Return the logits of a segmenter for images whose sides are multiples of its stride."""
    segmenter = cast("Segmenter", network)
    return segmenter.decode(segmenter.body.encoder(seen))


def _padded(length: int, stride: int) -> Tensor:
    """Return the pixels to take, `[length + padding]`: each once, and the last one again and again."""
    return torch.arange((length + stride - 1) // stride * stride).clamp(max=length - 1)


def from_bytes(model: Model) -> TumorProbability | ClassProbabilities:
    """Return a model's graph from RGB bytes to probabilities.

    Parameters
    ----------
    model
        A classifier or a segmenter.

    Returns
    -------
    TumorProbability | ClassProbabilities
        Ready to be recorded.
    """
    if model.spec.task == "classifier":
        return TumorProbability(model.module, model.spec).eval()
    return ClassProbabilities(model.module, model.spec).eval()


def record(graph: nn.Module, example: Tensor, probe: Tensor, where: str) -> torch.jit.ScriptModule:
    """Record what a graph computes, and make sure that it holds for images of another size.

    Parameters
    ----------
    graph
        What to record.
    example
        What it is recorded on.
    probe
        What it is tried on; it differs in size.
    where
        The model, for the error.

    Returns
    -------
    torch.jit.ScriptModule
        The recorded graph.

    Raises
    ------
    ModelError
        It does not: the network decides by the size of its input what to compute.
    """
    jit: Any = torch.jit  # has no types
    with torch.no_grad(), warnings.catch_warnings():
        # announced for removal, yet the only format that WSInfer and QuPath read
        warnings.filterwarnings("ignore", r"`torch\.jit\.")
        warnings.filterwarnings("ignore", category=jit.TracerWarning)  # the probe tells whether they matter
        recorded = cast("torch.jit.ScriptModule", jit.trace(graph, example, check_trace=False))
        expected = graph(probe)
        try:
            result = recorded(probe)
            same = result.shape == expected.shape and torch.allclose(result, expected, rtol=_TOLERANCE, atol=_TOLERANCE)
        except RuntimeError:  # torch's word for a shape that was recorded as a constant
            same = False
        if not same:
            problem = "cannot be recorded: what it computes changes with the size of its input"
            raise ModelError(where, problem, "Export a model with another encoder")
    return recorded
