"""How a network is computed fastest on this machine: measured once for each network and tile size, and remembered.

Flags of a processor do not tell: on one with avx512_bf16, bfloat16 was 1.59 times as fast as float32 for one network
and 0.92 times for another. So the ways of computing that the settings and the network's own checks leave open are run
in turn on noise, and the fastest one is taken. The search is greedy, that it may end within seconds: first engine and
type, then, with the best ones, the threads, the batch, and the memory format.

What was chosen is written into the user's cache folder, since the same work must give the same bytes when it is done
again on the same machine, and two measurements may come out on either side of a limit. What holds for the bytes:

- Threads change none of OpenVINO's, for each of its streams computes with one thread.
- Which way is taken depends on the slide and the machine alone: not on other slides, on processes, or on kills.
- Engine, batch, memory format and, as was seen of small batches, the number of torch's threads change the last bits of
  float32, for they add in another order.
- A type of 16 bits or fewer changes more than that. It is a candidate only where the network was checked in it.

So processes on machines of several kinds may differ by as much. Where they must not, name `compute.engine`,
`compute.precision`, `compute.threads`, `compute.batch` and `compute.memory_format` in the settings: then nothing is
left to choose.
"""

from __future__ import annotations

import json
import logging
import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import TypeAdapter

from vitrail.core.cache import cache_folder
from vitrail.core.digest import json_digest
from vitrail.core.files import write_text
from vitrail.core.parallel import cores
from vitrail.settings.schema import MemoryFormat  # noqa: TC001 - pydantic reads it

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from vitrail.models.spec import ModelSpec

_log = logging.getLogger(__name__)

Way = TypeVar("Way")

Engine = Literal["torch", "openvino"]
TypeName = Literal["float32", "bfloat16", "float16"]

LEAST_IMAGES = 200
"""Images of a slide, or of another work, that is worth a trial. Fewer take the default, always: so they are computed in
the same way before and after a larger work has been tried."""

ROUNDS = 5
"""Times that candidates are run, in turn, after one that warms them up; their medians count."""

SECONDS = 2.0
"""Of the rounds of one comparison, about: with this, the round that runs is the last."""

MOST_SECONDS = 8.0
"""Of a trial, about: once they are over, no other step is begun."""

LEFT_BEHIND = 2.0
"""A candidate that has always taken more than so many times as long as the fastest one is run no more."""

_LEARNT = {
    "training", "temperature", "half", "half_openvino", "mean", "std", "reading", "representative", "colours",
    "encoder_source", "vitrail",
}  # fmt: skip
"""Fields of a specification that no speed depends on."""

_VERSION = 1  # of the candidates and the way they are measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One way of computing a network.

    Attributes
    ----------
    engine
        What computes.
    precision
        The type of convolutions and products.
    threads
        Of the processor; OpenVINO computes with one stream a thread.
    batch
        Images in one pass, or, with OpenVINO, in one request.
    memory_format
        Of torch's tensors.
    """

    engine: Engine
    precision: TypeName
    threads: int
    batch: int
    memory_format: MemoryFormat

    def least_gain(self, present: Execution) -> float:
        """Return how many times as fast as `present` this has to be, to be taken in its place.

        Other numbers need more of a reason than other last bits, and these more than none.
        """
        if self.precision != present.precision:
            return 1.2
        return 1.05 if self == replace(present, threads=self.threads) else 1.1

    def __str__(self) -> str:
        """Say it in words."""
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        if self.engine == "openvino":
            return f"OpenVINO in {self.precision}, {threads}, {self.batch} images a request"
        return f"torch in {self.precision}, {threads}, {self.batch} images a pass, {self.memory_format}"


_EXECUTION = TypeAdapter(Execution)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a trial came to.

    Attributes
    ----------
    title
        What was computed, in words.
    chosen
        The way that is taken from now on.
    seconds
        Of each candidate, in words: for the images of the trial, the median.
    images
        Of the trial.
    path
        Where it is remembered.
    """

    title: str
    chosen: Execution
    seconds: Mapping[str, float]
    images: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """What is to be found out.

    Attributes
    ----------
    title
        What is computed, in words.
    conditions
        All that the answer depends on beside the machine, as JSON holds it.
    default
        What is taken without a trial.
    steps
        Each takes the fastest way so far, and returns its rivals.
    work
        Makes what computes the images of the trial in a way.
    images
        How many those are.
    """

    title: str
    conditions: Any
    default: Execution
    steps: Sequence[Callable[[Execution], Iterable[Execution]]]
    work: Callable[[Execution], Callable[[], object]]
    images: int

    def choose(self) -> Execution:
        """Return the fastest way: as it is remembered, or as it is measured now.

        Returns
        -------
        Execution
            The default where the variable VITRAIL_TRIALS is `off`, where there is no rival, and where the answer cannot
            be remembered: the next time it might be another.
        """
        folder = trials_folder()
        if trials_are_off() or folder is None:
            return self.default
        asked = [_VERSION, machine(), self.conditions, asdict(self.default)]
        path = folder / f"{json_digest(asked)[:32]}.json"
        choice = _remembered(path)
        if choice is None:
            if not any(rival != self.default for step in self.steps for rival in step(self.default)):
                return self.default
            try:
                folder.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)  # it may be damaged
            except OSError:  # then it would not be remembered
                return self.default
            chosen, seconds = self._measure()
            with suppress(OSError):
                _write_once(path, self._as_json(chosen, seconds))
            choice = _remembered(path)  # of processes that measured at once, the first one's
        if choice is None:
            return self.default
        times = ", ".join(f"{way}: {seconds:.3g} s" for way, seconds in choice.seconds.items())
        _log.info("%s: %s, of %s (%s)", self.title, choice.chosen, times, path)
        return choice.chosen

    def _as_json(self, chosen: Execution, seconds: Mapping[Execution, float]) -> str:
        times = {str(each): float(f"{time:.4g}") for each, time in seconds.items()}
        values = {"title": self.title, "images": self.images, "seconds": times, "chosen": asdict(chosen)}
        return json.dumps(values, indent=1)

    def _measure(self) -> tuple[Execution, dict[Execution, float]]:
        """Search greedily, a step at a time; return the best way, and the seconds of all."""
        best, seconds = self.default, dict[Execution, float]()
        runs: dict[Execution, Callable[[], object]] = {}
        begun = perf_counter()
        for step in self.steps:
            rivals = [rival for rival in step(best) if rival != best]
            if not rivals or perf_counter() - begun > MOST_SECONDS:
                continue
            for each in (best, *rivals):
                if each not in runs:
                    runs[each] = self.work(each)
                    runs[each]()  # warms up
            times = medians({each: runs[each] for each in (best, *rivals)})
            seconds |= times
            worth = {rival: times[best] / times[rival] / rival.least_gain(best) for rival in rivals}
            first = max(worth, key=lambda rival: worth[rival])
            best = first if worth[first] >= 1 else best
            runs = {best: runs[best]}  # the others' memory is needed
        return best, seconds


