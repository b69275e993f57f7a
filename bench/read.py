"""Regions of 1024 px read into 224 px, one by one: Vitrail beside OpenSlide, tiffslide, cucim, fastslide and pyvips.

    python -m bench.read [SLIDE] [--peer-python ENV/bin/python] [--rounds N] [--regions N] [--folder FOLDER]

Without SLIDE a phantom is drawn. It is read twice: as it is, and from a copy of its level 0 alone, with the very same
tiles. Regions lie side by side, row by row, as tiles do, but not on the borders of the file's own tiles. Each
round takes regions that no reader has seen and lets all of them read these, in an order that is drawn anew, each in a
process of its own that is told to use one thread; some use more, which the seconds of the processor tell. The last row
of Vitrail may use every core, as it does for users. Peers are used as their documentation shows: the level that
`get_best_level_for_downsample` picks, then Pillow's BOX filter, its fastest and nearest to an area mean.

The differences are to the exact area mean of the fully decoded level 0 (OpenSlide, 64-bit weights), in grey levels.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import openslide
import tifffile

from vitrail.synthetic import write_slide

SIDE, OUT = 1024, 224
OFFSET = 137, 89
CHECKED = 12
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VIPS_CONCURRENCY"), "1")

VITRAIL = """
from vitrail.geometry import Region
from vitrail.slides import slide as module
def opened(path):
    module._reader.cache_clear()
    slide = module.open_slide(path, mpp=0.5, reading={mode!r})
    module.read_region(slide, Region(x=0, y=0, width=1, height=1), (1, 1))
    return lambda x, y: module.read_region(slide, Region(x=x, y=y, width=SIDE, height=SIDE), (OUT, OUT))
"""

ONE_CORE = """
import os
os.environ["VITRAIL_CORES"] = "1"
"""

LIKE_OPENSLIDE = """
import {module} as peer
def opened(path):
    slide = peer.{cls}(path)
    level = slide.get_best_level_for_downsample(SIDE / OUT)
    px = round(SIDE / slide.level_downsamples[level])
    return lambda x, y: boxed(slide.read_region((x, y), level, (px, px)).convert("RGB"))
"""

CUCIM = """
from cucim import CuImage
def opened(path):
    slide = CuImage(path)
    factors = slide.resolutions["level_downsamples"]
    level = max(i for i, factor in enumerate(factors) if factor <= SIDE / OUT)
    px = round(SIDE / factors[level])
    return lambda x, y: boxed(Image.fromarray(np.asarray(slide.read_region((x, y), (px, px), level))))
"""

FASTSLIDE = """
from fastslide import FastSlide
def opened(path):
    slide = FastSlide.from_file_path(path)
    level = slide.get_best_level_for_downsample(SIDE / OUT)
    px = round(SIDE / slide.level_downsamples[level])
    def read(x, y):
        corner = slide.convert_level0_to_level_native(x, y, level)
        return boxed(Image.fromarray(slide.read_region(corner, level, (px, px)).numpy()))
    return read
"""

PYVIPS = """
import pyvips
def opened(path):
    levels = [pyvips.Image.new_from_file(path, access="random")]
    for page in range(1, levels[0].get("n-pages") if "n-pages" in levels[0].get_fields() else 1):
        levels.append(pyvips.Image.new_from_file(path, access="random", page=page))
    factors = [levels[0].width / level.width for level in levels]
    chosen = max(i for i, factor in enumerate(factors) if factor <= SIDE / OUT)
    image, factor = levels[chosen], factors[chosen]
    px = round(SIDE / factor)
    def read(x, y):
        part = image.crop(round(x / factor), round(y / factor), px, px)
        return part.resize(OUT / px, kernel="linear").numpy()[..., :3]
    return read
"""

READERS = {
    "Vitrail fast": ONE_CORE + VITRAIL.format(mode="fast"),
    "Vitrail faithful": ONE_CORE + VITRAIL.format(mode="faithful"),
    "Vitrail, threads": VITRAIL.format(mode="fast"),
    "OpenSlide": LIKE_OPENSLIDE.format(module="openslide", cls="OpenSlide"),
    "tiffslide": LIKE_OPENSLIDE.format(module="tiffslide", cls="TiffSlide"),
    "cucim": CUCIM,
    "fastslide": FASTSLIDE,
    "pyvips": PYVIPS,
}
"""Name of a row, and the code that defines `opened(path)`: it returns a function of a region's corner."""

WORKER = """
import json, sys, time
import numpy as np
from PIL import Image
SIDE, OUT = {side}, {out}
def boxed(image):
    return np.asarray(image.resize((OUT, OUT), Image.Resampling.BOX))
{code}
print("ready", flush=True)
for line in sys.stdin:
    path, corners, target = json.loads(line)
    read = opened(path)
    begun, used = time.perf_counter(), time.process_time()
    tiles = [read(x, y) for x, y in corners]
    seconds, used = time.perf_counter() - begun, time.process_time() - used
    if target:
        np.save(target, np.stack(tiles))
    print(json.dumps([seconds, used]), flush=True)
"""


class Worker:
    """A process that reads regions when it is told to, started anew where a slide was too much for it."""

    def __init__(self, python: Path, script: str) -> None:
        self._command = [python, "-c", script]
        self.runs = self._start()

    def _start(self) -> bool:
        self._process = subprocess.Popen(  # noqa: S603 - the user's own interpreter
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | ONE_THREAD,
        )  # fmt: skip
        return self._line() == "ready"

    def ask(self, *question):
        """Return the answer to a question, or None if it failed."""
        if self._process.poll() is not None:
            self._start()
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._line()
        return json.loads(answer) if answer else None

    def failure(self) -> str:
        """Return the last line of what a dead process complained about."""
        return (self._process.communicate()[1].strip().splitlines() or ["no reason given"])[-1]

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _line(self) -> str:
        """Return the next line of its answers; libraries print as they please before the first."""
        while line := self._process.stdout.readline():
            if line.strip() == "ready" or line[:1] in "[0123456789":
                return line.strip()
        return ""


