"""A whole slide cut into tiles of 224 px at 0.887 um per pixel: Vitrail beside those that cut slides, too.

    python -m bench.tile [--peers FOLDER] [--without NAME]... [--rounds N] [--processes N] [--side PX] [--folder FOLDER]

Vitrail does all that `vitrail tiles` does: it reads the outlines, labels every tile, cuts pixels and masks, and stores
both with the table. The outlines cover the whole slide, and no cap holds, so that every tile of the grid is cut. The
peers (TIAToolbox, histolab, PathML, dlup, LazySlide with fastslide, Slideflow with libvips) get the pixels of the same
grid and nothing else, except histolab, which always writes a PNG file a tile, and cuts level 0 at its own resolution
where there is no other. A peer is run where FOLDER/<name>/bin/python has it installed.

The slide repeats the JPEG tiles of a phantom of 4096 px. It is read as it is, with a level reduced by 4, and from a
copy of its level 0 alone. Each round asks all of them, in an order that is drawn anew, in processes that have imported
everything and cut the phantom before. With --processes 2, two of each cut the slide at once. Vitrail cuts it with a
thread a core, as for users, and once more with one, whose tiles a second of the processor are compared. What counts is
tiles a second, and, on a machine with other work, tiles a second of the processor.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from bench.growth import enlarge
from bench.read import ONE_CORE, Worker, without_pyramid

from vitrail.synthetic import write_slide

BLOCK_PX = 4096
FASTER, FASTER_FLAT = 2.0, 5.0
MPP = 0.2217
"""Of the phantom: a tile of 199.1 um has 898 pixels, four times 224."""

VITRAIL = """
from vitrail.settings.load import Settings
from vitrail.core.progress import Silent
from vitrail.slides.cohort import CohortSlide
from vitrail.tiles.cohort import Folders, cut_cohort
cap = 10**6
def tile(path, folder):
    settings = Settings.model_validate({{
        "slides": {{"reading": {mode!r}}}, "compute": {{"workers": 1}},
        "tiles": {{"max_tumor": cap, "max_non_tumor": cap}},
    }})
    entry = CohortSlide(slide_id="S", patient_id="P", slide=Path(path), annotations=Path(path).with_suffix(".geojson"))
    (folder / "parts").mkdir()
    cut_cohort((entry,), settings, Folders(result=folder, parts=folder / "parts", earlier=folder / "none"), Silent())
    return len(np.load(folder / "images.npy", mmap_mode="r"))
"""

TIATOOLBOX = """
from tiatoolbox.tools.patchextraction import SlidingWindowPatchExtractor
from tiatoolbox.wsicore.wsireader import OpenSlideWSIReader
def tile(path, folder):
    tiles = SlidingWindowPatchExtractor(
        OpenSlideWSIReader(path), (224, 224), resolution=199.1 / 224, units="mpp", within_bound=True
    )
    return sum(1 for i in range(len(tiles)) if tiles[i].size)
"""

HISTOLAB = """
from histolab.masks import TissueMask
from histolab.slide import Slide
from histolab.tiler import GridTiler
class Whole(TissueMask):
    def _mask(self, slide):
        return np.ones(slide.thumbnail.size[::-1], bool)
def tile(path, folder):
    slide = Slide(path, processed_path=str(folder))
    level = min(1, len(slide.levels) - 1)
    side = (round(199.1 / MPP), 224)[level]
    tiler = GridTiler(tile_size=(side, side), level=level, check_tissue=False)
    tiler.extract(slide, extraction_mask=Whole(), log_level="ERROR")
    return sum(1 for _ in folder.glob("*.png"))
"""

PATHML = """
from PIL import Image
from pathml.core import SlideData
def tile(path, folder):
    slide = SlideData(path, backend="openslide")
    side = round(199.1 / MPP)
    tiles = slide.generate_tiles(shape=side, stride=side, level=0)
    return sum(1 for tile in tiles if Image.fromarray(tile.image).resize((224, 224), Image.Resampling.BOX))
