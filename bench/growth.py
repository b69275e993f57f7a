"""How time and memory grow with a slide's size and with the number of slides, and how fast Vitrail starts.

    python -m bench.growth [--large] [--only PART]... [--rounds N] [--folder FOLDER]

Slides of 4, 8 and 16 thousand pixels (32, too, with --large) are mapped as `vitrail predict SLIDE` does it: tissue,
artefacts, classifier, segmenter, files for QuPath, figure. Both networks are tiny and untrained, so that what grows is
not hidden behind them; what the segmenter sees is confetti, the worst that there is to be outlined. The larger slides
repeat the JPEG tiles of the smallest, a phantom, so that the share of tissue is the same. Cohorts of 10 and 100 small
phantoms (1000, too, with --large) are cut as `vitrail tiles` does it, from three files, listed under many names; for a
while 1000 take 6 GB of disk. The parts are `slide`, `cohort` and `start`; all of them without --only.

Each piece of work is a process of its own. Imports are not timed; the seconds of the processor are its own and those
of its workers. The peak of memory is the kernel's mark of resident pages, which counts pages of mapped files that are
only cached; "own" leaves these out, and is looked up every 10 milliseconds. The growth of a row is the exponent from
the row before it to this; 1 is linear. The exponent that counts fits all rows, by least squares of the logarithms.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tifffile

from vitrail.synthetic import write_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

BLOCK_PX, MPP = 4096, 0.25
SMALL_PX, SMALL_MPP = 2048, 0.5
ENCODER = "test_efficientnet"
STARTS = 5
PARTS = ("slide", "cohort", "start")
WORKED = 1.0  # seconds that tell a worker from a helper that asks the system something
EXPONENT, PEAK = 1.1, 1.3
STATUS = Path("/proc/self/status")


def enlarge(block: Path, target: Path, times: int) -> Path:
    """Repeat a square slide's JPEG tiles side by side, in all levels that consist of whole tiles."""
    with tifffile.TiffFile(block) as tiff, block.open("rb") as file, tifffile.TiffWriter(target, bigtiff=True) as out:
        for number, page in enumerate(page for page in tiff.pages if page.imagewidth % page.tilewidth == 0):
            streams = [_stream(file, at, size) for at, size in zip(page.dataoffsets, page.databytecounts, strict=True)]
            rows = np.arange(len(streams)).reshape(page.imagelength // page.tilelength, -1)
            out.write(
                (streams[index] for index in np.tile(rows, (times, times)).ravel()),
                shape=(page.imagelength * times, page.imagewidth * times, 3), dtype=np.uint8, tile=page.tile,
                compression="jpeg", photometric=page.photometric, subsampling=page.subsampling,
                jpegtables=page.jpegtables, resolution=page.resolution, resolutionunit=page.resolutionunit,
                metadata=None, subfiletype=int(number > 0),
            )  # fmt: skip
    return target


def _stream(file, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)


def write_networks(folder: Path) -> None:
    """Write untrained networks."""
    import torch  # noqa: PLC0415 - the other processes need none of it

    from vitrail.models.spec import ClassifierSpec, SegmenterSpec  # noqa: PLC0415 - as above
    from vitrail.models.store import build, save_model  # noqa: PLC0415 - as above

    shared = {"encoder": ENCODER, "side_um": 199.1, "side_px": 224, "mean": (0.7, 0.5, 0.6), "std": (0.2, 0.25, 0.15)}
    torch.manual_seed(0)
    specs = ClassifierSpec(**shared, dense=64, dropout=0.2), SegmenterSpec(**shared, decoder=(32, 16, 16, 8, 8))
    for spec in specs:
        (folder / spec.task).mkdir(parents=True)
        save_model(folder / spec.task, build(spec), spec)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a piece of work took: seconds of the clock and of the processor, and bytes.

    `peak` is resident memory, `own` that without pages of files, `workers` the peak of the largest worker process.
    """

    seconds: float
    cpu: float
    peak: float
    own: float
    workers: float


@dataclass(slots=True)
class Watch:
    """Looks up this process's own memory now and then."""

    most: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Look until it is over."""
        while not self._over.wait(0.01):
            self.most = max(self.most, status("RssAnon"))

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look while a block runs."""
        thread = threading.Thread(target=self.look)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()


def status(name: str) -> float:
    """Return a figure of the kernel's about this process, in bytes; NaN where it has none."""
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("nan")
    return next((1024 * float(line.split()[1]) for line in lines if line.startswith(f"{name}:")), float("nan"))


def processor() -> float:
    """Return the seconds of the processor of this process and of its workers that have ended."""
    return sum(os.times()[:4])


def watched(prepare: Callable[..., Callable[[], object]], arguments: tuple, parent: Connection) -> None:
    """Do a piece of work and tell what it took; `prepare` imports what it needs, and returns it."""
    work, watch = prepare(*arguments), Watch()
    began, used = time.perf_counter(), processor()
    with watch.looking():
        work()
    seconds, used = time.perf_counter() - began, processor() - used
    parent.send(Spent(seconds=seconds, cpu=used, peak=status("VmHWM"), own=watch.most, workers=workers_peak()))


def workers_peak() -> float:
    """Return the peak of the largest worker that has ended, in bytes; 0 where none has done any work."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_maxrss * 1024.0 if children.ru_utime > WORKED else 0.0


def alone(prepare: Callable[..., Callable[[], object]], *arguments) -> Spent:
    """Do a piece of work in a fresh process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=watched, args=(prepare, arguments, there))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        raise SystemExit("the work above ended with an error") from None
    finally:
        process.join()


