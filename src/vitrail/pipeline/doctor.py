"""What this machine can do, how fast it is, and what would make it faster: `vitrail doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail import __version__
from vitrail.core.cache import cache_folder
from vitrail.core.parallel import cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from vitrail.models.trial import Execution

EXTRAS = {
    "openvino": ("openvino", "predictions and the classifier's explanations on a CPU"),
    "onnx": ("onnx", "vitrail export onnx"),
    "distributed": ("cluster", "vitrail search --scheduler"),
    "starlette": ("viewer", "vitrail view and vitrail review"),
    "anndata": ("scverse", "vitrail export anndata"),
    "spatialdata": ("scverse", "vitrail export spatialdata"),
    "zarr": ("zarr", "vitrail export ome-zarr"),
    "h5py": ("hdf5", "vitrail export h5"),
}
"""By package the extra that installs it, and what it is for."""

PACKAGES = ("numpy", "torch", "torchvision", "timm", "segmentation-models-pytorch", "tifffile", "imagecodecs")

UNITS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
"""Flags of a processor that networks gain from."""

NETWORKS = (("tf_efficientnet_lite0", 96), ("efficientnet_b0", 224))
"""Encoders of the classifiers that are measured, untrained, and the pixels of their tiles."""

SLIDE_PX = 4096
"""Side of the slide that is read."""

SECONDS = 10.0
"""Of the benchmark, about: once they are over, no other part of it is begun."""

_ENGINES = {"openvino": "OpenVINO", "torch": "torch"}
LITTLE_MEMORY, LITTLE_DISK = 4e9, 10e9  # bytes
_GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the examination.

    Attributes
    ----------
    about
        What was looked at.
    value
        What there is.
    cure
        What to do, where something is missing; else empty.
    """

    about: str
    value: str
    cure: str = ""

    def __str__(self) -> str:
        """Say it in a line."""
        return f"{self.about:<28} {self.value}" + (f"  <- {self.cure}" if self.cure else "  ok")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast a network computes in one way.

    Attributes
    ----------
    network
        Which one, in words.
    way
        How.
    images
        A second.
    """

    network: str
    way: Execution
    images: float


def examine(say: Callable[[str], None]) -> dict[str, Any]:
    """Look at this machine, measure it for about ten seconds, and say line by line what there is.

    Parameters
    ----------
    say
        Takes each line as soon as it is clear.

    Returns
    -------
    dict[str, Any]
        The same, as JSON can hold it: `findings`, `choices` that are remembered, and `advice`.
    """
    findings = []

    def note(found: Iterator[Finding]) -> None:
        for finding in found:
            findings.append(finding)
            say(str(finding))

    begun, speeds, rates = perf_counter(), list[Speed](), dict[str, float]()
    for part in (_versions(), _readers(), _processor(), _device(), _room()):
        note(part)
    say("")
    say("Benchmark, of ten seconds or so:")
    note(_read_benchmark(rates))
    for encoder, side_px in NETWORKS:
        if perf_counter() - begun < SECONDS:
            note(_network_benchmark(encoder, side_px, speeds))
    say("")
    choices = _choices()
    say("Remembered of this machine:" if choices else "Remembered of this machine: nothing yet")
    for title, chosen in choices:
        say(f"  {title}: {chosen}")
    advice = _advice(speeds, rates)
    say("")
    for sentence in advice:
        say(f"- {sentence}")
    return {"findings": [asdict(each) for each in findings], "choices": dict(choices), "advice": advice}


def forgotten() -> str:
    """Forget all ways of computing that were chosen on this machine; say how many."""
    from vitrail.models.trial import forget_choices

    count = forget_choices()
    return f"forgot {count} choice{'s' * (count != 1)}: the next large work of each kind measures anew"


def _versions() -> Iterator[Finding]:
    from vitrail.models.trial import installed_version

    yield Finding(about="Vitrail", value=__version__)
    yield Finding(about="Python", value=f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in PACKAGES:
        installed = installed_version(package)
        yield Finding(about=package, value=installed or "missing", cure="" if installed else f"pip install {package}")
    for package, (extra, purpose) in EXTRAS.items():
        installed = installed_version(package)
        cure = "" if installed else f"pip install 'vitrail[{extra}]', for {purpose}"
        yield Finding(about=package, value=installed or "not installed", cure=cure)


def _readers() -> Iterator[Finding]:
    from PIL import features

    from vitrail.slides.readers.openslide import library_version

    yield Finding(about="reader: OpenSlide", value=library_version())
    yield Finding(about="reader: tiled TIFF, JPEG", value="Vitrail's own")
    there = features.check("jpg_2000")
    yield Finding(
        about="reader: tiled TIFF, JPEG 2000",
        value="Vitrail's own" if there else "OpenSlide's, which is slower",
        cure="" if there else "pip install --force-reinstall pillow, whose wheels have OpenJPEG",
    )


def _processor() -> Iterator[Finding]:
    import torch

    from vitrail.models.trial import processor

    text = processor()
    name = next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "")
    flags = set(next((line.partition(":")[2].split() for line in text.splitlines() if line.startswith("flags")), []))
    units = [
        each for each in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8") if each in flags
    ]
    yield Finding(about="processor", value=", ".join([name or platform.processor() or "unknown", *units]))
    usable, all_cores = cores(), os.cpu_count() or 1
    yield Finding(about="cores", value=f"{usable} of {all_cores} for this process")
    threads = torch.get_num_threads()
    cure = "unset OMP_NUM_THREADS" if threads < usable and "OMP_NUM_THREADS" in os.environ else ""
    yield Finding(about="threads of torch", value=str(threads), cure=cure)


def _device() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            value = f"{torch.cuda.get_device_name(number)}, {free / _GB:.1f} of {total / _GB:.1f} GB free"
            yield Finding(about=f"GPU {number}", value=value)
    else:
        apple = "; Apple's is taken where compute.device names it" if torch.backends.mps.is_available() else ""
        yield Finding(about="GPU", value=f"none of CUDA: networks run on the processor{apple}")


def _room() -> Iterator[Finding]:
    free, total = _memory()
    if total:
        cure = "close other programs, or lower compute.workers" if free < LITTLE_MEMORY else ""
        yield Finding(about="memory", value=f"{free / _GB:.1f} of {total / _GB:.1f} GB free", cure=cure)
    for about, folder in (("disk here", Path.cwd()), ("disk of temporary files", Path(tempfile.gettempdir()))):
        left = shutil.disk_usage(folder).free
        cure = "free some: tiles and maps of a slide take gigabytes" if left < LITTLE_DISK else ""
        yield Finding(about=about, value=f"{left / _GB:.1f} GB free", cure=cure)
    cached = cache_folder("trials")
    if cached is None:
        yield Finding(about="cache", value="none", cure="set XDG_CACHE_HOME to a folder that you may write to")
        return
    parent = next(each for each in cached.parents if each.exists())
    cure = "" if os.access(parent, os.W_OK) else "make it writable, or set XDG_CACHE_HOME: nothing can be remembered"
    used = sum(path.stat().st_size for path in cached.parent.rglob("*") if path.is_file())
    yield Finding(about="cache", value=f"{cached.parent}, {used / 1e6:.0f} MB", cure=cure)


def _memory() -> tuple[float, float]:
    """Return the memory that is free and all of it, in bytes; zeros where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        sizes = {line.partition(":")[0]: float(line.split()[1]) * 1024 for line in lines}
        return sizes["MemAvailable"], sizes["MemTotal"]
    except (OSError, KeyError, ValueError, IndexError):
        return 0.0, 0.0


