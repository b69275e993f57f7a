"""A network compiled for this machine's CPU by OpenVINO, where that is installed: the same figures, sooner."""

from __future__ import annotations

import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vitrail.errors import SettingsError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from vitrail.settings.schema import EngineName

    Arrays = tuple[NDArray[np.float32], ...]

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
    half
        Whether to compute in bfloat16 on CPUs that have instructions for it.
    block
        Images in one request: fewer where they are large.
    """

    def __init__(self, graph: nn.Module, *, half: bool = False, block: int = BLOCK) -> None:
        self._graph, self._type, self._block = graph, "bf16" if half else "f32", block
        self._threads = torch.get_num_threads()
        self._lock, self._queues = threading.Lock(), dict[tuple[tuple[int, ...], str], Any]()
        self._pool = ThreadPoolExecutor(self._threads)  # one thread waits for each stream

    def __call__(self, images: NDArray[Any]) -> Arrays:
        """Compute the outputs for images `[n, ...]`, one or more; several threads may ask at the same time."""
        key = images.shape[1:], str(images.dtype)
        with self._lock:
            if key not in self._queues:
                compiled, free = self._compile(images[:1]), SimpleQueue[Any]()
                for _ in range(self._threads):
                    free.put(compiled.create_infer_request())
                self._queues[key] = free
        compute = partial(_computed, self._queues[key], self._block)
        blocks = (images[start : start + self._block] for start in range(0, len(images), self._block))
        parts = [each.result() for each in [self._pool.submit(compute, block) for block in blocks]]
        return tuple(np.concatenate(outputs)[: len(images)] for outputs in zip(*parts, strict=True))

    def _compile(self, image: NDArray[Any]) -> Any:
        """Record the module on an image, `[1, ...]`, and compile it: a stream for each of torch's threads."""
        # without its telemetry: where patients' slides are, nothing is told to anybody
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # Python's way to say: not installed
        import openvino  # noqa: PLC0415 - an extra

        example, threads = torch.from_numpy(np.repeat(image, 2, axis=0)), self._threads
        jit: Any = torch.jit  # has no types
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`torch\.jit\.")  # announced for removal, yet what OpenVINO reads
            warnings.filterwarnings("ignore", category=jit.TracerWarning)  # sizes are meant to be constants
            # recorded here, because OpenVINO would record twice and compare
            recorded = jit.trace(self._graph, example, check_trace=False)
            model = openvino.convert_model(recorded, example_input=example)
        model.reshape([self._block, *image.shape[1:]])
        options = {
            "NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": self._type,
        }  # fmt: skip
        return openvino.Core().compile_model(model, "CPU", options)


def _computed(free: SimpleQueue[Any], size: int, block: NDArray[Any]) -> Arrays:
    """Compute the outputs for a block of images, which is filled up with its last one."""
    block = np.concatenate([block, np.repeat(block[-1:], size - len(block), axis=0)])
    request = free.get()
    try:
        request.infer([block])
        return tuple(tensor.data.astype(np.float32) for tensor in request.output_tensors)
    finally:
        free.put(request)