def prediction(slide: Path, models: Path, out: Path) -> Callable[[], object]:
    """Prepare to map a slide."""
    from vitrail.pipeline.predict_slides import Application, apply_models  # noqa: PLC0415 - only here

    job = Application(classifier=models / "classifier", segmenter=models / "segmenter", out=out)
    return lambda: apply_models([slide], job)


def tiling(slides: list[Path], count: int, folder: Path) -> Callable[[], object]:
    """Prepare to cut a cohort of so many slides."""
    from vitrail.core.progress import Silent  # noqa: PLC0415 - as above
    from vitrail.settings.load import Settings  # noqa: PLC0415 - only here
    from vitrail.slides.cohort import CohortSlide  # noqa: PLC0415 - as above
    from vitrail.tiles.cohort import Folders, cut_cohort  # noqa: PLC0415 - as above

    (folder / "parts").mkdir(parents=True)
    listed = [(f"S{number:04}", slides[number % len(slides)]) for number in range(count)]
    outlines = {slide: slide.parents[1] / "annotations" / f"{slide.stem}.geojson" for slide in slides}
    entries = tuple(
        CohortSlide(slide_id=name, patient_id=name, slide=slide, annotations=outlines[slide]) for name, slide in listed
    )
    folders = Folders(result=folder, parts=folder / "parts", earlier=folder / "none")
    return lambda: cut_cohort(entries, Settings(), folders, Silent())