def _read_benchmark(rates: dict[str, float]) -> Iterator[Finding]:
    """Read the same regions of a tiled JPEG TIFF by each reader; adds megapixels a second to `rates`."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows: readers may still have it open
        path = Path(folder) / "slide.tif"
        _write_slide(path)
        rates |= _rates(path)
    for name, rate in rates.items():
        yield Finding(about=f"reading by {name}", value=f"{rate:.0f} megapixels a second, on one core")


def _rates(path: Path) -> dict[str, float]:
    from vitrail.models.trial import medians
    from vitrail.slides.readers.openslide import OpenSlideReader
    from vitrail.slides.readers.tiff import open_tiff

    side = 512
    corners = [(x, y) for y in range(0, SLIDE_PX, 2 * side) for x in range(0, SLIDE_PX, 2 * side)]

    def read(with_openslide: bool) -> None:  # noqa: FBT001 - one of two
        reader = (None if with_openslide else open_tiff(path)) or OpenSlideReader(path)  # a new one remembers no tile
        for corner in corners:
            reader.read(0, corner, (side, side))

    runs = {name: partial(read, name == "OpenSlide") for name in ("Vitrail", "OpenSlide")}
    for run in runs.values():
        run()
    return {name: len(corners) * side**2 / 1e6 / seconds for name, seconds in medians(runs).items()}


def _write_slide(path: Path) -> None:
    """Write smooth colours with some noise, as tiles of JPEG."""
    import tifffile

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:256, :256] / 40
    smooth = np.stack([200 + 40 * np.sin(x + y), 120 + 60 * np.cos(y), 170 + 50 * np.sin(x - y)], -1)
    tile = (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
    count = (SLIDE_PX // 256) ** 2
    tifffile.imwrite(
        path,
        (tile for _ in range(count)),
        shape=(SLIDE_PX, SLIDE_PX, 3),
        dtype=np.uint8,
        tile=(256, 256),
        photometric="rgb",
        compression="jpeg",
        metadata=None,
    )


def _network_benchmark(encoder: str, side_px: int, speeds: list[Speed]) -> Iterator[Finding]:
    """Classify noise with an untrained network in each way that the machine has; adds to `speeds`."""
    import torch

    from vitrail.inference.predictor import Predictor
    from vitrail.models.device import half_type, keep_memory, pick_device
    from vitrail.models.spec import ClassifierSpec
    from vitrail.models.store import Model, build
    from vitrail.models.trial import installed_version, medians

    keep_memory()
    grey, device = (0.5, 0.5, 0.5), pick_device("auto")
    spec = ClassifierSpec(encoder=encoder, side_um=199.1, side_px=side_px, mean=grey, std=grey, dense=128, dropout=0.0)
    with torch.random.fork_rng(devices=[]):
        model = Model(spec=spec, module=build(spec).eval())
    engines = ["torch", *(["openvino"] if device.type == "cpu" and installed_version("openvino") else [])]
    types = ["float32", *(["bfloat16"] if half_type(device) == torch.bfloat16 else [])]
    count = 32 if device.type == "cpu" else 512
    noise = np.random.default_rng(0).integers(0, 256, (count, side_px, side_px, 3), np.uint8)
    predictors = [
        Predictor(model, device, engine=engine, precision=precision)  # type: ignore[arg-type]  # these are names of both
        for engine in engines
        for precision in types
    ]
    runs = {each.execution: partial(each.tumor_logits, noise) for each in predictors}
    for run in runs.values():
        run()
    network = f"{encoder}, {side_px} px"
    for way, seconds in medians(runs).items():
        speeds.append(Speed(network=network, way=way, images=count / seconds))
        yield Finding(about=network, value=f"{count / seconds:.0f} images a second: {way}")


def _choices() -> list[tuple[str, str]]:
    from vitrail.models.trial import remembered_choices

    return [(choice.title, str(choice.chosen)) for choice in remembered_choices()]


def _advice(speeds: list[Speed], rates: Mapping[str, float]) -> list[str]:
    """Say in sentences what would make this machine faster, as far as it was seen."""
    import torch

    from vitrail.models.trial import installed_version, trials_are_off

    sentences = []
    for network in dict.fromkeys(each.network for each in speeds):
        by_way = {f"{each.way.engine} {each.way.precision}": each.images for each in speeds if each.network == network}
        if gain := by_way.get("openvino float32", 0.0) / by_way["torch float32"]:
            taken = 'compute.engine = "auto" takes it' if gain >= 1.1 else "a trial may take torch instead"
            sentences.append(f"OpenVINO computes {network} {gain:.1f} times as fast as torch here: {taken}.")
        engine = "openvino" if "openvino float32" in by_way else "torch"
        if (gain := by_way.get(f"{engine} bfloat16", 0.0) / by_way[f"{engine} float32"]) >= 1.2:
            sentences.append(
                f"In bfloat16, {_ENGINES[engine]} computes {network} {gain:.1f} times as fast as in float32 here: "
                "it is taken for models that were checked in it with this engine."
            )
    if not installed_version("openvino") and speeds:
        sentences.append("OpenVINO is not there, so not measured: pip install 'vitrail[openvino]', and run this again.")
    if (gain := rates["Vitrail"] / rates["OpenSlide"]) > 1:
        sentences.append(f"Slides as tiled JPEG TIFF (.svs, .tif) are read {gain:.1f} times as fast as by OpenSlide.")
    if "OMP_NUM_THREADS" in os.environ and torch.get_num_threads() < cores():
        sentences.append(f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']} leaves cores unused: unset it.")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 1.5 * cores():
        sentences.append(
            f"Other work keeps the processor busy (load {load:.1f} on {cores()} cores), so these figures are too low; "
            "once it is quiet, run this again, with --forget if something was tried meanwhile."
        )
    if trials_are_off():
        sentences.append("VITRAIL_TRIALS=off: nothing is tried. Unset it, to have the fastest way chosen.")
    return sentences or ["Nothing was found that would make it faster."]
