"""What the work runs on: device, precision, memory and reproducibility."""

from __future__ import annotations

import ctypes
import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vitrail.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitrail.settings.schema import PrecisionName

_log = logging.getLogger(__name__)


def pick_device(setting: str) -> torch.device:
    """Return the device of a setting.

    Parameters
    ----------
    setting
        `compute.device`. `auto` takes CUDA where there is one, else the CPU; Apple's GPU is taken only when it is
        named: Vitrail has not been tried on one.

    Returns
    -------
    torch.device
        A device that this machine has.

    Raises
    ------
    SettingsError
        The setting asks for what this machine does not have.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if setting == "auto":
        chosen = "cuda" if available["cuda"] else "cpu"
        _log.info("device: %s, by compute.device = auto", chosen)
        return torch.device(chosen)
    if not available.get(setting):
        raise SettingsError("compute.device", f"this machine has no {setting!r}", 'Set it to "auto" or "cpu"')
    return torch.device(setting)


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """The type that convolutions and products are computed in.

    Attributes
    ----------
    device
        Where.
    dtype
        float32, bfloat16 or float16.
    """

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> torch.autocast:
        """Return the context to run a network in; it does nothing for float32."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def scaler(self) -> torch.amp.GradScaler:
        """Return the scaler of losses that float16 needs; for other types it does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads within the block; afterwards it has as many as before."""
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def half_type(device: torch.device) -> torch.dtype | None:
    """Return the 16-bit type that a device has instructions for; None where it has none: emulated it is slow."""
    match device.type:
        case "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        case "cpu":
            units = {"avx512_bf16", "amx_bf16"} & _cpu_flags(Path("/proc/cpuinfo"))
            return torch.bfloat16 if units else None
    return None


def training_precision(device: torch.device, setting: PrecisionName = "auto") -> Precision:
    """Return the type to train in.

    `auto` takes the 16-bit type of a GPU, and float32 on every CPU: there bfloat16 was measured to train at 0.5 to 0.9
    of float32's speed (EfficientNet-B0 at 96 and 224 pixels, on a processor with avx512_bf16), and its numbers differ.
    What `fastest` takes on a CPU is measured, see `vitrail.training.precision`; here it is float32.

    Parameters
    ----------
    device
        Where the training runs.
    setting
        `compute.precision`.

    Returns
    -------
    Precision
        Device and type.
    """
    on_gpu = device.type != "cpu" and setting in {"auto", "fastest"}
    chosen = half_type(device) if on_gpu else NAMED_TYPES.get(setting)
    return Precision(device=device, dtype=chosen or torch.float32)


def type_name(dtype: torch.dtype) -> str:
    """Return the name of a type without that of its library, such as `bfloat16`."""
    return str(dtype).removeprefix("torch.")


NAMED_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""The types of torch that `compute.precision` can name."""


def _cpu_flags(cpuinfo: Path) -> set[str]:
    """Read the CPU's flags; none where the system has no such file.

    The variable VITRAIL_CPU_BFLOAT16, `on` or `off`, says in their place whether there are units for bfloat16.
    """
    override = os.environ.get("VITRAIL_CPU_BFLOAT16")
    if override in {"on", "off"}:
        return {"avx512_bf16"} if override == "on" else set()
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # the options' numbers in malloc.h
_LARGE = 1 << 30
_LARGEST_EVERYWHERE = 32 << 20  # half of HEAP_MAX_SIZE, beyond which some versions of glibc refuse


def keep_memory() -> bool:
    """Let glibc keep large blocks for reuse, which doubles the speed of networks on CPUs; tell whether it took effect.

    Without it each step maps and unmaps hundreds of megabytes. Threads share one arena, because those of their own
    cannot hold a large block. Elsewhere than on glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    mapped = any(mallopt(_MMAP_THRESHOLD, size) for size in (_LARGE, _LARGEST_EVERYWHERE))
    trimmed, shared = (bool(mallopt(*option)) for option in ((_TRIM_THRESHOLD, _LARGE), (_ARENA_MAX, 1)))
    return mapped and trimmed and shared


@contextmanager
def reproducible(device: torch.device, seed: int) -> Iterator[None]:
    """Run a block from a seed, with torch's deterministic kernels where it has them; it warns where it has none.

    Afterwards the generators of the CPU and of all CUDA devices, and torch's switches, are as they were. The variable
    CUBLAS_WORKSPACE_CONFIG stays in the environment, because cuBLAS reads it only when it starts.

    Parameters
    ----------
    device
        Where the block computes.
    seed
        Of torch's generators.
    """
    cudnn = torch.backends.cudnn
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    before, debugging = (cudnn.deterministic, cudnn.benchmark), torch.get_deterministic_debug_mode()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # once CUDA is in use, `torch.manual_seed` sets the generators of all its devices
    in_use = device.type == "cuda" or torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch leaves this one untyped
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if in_use else []):
        torch.manual_seed(seed)
        try:
            cudnn.deterministic, cudnn.benchmark = True, False
            # the same switch is in `use_deterministic_algorithms`, which imports torch's compiler first: a second
            torch.set_deterministic_debug_mode("warn")
            memory.fill_uninitialized_memory = False  # costs time, and no kernel here reads it
            yield
        finally:
            cudnn.deterministic, cudnn.benchmark = before
            torch.set_deterministic_debug_mode(debugging)
            memory.fill_uninitialized_memory = fill
