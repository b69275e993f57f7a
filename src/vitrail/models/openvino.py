"""A network compiled for this machine's CPU by OpenVINO, where that is installed: the same figures, sooner."""

from __future__ import annotations

import sys
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from vitrail.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from vitrail.settings.schema import EngineName

    Arrays = tuple[NDArray[np.float32], ...]

EnginePrecision = Literal["f32", "bf16", "int8"]
"""As OpenVINO writes them."""

BLOCK = 8
"""Images in one request, as a rule. Fewer are filled up: so what comes out for an image depends on no other one."""


def use_openvino(engine: EngineName, device: torch.device) -> bool:
    """Tell whether OpenVINO is to compute.

    Parameters
    ----------
    engine
        `compute.engine`; `auto` takes OpenVINO on a CPU where it is installed.
    device
        Where the network runs.

    Returns
    -------
    bool
        False where torch is to compute.

    Raises
    ------
    SettingsError
        OpenVINO is asked for, but not installed, or the device is no CPU.
    """
    installed, cpu = find_spec("openvino") is not None, device.type == "cpu"
    if engine == "openvino" and not (installed and cpu):
        problem = f"it computes on the CPU, not on {device.type}" if installed else "the package is not installed"
        cure = "Run: pip install 'vitrail[openvino]', or set it to \"auto\""
        raise SettingsError("compute.engine", f'"openvino": {problem}', cure)
    return engine != "torch" and installed and cpu


class Compiled:
    """A module compiled for the CPU: arrays in, float32 arrays out.

    It is recorded and compiled anew for every size of images, when the first of them come. The module's weights must
    not change afterwards.

    Parameters
    ----------
    graph
        Maps images `[n, ...]` to one tensor or a tuple of them, each of which begins with `n`; in eval mode. What it
        computes may depend on the size of the images, but not on what they show or on their number.
    precision
        The type to compute in; bfloat16 only on CPUs that have instructions for it.
    block
        Images in one request: fewer where they are large.
    threads
        Of the CPU; 0 takes as many as torch.
    streams
        Requests that are computed at the same time; 0 takes one a thread.
    cache
        A folder that compiled networks are kept in; None compiles anew in each process.
    """

    def __init__(
        self,
        graph: nn.Module,
        *,
        precision: EnginePrecision = "f32",
        block: int = BLOCK,
        threads: int = 0,
        streams: int = 0,
        cache: Path | None = None,
    ) -> None:
        self._graph, self._precision, self._block, self._cache = graph, precision, block, cache
        self._threads = threads or torch.get_num_threads()
        self._streams = streams or self._threads
        self._queues: dict[tuple[tuple[int, ...], str], Any] = {}

    def __call__(self, images: NDArray[Any]) -> Arrays:
        """Compute the outputs for images `[n, ...]`, one or more."""
        key = images.shape[1:], str(images.dtype)
        if key not in self._queues:
            self._queues[key] = self._compile(images[:1])
        queue = self._queues[key]
        blocks: list[Arrays] = [()] * -(-len(images) // self._block)

        def collect(request: Any, number: int) -> None:
            blocks[number] = tuple(tensor.data.astype(np.float32) for tensor in request.output_tensors)

        queue.set_callback(collect)
        for number in range(len(blocks)):
            block = images[number * self._block : (number + 1) * self._block]
            if len(block) < self._block:  # filled up with its last image
                block = np.concatenate([block, np.repeat(block[-1:], self._block - len(block), axis=0)])
            queue.start_async([np.ascontiguousarray(block)], number)
        queue.wait_all()
        return tuple(np.concatenate(parts)[: len(images)] for parts in zip(*blocks, strict=True))

    def _compile(self, image: NDArray[Any]) -> Any:
        """Record the module on an image, `[1, ...]`, and compile it."""
        # without its telemetry: where patients' slides are, nothing is told to anybody
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # Python's way to say: not installed
        import openvino  # noqa: PLC0415 - an extra

        example = torch.from_numpy(np.repeat(image, 2, axis=0))
        jit: Any = torch.jit  # has no types
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`torch\.jit\.")  # announced for removal, yet what OpenVINO reads
            warnings.filterwarnings("ignore", category=jit.TracerWarning)  # sizes are meant to be constants
            # recorded here, because OpenVINO would record twice and compare
            recorded = jit.trace(self._graph, example, check_trace=False)
            model = openvino.convert_model(recorded, example_input=example)
        model.reshape([self._block, *image.shape[1:]])
        options = {
            "NUM_STREAMS": self._streams,
            "INFERENCE_NUM_THREADS": self._threads,
            "INFERENCE_PRECISION_HINT": self._precision,
        }
        return openvino.AsyncInferQueue(openvino.Core().compile_model(model, "CPU", options))
