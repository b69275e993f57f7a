"""A network compiled for this machine's CPU by OpenVINO, where that is installed: the same figures, sooner.

To record, convert and compile EfficientNet-B0 takes 1.3 s of the processor, and to import timm and build it 2 more;
what came of it is read in 0.1. So it is kept in the user's cache folder, for networks that a digest stands for.
"""

from __future__ import annotations

import hashlib
import io
import logging
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from vitrail.core.cache import cache_folder, read_cached, write_cached
from vitrail.core.digest import json_digest
from vitrail.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vitrail.settings.schema import EngineName

    Arrays = tuple[NDArray[np.float32], ...]

_log = logging.getLogger(__name__)

EnginePrecision = Literal["f32", "bf16"]
"""As OpenVINO writes them.

There is no int8: of a classifier trained at 96 pixels on EfficientNet-Lite0, made for it, whose layers NNCF 3.4
quantised with 320 training tiles, it moved single tiles' probabilities by 0.09 to 0.13 and called 1.3 to 1.9 % of 465
tiles otherwise, where 0.01 and 0.1 % are allowed; and it took 0.8 to 1.0 of bfloat16's time, 0.45 to 0.6 of float32's.
"""

BLOCK = 8
"""Images in one request, as a rule. Fewer are filled up: so what comes out for an image depends on no other one."""

MOST_BYTES = 2 << 30
"""Of all compiled networks that are kept; one of EfficientNet-B0 takes 21 MB."""


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


_FIRST_USE = threading.Lock()
"""What OpenVINO's bindings set up at their first inference must be set up by one thread: of two at once, one waits for
the other with Python's lock in its hands, which that other one needs (seen: both waited for ever)."""


class Compiled:
    """A module compiled for the CPU: arrays in, float32 arrays out.

    It is recorded and compiled anew for every size of images, when the first of them come. The module's weights must
    not change afterwards.

    Parameters
    ----------
    graph
        Maps images `[n, ...]` to one tensor or a tuple of them, each of which begins with `n`; in eval mode. What it
        computes may depend on the size of the images, but not on what they show or on their number. Or what builds it,
        when it is first needed.
    precision
        The type to compute in; bfloat16 only on CPUs that have instructions for it.
    block
        Images in one request: fewer where they are large.
    threads
        Of the CPU; 0 takes as many as torch.
    streams
        Requests that are computed at the same time; 0 takes one a thread.
    digest
        Stands for all that the graph and its weights follow from, but for the code of Vitrail and of the libraries:
        under it, what was compiled is kept in the user's cache folder. Empty to compile anew in each process.
    """

    def __init__(
        self,
        graph: nn.Module | Callable[[], nn.Module],
        *,
        precision: EnginePrecision = "f32",
        block: int = BLOCK,
        threads: int = 0,
        streams: int = 0,
        digest: str = "",
    ) -> None:
        self._graph, self._precision, self._block, self._digest = graph, precision, block, digest
        self._threads = threads or torch.get_num_threads()
        self._streams = streams or self._threads
        self._lock, self._queues = threading.Lock(), dict[tuple[tuple[int, ...], str], Any]()
        self._pool = ThreadPoolExecutor(self._streams)  # one thread waits for each stream

    def __call__(self, images: NDArray[Any]) -> Arrays:
        """Compute the outputs for images `[n, ...]`, one or more; several threads may ask at the same time."""
        key = images.shape[1:], str(images.dtype)
        with self._lock:
            if key not in self._queues:
                with _FIRST_USE:
                    compiled, free = self._compile(images[:1]), SimpleQueue[Any]()
                    for _ in range(self._streams):
                        free.put(compiled.create_infer_request())
                    _computed(free, self._block, images[:1])
                self._queues[key] = free
        compute = partial(_computed, self._queues[key], self._block)
        blocks = (images[start : start + self._block] for start in range(0, len(images), self._block))
        parts = [each.result() for each in [self._pool.submit(compute, block) for block in blocks]]
        return tuple(np.concatenate(outputs)[: len(images)] for outputs in zip(*parts, strict=True))

    def _compile(self, image: NDArray[Any]) -> Any:
        """Compile the module for images like one, `[1, ...]`, or read what was compiled."""
        # without its telemetry: where patients' slides are, nothing is told to anybody
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # Python's way to say: not installed
        import openvino  # noqa: PLC0415 - an extra

        core = openvino.Core()
        options = {
            "NUM_STREAMS": self._streams,
            "INFERENCE_NUM_THREADS": self._threads,
            "INFERENCE_PRECISION_HINT": self._precision,
        }
        if not self._digest or (folder := cache_folder("openvino")) is None:
            return core.compile_model(self._convert(image), "CPU", options)
        machine = [core.get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
        conditions = [options, self._block, image.shape[1:], str(image.dtype), machine, openvino.__version__, *_code()]
        path = folder / f"{json_digest([self._digest, *conditions])}.bin"
        stored = read_cached(path)
        _log.info("OpenVINO: %s", f"compiled before, {path}" if stored else "compiled now")
        if stored is None:
            stream = io.BytesIO()
            core.compile_model(self._convert(image), "CPU", options).export_model(stream)
            stored = stream.getvalue()
            write_cached(path, stored, MOST_BYTES)
        # read also where it was compiled just now: so the first process computes what all later ones do
        return core.import_model(stored, "CPU", options)

    def _convert(self, image: NDArray[Any]) -> Any:
        """Record the module on an image, `[1, ...]`, for blocks of such images."""
        import openvino  # noqa: PLC0415 - an extra

        if not isinstance(self._graph, nn.Module):
            self._graph = self._graph()
        example = torch.from_numpy(np.repeat(image, 2, axis=0))
        jit: Any = torch.jit  # has no types
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`torch\.jit\.")  # announced for removal, yet what OpenVINO reads
            warnings.filterwarnings("ignore", category=jit.TracerWarning)  # sizes are meant to be constants
            # recorded here, because OpenVINO would record twice and compare
            recorded = jit.trace(self._graph, example, check_trace=False)
            model = openvino.convert_model(recorded, example_input=example)
        model.reshape([self._block, *image.shape[1:]])
        return model


@cache
def _code() -> tuple[str, ...]:
    """Tell what turns a specification and weights into a graph: releases of libraries, and Vitrail's own files."""
    own = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        own.update(path.read_bytes())
    return torch.__version__, version("timm"), version("segmentation_models_pytorch"), own.hexdigest()


def _computed(free: SimpleQueue[Any], size: int, block: NDArray[Any]) -> Arrays:
    """Compute the outputs for a block of images, which is filled up with its last one."""
    block = np.concatenate([block, np.repeat(block[-1:], size - len(block), axis=0)])
    request = free.get()
    try:
        request.infer([block])
        return tuple(tensor.data.astype(np.float32) for tensor in request.output_tensors)
    finally:
        free.put(request)
