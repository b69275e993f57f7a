"""Is a 16-bit type faster on this machine? Measured once for each network and size, and remembered.

A flag of the processor does not tell: on one with avx512_bf16, bfloat16 was 1.59 times as fast as float32 for one
network and size and 0.92 times for another. What was measured is kept in the user's cache folder, because the same work
must give the same bytes when it is done again, and two measurements may come out on either side of the limit.
"""

from __future__ import annotations

import json
import platform
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch

from vitrail.core.cache import cache_folder
from vitrail.core.digest import json_digest
from vitrail.core.files import write_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitrail.models.spec import ModelSpec

LEAST_GAIN = 1.2
"""As fast as this, in units of float32, a 16-bit type has to be: less is not worth other numbers."""

ROUNDS = 5
"""Times that each of two ways is run, in turn; their medians count."""


def is_faster(spec: ModelSpec, half: Callable[[], object], full: Callable[[], object]) -> bool:
    """Tell whether one way of computing is at least `LEAST_GAIN` times as fast as another; measured once a machine.

    Parameters
    ----------
    spec
        The network.
    half, full
        Compute the same images in 16 bits and in float32.

    Returns
    -------
    bool
        False, too, where the answer cannot be kept: the next time it might be another.
    """
    folder = cache_folder("bfloat16")
    if folder is None:
        return False
    learnt = {
        "training",
        "temperature",
        "half",
        "mean",
        "std",
        "reading",
        "representative",
        "colours",
        "encoder_source",
    }
    network = spec.model_dump(mode="json", exclude=learnt)
    conditions = [_processor(), torch.get_num_threads(), torch.__version__, network]  # all that the answer depends on
    path = folder / f"{json_digest(conditions)[:32]}.json"
    gain = _remembered(path)
    if gain is None:
        measured = _gain(half, full)
        with suppress(OSError):  # then it is not remembered, and does not count
            folder.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps({"gain": round(measured, 3)}))
        gain = _remembered(path)  # of two processes that measured at once, the later one's
    return gain is not None and gain >= LEAST_GAIN


def _gain(half: Callable[[], object], full: Callable[[], object]) -> float:
    """Measure how many times as fast one way is as another."""
    seconds = np.empty((ROUNDS + 1, 2))
    for times in seconds:
        for column, work in enumerate((full, half)):
            begin = perf_counter()
            work()
            times[column] = perf_counter() - begin
    before, after = np.median(seconds[1:], 0)  # the first round warms up
    return float(before / after)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = ("model name", "flags")  # virtual machines may hide the name
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(named)))


def _remembered(path: Path) -> float | None:
    try:
        gain = json.loads(path.read_text(encoding="utf-8"))["gain"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return gain if isinstance(gain, int | float) else None