"""

DLUP = """
from dlup import SlideDataset, TilingConfig
def tile(path, folder):
    tiles = SlideDataset.from_standard_tiling(
        path, tiling_config=TilingConfig(mpp=199.1 / 224, tile_size=(224, 224), tile_mode="skip")
    )
    return sum(1 for i in range(len(tiles)) if np.asarray(tiles[i].image).size)
"""

LAZYSLIDE = """
import lazyslide
from shapely.geometry import box
from wsidata import open_wsi
from wsidata.io import add_tissues
def tile(path, folder):
    slide = open_wsi(path, store=None, reader="fastslide")
    height, width = slide.properties.shape
    add_tissues(slide, "tissues", [box(0, 0, width, height)], ids=[0])
    lazyslide.pp.tile_tissues(slide, 224, mpp=199.1 / 224, background_filter=False)
    return sum(1 for tile in slide.iter.tile_images("tiles") if tile.image.shape == (224, 224, 3))
"""

SLIDEFLOW = """
import os
os.environ |= {"SF_SLIDE_BACKEND": "libvips", "SF_BACKEND": "torch"}
os.chdir(tempfile.gettempdir())  # it leaves a log wherever it is
import slideflow
def tile(path, folder):
    slide = slideflow.WSI(path, 224, 199, roi_method="ignore", verbose=False, mpp=MPP)
    tiles = slide.build_generator(shuffle=False, whitespace_fraction=1, grayspace_fraction=1, num_threads=1)
    return sum(1 for tile in tiles() if tile["image"].shape == (224, 224, 3))
"""

TILERS = {
    "Vitrail fast": ("", VITRAIL.format(mode="fast")),
    "Vitrail one thread": ("", ONE_CORE + VITRAIL.format(mode="fast")),
    "Vitrail faithful": ("", VITRAIL.format(mode="faithful")),
    "TIAToolbox": ("tiatoolbox", TIATOOLBOX),
    "histolab": ("histolab", HISTOLAB),
    "PathML": ("pathml", PATHML),
    "dlup": ("dlup", DLUP),
    "LazySlide": ("lazyslide", LAZYSLIDE),
    "Slideflow": ("slideflow", SLIDEFLOW),
}
"""Name of a row: the environment (none: Vitrail's own), and the code that defines `tile(path, folder)`."""

WORKER = """
import json, os, sys, tempfile, time, warnings
from pathlib import Path
answers = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries print as they please
warnings.simplefilter("ignore")
import numpy as np
MPP = {mpp}
{code}
print("ready", file=answers, flush=True)
for line in sys.stdin:
    path, = json.loads(line)
    with tempfile.TemporaryDirectory() as folder:
        begun, used = time.perf_counter(), sum(os.times()[:4])
        count = tile(path, Path(folder))
        seconds, used = time.perf_counter() - begun, sum(os.times()[:4]) - used
    print(json.dumps([count, seconds, used]), file=answers, flush=True)
"""


def cover(slide: Path, side: int) -> None:
    """Write outlines that leave nothing out, beside a slide: tumor on the left, non-tumor on the right."""

    def half(name: str, left: float, right: float):
        ring = [[left, 0], [right, 0], [right, side], [left, side], [left, 0]]
        return {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"classification": {"name": name}},
        }

    halves = [half("Tumor", 0, side / 2), half("Non-tumor", side / 2, side)]
    slide.with_suffix(".geojson").write_text(json.dumps({"type": "FeatureCollection", "features": halves}))


class Row:
    """The processes of one row of the table."""

    def __init__(self, python: Path, code: str, processes: int) -> None:
        self.workers = [Worker(python, WORKER.format(mpp=MPP, code=code)) for _ in range(processes)]
        self.runs = all(worker.runs for worker in self.workers)

    def ask(self, slide: Path) -> tuple[float, float, float] | None:
        """Return tiles of each process, and tiles a second of all together: of the clock, and of the processor."""
        with ThreadPoolExecutor(len(self.workers)) as pool:
            answers = list(pool.map(lambda worker: worker.ask(str(slide)), self.workers))
        self.runs = all(answers)
        if not self.runs:
            return None
        counts, seconds, used = zip(*answers, strict=True)
        return counts[0], sum(counts) / max(seconds), sum(counts) / sum(used)

    def failure(self) -> str:
        """Return what a dead process complained about."""
        dead = next((worker for worker in self.workers if not worker.runs), self.workers[0])
        return dead.failure()[:80]

    def close(self) -> None:
        """End the processes."""
        for worker in self.workers:
            worker.close()


