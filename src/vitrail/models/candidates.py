"""Ways of computing a network that the settings and the network's own checks leave open."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from vitrail.models.device import half_type, type_name
from vitrail.models.openvino import BLOCK, use_openvino
from vitrail.models.trial import Execution, network_key, other_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vitrail.models.spec import ModelSpec
    from vitrail.models.trial import Engine, TypeName
    from vitrail.settings.schema import EngineName, MemoryFormatName, PrecisionName

BATCH = 64
"""Images in one pass through torch, as a rule, where the device's memory allows it."""

_OTHER_BATCHES = {("openvino", "cpu"): (16,), ("torch", "cpu"): (16,), ("torch", "cuda"): (256,)}
"""By engine and device what else is tried."""

_MOST_NOISE = 512  # images of a trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What is said of how a network is computed, beside its engine and its type.

    Attributes
    ----------
    images
        How many images the work has, about, until `Predictor.expect` says otherwise. Only where they are
        `vitrail.models.trial.LEAST_IMAGES` or more is anything measured; 0 says nothing of it.
    threads
        Of the processor; 0 leaves it open.
    batch
        Images in one pass, or, with OpenVINO, in one request; 0 leaves it open.
    memory_format
        Of torch's tensors; `auto` leaves it open.
    """

    images: int = 0
    threads: int = 0
    batch: int = 0
    memory_format: MemoryFormatName = "auto"


class Candidates:
    """Ways of computing a network on a device: the default, and what else may be tried.

    Parameters
    ----------
    spec
        The network.
    device
        Where it runs.
    engine, precision
        `compute.engine` and `compute.precision`.
    tuning
        What else is said.
    explains
        Whether it runs inside of a module that explains, on windows of many tiles: in float32, and with OpenVINO one
        by one; nothing is tried.

    Attributes
    ----------
    default
        What is taken where nothing is measured: on a CPU float32, on a GPU the 16-bit type that the model agrees in.
    images
        How many images a trial needs, that each thread has some.

    Raises
    ------
    SettingsError
        OpenVINO is asked for, but not installed, or the device is no CPU.
    """

    def __init__(
        self,
        spec: ModelSpec,
        device: torch.device,
        engine: EngineName,
        precision: PrecisionName,
        tuning: Tuning,
        *,
        explains: bool = False,
    ) -> None:
        self._spec, self._device, self._tuning, self._explains = spec, device, tuning, explains
        self._engines: list[Engine] = ["openvino" if use_openvino(engine, device) else "torch"]
        if engine == "auto" and self._engines == ["openvino"]:
            self._engines.append("torch")
        self._fixed: TypeName | None = None if precision in {"auto", "fastest"} else precision  # type: ignore[assignment]
        if explains:
            self._fixed = "float32"
        self.default = self._of_engine(self._engines[0])
        threads = self.default.threads if device.type == "cpu" else _MOST_NOISE
        self.images = min(max(32, 16 * threads), _MOST_NOISE)

    def _of_engine(self, engine: Engine) -> Execution:
        agreed, tuning = agreed_type(self._spec, self._device, engine), self._tuning
        chosen = self._fixed or (agreed if self._device.type != "cpu" else None) or "float32"
        usual = (1 if self._explains else BLOCK) if engine == "openvino" else BATCH
        return Execution(
            engine=engine,
            precision=chosen,
            threads=tuning.threads or torch.get_num_threads(),
            batch=usual if self._explains else tuning.batch or usual,
            memory_format="channels_last" if tuning.memory_format == "auto" else tuning.memory_format,
        )

    @property
    def conditions(self) -> list[Any]:
        """What the fastest way depends on beside the machine."""
        types = [self._fixed or agreed_type(self._spec, self._device, engine) for engine in self._engines]
        said = asdict(replace(self._tuning, images=0))
        return [network_key(self._spec), self._device.type, self._engines, types, said]

    @property
    def title(self) -> str:
        """The network and its images, in words."""
        spec, gpu = self._spec, self._device.type != "cpu"
        count = f"{spec.members} networks, " if spec.members > 1 else ""
        return f"{spec.task}, {count}{spec.encoder}, {spec.side_px} px{', on the GPU' * gpu}"

    @property
    def steps(self) -> tuple[Callable[[Execution], Iterator[Execution]], ...]:
        """Of a trial: each takes the fastest way so far, and yields its rivals."""
        on_cpu = () if self._device.type != "cpu" else (self._engine_and_type, self._threads)
        return () if self._explains else (*on_cpu, self._batch, self._memory_format)

    def _engine_and_type(self, _best: Execution) -> Iterator[Execution]:
        for engine in self._engines:
            usual = self._of_engine(engine)
            yield usual
            agreed = agreed_type(self._spec, self._device, engine)
            if self._fixed is None and agreed:
                yield replace(usual, precision=agreed)

    def _threads(self, best: Execution) -> Iterator[Execution]:
        if not self._tuning.threads:
            yield from (replace(best, threads=number) for number in other_threads(best.threads))

    def _batch(self, best: Execution) -> Iterator[Execution]:
        if not self._tuning.batch:
            others = _OTHER_BATCHES.get((best.engine, self._device.type), ())
            yield from (replace(best, batch=number) for number in others)

    def _memory_format(self, best: Execution) -> Iterator[Execution]:
        if best.engine == "torch" and self._tuning.memory_format == "auto":
            yield replace(best, memory_format="contiguous")


def agreed_type(spec: ModelSpec, device: torch.device, engine: Engine = "torch") -> TypeName | None:
    """Return the device's 16-bit type where the model was seen to agree in it with float32, else None.

    Parameters
    ----------
    spec
        Of the model, with its check.
    device
        Where it runs.
    engine
        What computes; each was checked by itself, for they round other layers.

    Returns
    -------
    str | None
        The type's name.
    """
    half, check = half_type(device), spec.half_openvino if engine == "openvino" else spec.half
    if half is None or check is None:
        return None
    name = type_name(half)
    return name if check.dtype == name and check.agrees(spec.task) else None