def without_pyramid(path: Path, target: Path) -> Path:
    """Copy level 0 alone, its tiles as they are."""
    with tifffile.TiffFile(path) as tiff, path.open("rb") as file:
        page = tiff.pages.first

        def streams():
            for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True):
                file.seek(offset)
                yield file.read(length)

        tifffile.imwrite(
            target, streams(), shape=page.shape, dtype=np.uint8, tile=page.tile, compression=page.compression,
            photometric=page.photometric, subsampling=page.subsampling, jpegtables=page.jpegtables, metadata=None,
            resolution=page.resolution, resolutionunit=page.resolutionunit, description=page.description or None,
        )  # fmt: skip
    return target


def exact_mean(path: Path, corner):
    """Return the area means of a region by dense weights."""
    with openslide.OpenSlide(path) as slide:
        full = np.asarray(slide.read_region(corner, 0, (SIDE, SIDE)).convert("RGB"), np.float64)
    edges, pixels = np.linspace(0, SIDE, OUT + 1), np.arange(SIDE)
    weights = (np.minimum(pixels + 1, edges[1:, None]) - np.maximum(pixels, edges[:-1, None])).clip(0) * OUT / SIDE
    return np.einsum("jy,yxc,ix->jic", weights, full, weights, optimize=True)


def corners_of(path: Path):
    """Return the corners of all regions, row by row."""
    with openslide.OpenSlide(path) as slide:
        width, height = slide.dimensions
    across, down = range(OFFSET[0], width - SIDE, SIDE), range(OFFSET[1], height - SIDE, SIDE)
    return [(x, y) for y in down for x in across]


def measure(workers: dict[str, Worker], path: Path, options: argparse.Namespace):
    """Return regions a second, of the clock and of the processor, of each reader in each round."""
    corners, rng = corners_of(path), np.random.default_rng(0)
    rates = {name: [] for name in workers}
    for number in range(options.rounds):
        begin = number * options.regions % max(1, len(corners) - options.regions + 1)
        part = corners[begin : begin + options.regions]
        for name in rng.permutation(list(workers)).tolist():
            rates[name].append([len(part) / spent for spent in workers[name].ask(str(path), part, "")])
    return rates


def differences(worker: Worker, path: Path, expected) -> tuple[float, float] | None:
    """Return mean and largest difference to the exact area means."""
    corners, exact = expected
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "tiles.npy"
        if worker.ask(str(path), corners, str(target)) is None:
            return None
        apart = np.abs(np.load(target) - exact)
    return float(apart.mean()), float(apart.max())


def report(title: str, path: Path, workers: dict[str, Worker], options: argparse.Namespace) -> None:
    """Print the table of one slide."""
    corners = corners_of(path)
    chosen = corners[:: max(1, len(corners) // CHECKED)][:CHECKED]
    expected = chosen, np.stack([exact_mean(path, corner) for corner in chosen])
    apart = {name: differences(worker, path, expected) for name, worker in workers.items()}
    rates = measure({name: worker for name, worker in workers.items() if apart[name]}, path, options)
    base = np.median(rates["OpenSlide"], axis=0)
    print(f"\n{title}: {options.rounds} rounds of {min(options.regions, len(corners))} regions")
    print(
        f"{'':<18}{'regions/s':>10}{'quartiles':>16}{'x':>6}{'a CPU second':>14}{'x':>6}{'mean diff':>11}{'largest':>9}"
    )
    for name in workers:
        if not apart[name]:
            print(f"{name:<18} does not read it: {workers[name].failure()[:80]}")
            continue
        low, (middle, cpu), high = np.quantile(rates[name], [0.25, 0.5, 0.75], axis=0)
        times, cpu_times = np.array([middle, cpu]) / base
        print(
            f"{name:<18}{middle:>10.0f}{f'{low[0]:.0f} to {high[0]:.0f}':>16}{times:>6.1f}{cpu:>14.0f}{cpu_times:>6.1f}"
            f"{apart[name][0]:>11.2f}{apart[name][1]:>9.0f}",
            flush=True,
        )


def start(peer_python: Path | None) -> dict[str, Worker]:
    """Start a process for each reader that is installed, and say which are not."""
    own = Path(sys.executable)
    workers = {}
    for name, code in READERS.items():
        mine = name.startswith("Vitrail") or name == "OpenSlide"
        script = WORKER.format(side=SIDE, out=OUT, code=code)
        worker = Worker(own if mine else peer_python or own, script)
        if worker.runs:
            workers[name] = worker
        else:
            print(f"{name}: not installed ({worker.failure()[:80]})")
    return workers


def main() -> None:
    """Measure a slide as it is, and its level 0 alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path, nargs="?", help="a tiled TIFF of JPEG or JPEG 2000; a phantom without it")
    parser.add_argument("--peer-python", type=Path, help="the interpreter that has the peers; this one without it")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--regions", type=int, default=14, help="of each round")
    parser.add_argument("--side", type=int, default=8192, help="of the phantom, in pixels")
    parser.add_argument("--folder", type=Path, help="where to keep the phantom; a temporary folder without it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        slide = options.slide or write_slide(folder, "phantom", side_px=options.side, seed=7)
        workers = start(options.peer_python)
        try:
            report(
                f"{slide.name}, level 0 alone", without_pyramid(slide, Path(temporary) / "flat.tif"), workers, options
            )
            report(f"{slide.name} as it is", slide, workers, options)
        finally:
            for worker in workers.values():
                worker.close()


if __name__ == "__main__":
    main()