def start(options: argparse.Namespace) -> dict[str, Row]:
    """Start the processes of each tiler that is installed, and say which are not."""
    print("TRIDENT: not run: no package index has it")
    rows = {}
    for name in (name for name in TILERS if name not in options.without):
        environment, code = TILERS[name]
        python = options.peers / environment / "bin" / "python" if environment else Path(sys.executable)
        if not python.is_file():
            print(f"{name}: not installed")
            continue
        row = Row(python, code, options.processes)
        if row.runs:
            rows[name] = row
        else:
            print(f"{name}: does not start ({row.failure()})")
    return rows


def report(title: str, slide: Path, rows: dict[str, Row], rounds: int) -> dict[str, np.ndarray]:
    """Print the table of one slide; return the medians of those that did it."""
    rng, answers = np.random.default_rng(0), {name: [] for name in rows}
    for _ in range(rounds):
        for name in rng.permutation(list(rows)).tolist():
            answers[name].append(rows[name].ask(slide) if rows[name].runs else None)
    print(
        f"\n{title}: {rounds} rounds\n{'':<20}{'tiles':>7}{'tiles/s':>9}{'lowest':>9}{'highest':>9}{'a CPU second':>14}"
    )
    medians = {}
    for name, row in rows.items():
        if not row.runs:
            print(f"{name:<20} does not do it: {row.failure()}")
            continue
        count, rate, cpu = medians[name] = np.median(answers[name], axis=0)
        rates = [answer[1] for answer in answers[name]]
        print(f"{name:<20}{count:>7.0f}{rate:>9.0f}{min(rates):>9.0f}{max(rates):>9.0f}{cpu:>14.0f}", flush=True)
    return medians


def judge(measured: dict[str, np.ndarray], target: float) -> None:
    """Print how many times as fast as the fastest peer Vitrail is."""
    peers = [name for name in measured if not name.startswith("Vitrail")]
    for column, kind in ((1, "the clock"), (2, "the processor")):
        own = "Vitrail fast" if column == 1 else "Vitrail one thread"
        if peers and own in measured:
            best = max(peers, key=lambda name: measured[name][column])
            times = measured[own][column] / measured[best][column]
            word = "met" if times >= target else "NOT met"
            print(f"by {kind}, {times:.1f} times {best}; goal: {target:.0f} times the fastest, {word}")


def main() -> None:
    """Measure a slide with a pyramid, and its level 0 alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=Path("peers"), help="folder of virtual environments")
    parser.add_argument("--without", action="append", default=[], help="a row to leave out, as histolab, which is slow")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1, help="of each row, at once")
    parser.add_argument("--side", type=int, default=5 * BLOCK_PX, help=f"of the slide; a multiple of {BLOCK_PX} px")
    parser.add_argument("--folder", type=Path, help="where to keep the phantom; a temporary folder without it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        block = write_slide(options.folder or Path(temporary), "tiling", side_px=BLOCK_PX, mpp=MPP, seed=7)
        drawn = enlarge(block, Path(temporary) / "drawn.tif", options.side // BLOCK_PX)
        flat = without_pyramid(drawn, Path(temporary) / "flat.tif")
        for slide, side in ((block, BLOCK_PX), (drawn, options.side), (flat, options.side)):
            cover(slide, side)
        rows = start(options)
        try:
            for row in rows.values():
                row.ask(block)  # what is done only once is done now
            judge(report("Level 0 alone", flat, rows, options.rounds), FASTER_FLAT)
            judge(report("With a level reduced by 4", drawn, rows, options.rounds), FASTER)
        finally:
            for row in rows.values():
                row.close()


if __name__ == "__main__":
    main()
