"""A whole slide cut into tiles of 224 px at 0.887 um per pixel: Vitrail beside TIAToolbox, histolab, PathML and dlup.

    python -m bench.tile [--peers FOLDER] [--without NAME]... [--rounds N] [--side PX] [--folder FOLDER]

Vitrail does all that `vitrail tiles` does, in one process: it reads the outlines, labels every tile, cuts pixels and
masks, and stores both with the table. The outlines cover the whole phantom, and no cap holds, so that every tile of the
grid is cut. The peers get the pixels of the same grid and nothing else, except histolab, which always writes a PNG file
a tile, and cuts level 0 at its own resolution where there is no other. A peer is run where FOLDER/<name>/bin/python has
it installed. The slide is read as it is, with a level reduced by 4, and from a copy of its level 0 alone. Each round
asks all of them, in an order that is drawn anew, in processes that have imported everything before. What counts is
tiles a second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from bench.read import Worker, without_pyramid

from vitrail.slides.phantom import write_slide

MPP = 0.2217
"""Of the phantom: a tile of 199.1 um has 898 pixels, four times 224."""

VITRAIL = """
from vitrail.config import Settings
from vitrail.progress import Silent
from vitrail.slides.cohort import CohortSlide
from vitrail.tiles.cohort_tiles import Folders, cut_cohort
cap = 10**9
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

TILERS = {
    "Vitrail fast": ("", VITRAIL.format(mode="fast")),
    "Vitrail faithful": ("", VITRAIL.format(mode="faithful")),
    "TIAToolbox": ("tiatoolbox", TIATOOLBOX),
    "histolab": ("histolab", HISTOLAB),
    "PathML": ("pathml", PATHML),
    "dlup": ("dlup", DLUP),
}
"""Name of a row: the environment (none: Vitrail's own), and the code that defines `tile(path, folder)`."""

WORKER = """
import json, sys, tempfile, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import numpy as np
MPP = {mpp}
{code}
print("ready", flush=True)
for line in sys.stdin:
    path, = json.loads(line)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        count = tile(path, Path(folder))
        seconds = time.perf_counter() - begun
    print(json.dumps([count, seconds]), flush=True)
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


def start(peers: Path, without: list[str]) -> dict[str, Worker]:
    """Start a process for each tiler that is installed, and say which are not."""
    workers = {}
    for name in (name for name in TILERS if name not in without):
        environment, code = TILERS[name]
        python = peers / environment / "bin" / "python" if environment else Path(sys.executable)
        if not python.is_file():
            print(f"{name}: not installed")
            continue
        worker = Worker(python, WORKER.format(mpp=MPP, code=code))
        if worker.runs:
            workers[name] = worker
        else:
            print(f"{name}: does not start ({worker.failure()[:80]})")
    return workers


def report(title: str, slide: Path, workers: dict[str, Worker], rounds: int) -> None:
    """Print the table of one slide."""
    rng, answers = np.random.default_rng(0), {name: [] for name in workers}
    for _ in range(rounds):
        for name in rng.permutation(list(workers)).tolist():
            answer = workers[name].ask(str(slide)) if workers[name].runs else None
            answers[name].append(answer)
            workers[name].runs = answer is not None
    print(f"\n{title}: {rounds} rounds\n{'':<18}{'tiles':>7}{'tiles/s':>9}{'lowest':>9}{'highest':>9}")
    for name, worker in workers.items():
        if not worker.runs:
            print(f"{name:<18} does not do it: {worker.failure()[:80]}")
            continue
        rates = [count / seconds for count, seconds in answers[name]]
        middle = statistics.median(rates)
        print(f"{name:<18}{answers[name][0][0]:>7}{middle:>9.0f}{min(rates):>9.0f}{max(rates):>9.0f}", flush=True)


def main() -> None:
    """Measure a phantom with a pyramid, and its level 0 alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=Path("peers"), help="folder of virtual environments")
    parser.add_argument("--without", action="append", default=[], help="a row to leave out, as histolab, which is slow")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=8192, help="of the phantom, in pixels")
    parser.add_argument("--folder", type=Path, help="where to keep the phantom; a temporary folder without it")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        drawn = write_slide(given.folder or Path(temporary), "tiling", side_px=given.side, mpp=MPP, seed=7)
        flat = without_pyramid(drawn, Path(temporary) / "flat.tif")
        cover(drawn, given.side)
        cover(flat, given.side)
        for title, slide in (("Level 0 alone", flat), ("With a level reduced by 4", drawn)):
            workers = start(given.peers, given.without)
            try:
                report(title, slide, workers, given.rounds)
            finally:
                for worker in workers.values():
                    worker.close()


if __name__ == "__main__":
    main()