def exponent(sizes: list[float], seconds: list[float]) -> float:
    """Return the power of the size that time grows with."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def middle(rounds: list[Spent]) -> Spent:
    """Return the medians over rounds."""
    names = Spent.__dataclass_fields__
    return Spent(**{name: float(np.median([getattr(spent, name) for spent in rounds])) for name in names})


def show(unit: str, sizes: list[float], measured: list[list[Spent]], names: list[str]) -> list[Spent]:
    """Print a table; return the medians."""
    taken = [middle(rounds) for rounds in measured]
    print(f"  {'':14}{'s':>8} {'(min..max)':15}{'CPU s':>8}{f'ms/{unit}':>10}{'CPU ms':>9}{'growth':>8}", end="")
    print(f"{'peak MB':>10}{'own':>7}{'worker':>8}")
    for number, (name, size, each) in enumerate(zip(names, sizes, taken, strict=True)):
        clock = [spent.seconds for spent in measured[number]]
        rates = f"{1e3 * each.seconds / size:>10.1f}{1e3 * each.cpu / size:>9.1f}"
        pair = slice(number - 1, number + 1)
        power = f"{exponent(sizes[pair], [spent.seconds for spent in taken[pair]]):8.2f}" if number else f"{'':8}"
        print(
            f"  {name:14}{each.seconds:8.1f} {f'({min(clock):.1f}..{max(clock):.1f})':15}{each.cpu:8.1f}{rates}{power}"
            f"{each.peak / 1e6:10.0f}{each.own / 1e6:7.0f}{each.workers / 1e6:8.0f}",
            flush=True,
        )
    return taken


def goal(text: str, value: float, most: float, unit: str = "") -> None:
    """Print a goal and whether this run meets it."""
    word = "not measured" if np.isnan(value) else "met" if value <= most else "NOT met"
    print(f"  {text:64}{value:6.2f}{unit:2}  {word}")


def growth_goals(sizes: list[float], taken: list[Spent]) -> None:
    """Print whether time is linear and memory flat."""
    goal(f"time linear, exponent at most {EXPONENT}", exponent(sizes, [spent.seconds for spent in taken]), EXPONENT)
    cpu = exponent(sizes, [spent.cpu for spent in taken])
    goal("the same of the processor's seconds", cpu, EXPONENT)
    goal(f"memory flat, peak at most {PEAK} times", taken[-1].peak / taken[0].peak, PEAK)
    goal("the same of its own memory", taken[-1].own / taken[0].own, PEAK)


def slides_of(folder: Path, thousands: list[int]) -> Iterator[tuple[int, Path]]:
    """Yield slides of so many thousand pixels; a repeated one is removed behind its use."""
    block = write_slide(folder, "block", side_px=BLOCK_PX, mpp=MPP, seed=7)
    for size in thousands:
        times = size * 1024 // BLOCK_PX
        target = folder / f"wide-{size}.tif"
        yield size, enlarge(block, target, times)
        target.unlink()


def measure_slides(folder: Path, thousands: list[int], rounds: int) -> tuple[list[float], list[list[Spent]]]:
    """Map slides of growing size."""
    write_networks(folder / "models")
    measured = []
    for _, slide in slides_of(folder, thousands):
        measured.append([])
        for number in range(rounds):
            out = folder / f"out-{number}"
            measured[-1].append(alone(prediction, slide, folder / "models", out))
            shutil.rmtree(out)
    return [(size * 1024) ** 2 / 1e6 for size in thousands], measured


def measure_cohorts(folder: Path, counts: list[int], rounds: int) -> list[list[Spent]]:
    """Cut cohorts of growing size."""
    slides = [write_slide(folder, f"small-{seed}", side_px=SMALL_PX, mpp=SMALL_MPP, seed=seed) for seed in range(3)]
    measured = []
    for count in counts:
        measured.append([])
        for _ in range(rounds):
            measured[-1].append(alone(tiling, slides, count, folder / "tiles"))
            shutil.rmtree(folder / "tiles")
    return measured


def start_seconds(command: list[str]) -> float:
    """Return the median seconds that a command takes, from start to end."""
    taken = []
    for _ in range(STARTS):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - the user's own interpreter
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def measure_start() -> None:
    """Print how long a start takes."""
    script = Path(sys.executable).with_name("vitrail")
    command = [str(script)] if script.is_file() else [sys.executable, "-m", "vitrail"]
    goal("vitrail --help, at most 0.5 s", start_seconds([*command, "--help"]), 0.5, " s")
    goal("import vitrail, at most 1 s", start_seconds([sys.executable, "-c", "import vitrail"]), 1.0, " s")
    print(f"  {'(of that Python itself)':64}{start_seconds([sys.executable, '-c', 'pass']):6.2f} s")


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="also 32 thousand pixels and 1000 slides")
    parser.add_argument("--thousands", type=int, nargs="+", help="of pixels, other sizes of slides; multiples of 4")
    parser.add_argument("--slides", type=int, nargs="+", help="other sizes of cohorts")
    parser.add_argument("--only", action="append", choices=PARTS, help="a part to measure")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the phantoms are for a while; the system's own without it")
    options = parser.parse_args(argv)
    parts = options.only or PARTS
    print(f"{options.rounds} rounds, {os.cpu_count()} cores, load of the machine {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        if "slide" in parts:
            report_slides(Path(temporary), options)
        if "cohort" in parts:
            report_cohorts(Path(temporary), options)
    if "start" in parts:
        print("\nvitrail starts")
        measure_start()
    print(f"\nload of the machine at the end {os.getloadavg()[0]:.1f}")


def report_slides(folder: Path, options: argparse.Namespace) -> None:
    """Measure and print how a slide's size counts."""
    thousands = options.thousands or [4, 8, 16, *([32] if options.large else [])]
    print("\nvitrail predict SLIDE, by million pixels")
    areas, measured = measure_slides(folder, thousands, options.rounds)
    growth_goals(areas, show("Mpx", areas, measured, [f"{size} x 1024 px" for size in thousands]))


def report_cohorts(folder: Path, options: argparse.Namespace) -> None:
    """Measure and print how the number of slides counts."""
    counts = options.slides or [10, 100, *([1000] if options.large else [])]
    sizes = [float(count) for count in counts]
    print("\nvitrail tiles, by slide")
    measured = measure_cohorts(folder, counts, options.rounds)
    growth_goals(sizes, show("slide", sizes, measured, [f"{count} slides" for count in counts]))


if __name__ == "__main__":
    main()