def medians(runs: Mapping[Way, Callable[[], object]]) -> dict[Way, float]:
    """Measure how long ways of doing the same take: in turn, so that other work on the machine meets all of them.

    Parameters
    ----------
    runs
        Does it, by way; each has been run once, to warm up.

    Returns
    -------
    dict[Way, float]
        Seconds: the median over `ROUNDS` or fewer. A way that falls behind is left out of the next rounds.
    """
    times = {each: list[float]() for each in runs}
    left, begun = list(runs), perf_counter()
    for number in range(ROUNDS):
        for each in left:
            begin = perf_counter()
            runs[each]()
            times[each].append(perf_counter() - begin)
        least = {each: min(times[each]) for each in left}
        left = [each for each in left if least[each] <= LEFT_BEHIND * min(least.values())]
        if (len(left) == 1 and number) or perf_counter() - begun > SECONDS:
            break
    return {each: float(np.median(taken)) for each, taken in times.items()}


def network_key(spec: ModelSpec) -> dict[str, Any]:
    """Return what the speed of a network depends on: its specification without what it has learnt."""
    return spec.model_dump(mode="json", exclude=_LEARNT)


def other_threads(threads: int) -> list[int]:
    """Return numbers of threads that may be faster than those that torch takes.

    Half of them, for what looks like two cores may be one that takes turns, and a single core gains nothing from that;
    and one a core, where nobody has said otherwise by OMP_NUM_THREADS.
    """
    more = [] if "OMP_NUM_THREADS" in os.environ else [cores()]
    return [number for number in (*([threads // 2] if threads >= 4 else []), *more) if number != threads]


def trials_are_off() -> bool:
    """Tell whether the environment says that nothing is to be tried."""
    return os.environ.get("VITRAIL_TRIALS") == "off"


def trials_folder() -> Path | None:
    """Return where choices are remembered; None of a user without a home folder."""
    return cache_folder("trials")


def remembered_choices() -> Iterator[Choice]:
    """Yield all choices that are remembered on this machine, by title."""
    folder = trials_folder()
    choices = [_remembered(path) for path in sorted(folder.glob("*.json"))] if folder else []
    yield from sorted((choice for choice in choices if choice), key=lambda choice: choice.title)


def forget_choices() -> int:
    """Forget all choices of this machine, so that the next works measure anew; return how many there were.

    What is computed afterwards may differ from what was computed before, as far as the module's description says.
    """
    folder = trials_folder()
    paths = list(folder.glob("*.json")) if folder else []
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


@cache
def machine() -> tuple[str, ...]:
    """Return what a speed depends on beside the work: processor, its cores for this process, GPU, torch, OpenVINO."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return processor(), str(cores()), threads, gpu, torch.__version__, installed_version("openvino") or ""


def processor() -> str:
    """Return name and flags of the processor, as the system says them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = ("model name", "flags")  # virtual machines may hide the name
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(named)))


def installed_version(package: str) -> str | None:
    """Return the version of a package; None where it is not installed. It is not imported, which takes a while."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _write_once(path: Path, text: str) -> None:
    """Write a file that nobody has written, whole or not at all; of two processes the first one wins."""
    own = path.with_suffix(f".{os.getpid()}")
    write_text(own, text)
    try:
        os.link(own, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        own.replace(path)
    own.unlink(missing_ok=True)


def _remembered(path: Path) -> Choice | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        chosen = _EXECUTION.validate_python(values["chosen"])
        seconds = {str(name): float(time) for name, time in values["seconds"].items()}
        return Choice(
            title=str(values["title"]), chosen=chosen, seconds=seconds, images=int(values["images"]), path=path
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not there, or of another version
        return None
