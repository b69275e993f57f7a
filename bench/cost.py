"""What a cohort costs: hours of one machine and gigabytes of disk for 100, 700 and 10,000 slides.

    python -m bench.cost SLIDE [--models RUN] [--tissue MM2] [--gigabytes GB] [--tiles-a-slide N] [--epochs N]
                         [--tiling TILES_PER_S] [--training CLASSIFIER SEGMENTER] [--rounds N] [--threads N]

Whole slides: SLIDE is mapped as `vitrail predict` does it, alone, with explanations, and its nuclei are measured; what
it takes and what it leaves on disk is counted for each square millimetre of its tissue and multiplied by --tissue. The
networks are those of RUN, or untrained ones of the paper's size (EfficientNet-B0, 224 px), explained by Grad-CAM alone.
Studies: the rates of tiling and training, in tiles a second, are to be those that bench.tile and bench.train print on
the same machine (without them, those of another processor in bench/README.md); they are multiplied by the tiles that
are cut of a slide, and by epochs. All is arithmetic on these measurements: nothing
of that size was run. Reading over a network and slides that cannot be read are not in it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from bench.predict import networks

from vitrail.core.files import read_json
from vitrail.pipeline.nuclei_of_slides import NucleiJob, find_nuclei
from vitrail.pipeline.predict_slides import Application, apply_models, settings_from

COHORTS = 100, 700, 10_000
BYTES_OF_A_PIXEL = 4  # of a tile: three colours and the mask


def weight(folder: Path) -> int:
    """Return the bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def mapped(slide: Path, models: Path, folder: Path, *changes: str) -> tuple[float, int, float]:
    """Map a slide; return seconds, bytes that it left, and square millimetres of tissue."""
    job = Application(
        classifier=models / "classifier", segmenter=models / "segmenter", out=folder, settings=settings_from(changes)
    )
    begun = time.perf_counter()
    apply_models([slide], job)
    return time.perf_counter() - begun, weight(folder), read_json(folder / f"{slide.stem}.json")["tissue_mm2"]


def nuclei(slide: Path, folder: Path) -> tuple[float, int]:
    """Measure the nuclei of a slide; return seconds, and bytes that it left."""
    begun = time.perf_counter()
    find_nuclei([slide], NucleiJob(out=folder, settings=settings_from(())))
    return time.perf_counter() - begun, weight(folder)


def measured(options: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Return seconds and megabytes for a square millimetre of tissue, by what is done; the median of all rounds."""
    seconds: dict[str, list[float]] = {"both networks": [], "and explanations": [], "and nuclei": []}
    left: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = networks(options, folder)
        mapped(options.slide, models, folder / "warm")  # compiles, and fills caches
        for number in range(options.rounds):
            base, own, area = mapped(options.slide, models, folder / f"maps{number}")
            why = ["predict.explained=true", *([] if options.models else ['explain.methods=["gradcam"]'])]
            more, explained, _area = mapped(options.slide, models, folder / f"why{number}", *why)
            alone, cells = nuclei(options.slide, folder / f"nuclei{number}")
            for key, value, size in (
                ("both networks", base, own),
                ("and explanations", more - base, explained - own),
                ("and nuclei", alone, cells),
            ):
                seconds[key].append(value / area)
                left[key] = size / area / 1e6
    return {key: (statistics.median(values), left[key]) for key, values in seconds.items()}


def show(options: argparse.Namespace, costs: dict[str, tuple[float, float]]) -> None:
    """Print both tables."""
    print(f"{options.slide.name}, {options.rounds} rounds, {torch.get_num_threads()} threads: for a mm2 of tissue")
    for key, (seconds, megabytes) in costs.items():
        print(f"  {key:<20} {seconds:7.2f} s  {megabytes:7.2f} MB")
    print(f"\nslides with {options.tissue:g} mm2 of tissue and {options.gigabytes:g} GB each")
    print("slides            " + "".join(f"{f'{count:,}':>22}" for count in COHORTS))
    rows = {
        key: [(count * options.tissue * value / 3600, count * options.tissue * size / 1000) for count in COHORTS]
        for key, (value, size) in costs.items()
    }
    tiles = [count * options.tiles_a_slide for count in COHORTS]
    rows["tiles cut"] = [
        (count / options.tiling / 3600, count * options.side**2 * BYTES_OF_A_PIXEL / 1e9) for count in tiles
    ]
    for task, rate in zip(("classifier", "segmenter"), options.training, strict=True):
        rows[f"{task} trained"] = [(0.8 * count * options.epochs / rate / 3600, 0.0) for count in tiles]
    for key, row in rows.items():
        print(f"{key:<18}" + "".join(f"{f'{hours:,.1f} h {size:,.1f} GB':>22}" for hours, size in row))
    print("the slides        " + "".join(f"{f'{count * options.gigabytes:,.0f} GB':>22}" for count in COHORTS))


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.cost", description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--models", type=Path, help="a finished run")
    parser.add_argument("--tissue", type=float, default=150.0, help="square millimetres of tissue on a slide")
    parser.add_argument("--gigabytes", type=float, default=2.8, help="of a slide")
    parser.add_argument("--tiles-a-slide", type=int, default=300, help="cut for training")
    parser.add_argument("--side", type=int, default=224, help="pixels of a tile")
    parser.add_argument("--epochs", type=int, default=20, help="of each training")
    parser.add_argument("--tiling", type=float, default=246.0, help="tiles a second, from bench.tile")
    parser.add_argument("--training", type=float, nargs=2, default=(18.3, 7.1), help="tiles a second, from bench.train")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    show(options, measured(options))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
