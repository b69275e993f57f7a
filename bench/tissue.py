"""Tissue masks compared: Vitrail, TIAToolbox, histolab, PathML and plain Otsu.

    python -m bench.tissue --data ../shared/data [--peers FOLDER] [--work FOLDER] [--quick]

Slides: the annotated colon slide, every fifth core of ORCA, and phantoms with their true tissue; then colour changes of
colon slide and phantoms. ORCA has no tissue masks: what is outlined stands in for it, and leaves out loose tissue and,
in some cores, plain stroma; its figures punish a mask that finds them. The colon slide was looked at while the method
was made, the phantoms here were not. A peer is run where FOLDER/<name>/bin/python has it installed. Vitrail
gets 8 um/px; every other method gets 2, 4 and 8 um/px, and the scale that suits it best on a slide counts.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from vitrail.quality.tissue import tissue_mask
from vitrail.settings.schema import TissueSettings
from vitrail.slides.annotations import ClassNames, read_annotations
from vitrail.slides.rasterize import rasterize
from vitrail.slides.readers.resample import area_resample
from vitrail.slides.slide import open_slide, read_region
from vitrail.synthetic import write_slide

SCALES_UM = (2.0, 4.0, 8.0)
PHANTOMS = ((201, 2048), (202, 2048), (203, 3072), (204, 4096), (205, 3072), (206, 3072), (207, 2048), (208, 3072))
"""Seed and side; none of these was looked at while the method was made (those were 101 to 108)."""
NAMES = ClassNames(tumor=("Tumor",), non_tumor=("Non-tumor",), ignore=())

MASKERS = {
    "tiatoolbox otsu": (
        "tiatoolbox",
        """
from tiatoolbox.tools.tissuemask import OtsuTissueMasker
mask = lambda rgb, um: OtsuTissueMasker().fit_transform([rgb])[0]
""",
    ),
    "tiatoolbox morphological": (
        "tiatoolbox",
        """
from tiatoolbox.tools.tissuemask import MorphologicalMasker
mask = lambda rgb, um: MorphologicalMasker(mpp=um).fit_transform([rgb])[0]
""",
    ),
    "histolab TissueMask": (
        "histolab",
        """
from histolab.filters.compositions import FiltersComposition
from histolab.slide import Slide
from PIL import Image
mask = lambda rgb, um: FiltersComposition(Slide).tissue_mask_filters(Image.fromarray(rgb))
""",
    ),
    "pathml TissueDetectionHE": (
        "pathml",
        """
from pathml.preprocessing import TissueDetectionHE
mask = lambda rgb, um: TissueDetectionHE(mask_name="tissue").F(rgb)
""",
    ),
}
"""Name of a row: the environment, and the code that defines `mask(rgb, um_per_px)` by the peer's public function."""

LOOP = """
import json, sys
import numpy as np
for line in open(sys.argv[1]):
    source, target, um = json.loads(line)
    try:
        np.save(target, np.asarray(mask(np.load(source), um)) > 0)
    except Exception as error:
        print(source, type(error).__name__, error, file=sys.stderr)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A picture with its true tissue on the same grid."""

    group: str
    name: str
    rgb: np.ndarray
    truth: np.ndarray
    um: float

    def at(self, um: float) -> tuple[np.ndarray, float]:
        """Return the picture at another scale, and that scale; never finer than it is."""
        height, width = self.rgb.shape[:2]
        own = self.um * self.truth.shape[1] / width
        um = max(um, own)
        size = max(1, round(width * own / um)), max(1, round(height * own / um))
        return area_resample(self.rgb, (0, 0, width, height), size), um


def dice(mask, truth):
    """Return Dice and IoU of a mask of any size, enlarged linearly to the truth's."""
    large = np.asarray(Image.fromarray(np.uint8(mask) * 255).resize(truth.shape[::-1], Image.Resampling.BILINEAR)) > 127
    both, either = np.count_nonzero(large & truth), np.count_nonzero(large | truth)
    return (2 * both / (both + either), both / either) if either else (1.0, 1.0)


def colon(data):
    """Return the annotated colon slide at 2 um/px."""
    slide = open_slide(data / "wsi" / "crc.tif")
    truth = np.asarray(Image.open(data / "wsi" / "crc_tissue.png")) > 0
    return Case(group="crc", name="crc", rgb=read_region(slide, slide.region, (2048, 2048)), truth=truth, um=4.0)


def cores(data, step):
    """Yield cores of ORCA; the seams between outlines are closed."""
    for path in sorted((data / "orca" / "slides").glob("*.tif"))[::step]:
        slide = open_slide(path)
        outlines = read_annotations(data / "orca" / "annotations" / f"{path.stem}.geojson", NAMES)
        truth = rasterize(outlines.tumor, slide.region, (512, 512)) | rasterize(
            outlines.non_tumor, slide.region, (512, 512)
        )
        truth = ndimage.binary_closing(np.pad(truth, 4), np.ones((5, 5)))[4:-4, 4:-4]
        rgb = read_region(slide, slide.region, (512, 512))
        yield Case(group="orca", name=path.stem, rgb=rgb, truth=truth, um=slide.mpp)


def phantoms(folder, count):
    """Yield phantoms at 2 um/px."""
    for seed, side in PHANTOMS[:count]:
        slide = open_slide(write_slide(folder, f"phantom{seed}", side_px=side, seed=seed))
        with np.load(folder / "truth" / f"phantom{seed}.npz") as truth:
            types = truth["types"]
        rgb = read_region(slide, slide.region, (side // 4, side // 4))
        yield Case(group="phantom", name=f"phantom{seed}", rgb=rgb, truth=types > 0, um=slide.mpp * side / len(types))


def jpeg(image, quality=75):
    """Return an image after JPEG."""
    file = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(image) + 0.5, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def stained(rgb, factor):
    """Return a picture whose stain is so many times as strong, with noise and JPEG."""
    density = -np.log10(np.maximum(rgb, 1) / 255.0)
    mean = density.mean(-1)
    glass = np.median(density[mean < np.quantile(mean, 0.3)], axis=0)
    noise = np.random.default_rng(0).normal(0, 1, rgb.shape)
    return jpeg(255 * 10 ** -(glass + (density - glass) * factor) + noise)


def lit(rgb, light, fall=0.0):
    """Return a picture in another light, which falls off towards the corners, with noise and JPEG."""
    y, x = (np.linspace(-1, 1, length) for length in rgb.shape[:2])
    shade = 1 - fall * (y[:, None] ** 2 + x**2) / 2
    return jpeg(rgb * np.asarray(light) * shade[..., None] + np.random.default_rng(1).normal(0, 1, rgb.shape))


CHANGES = {
    "stain x0.4": lambda rgb: stained(rgb, 0.4),
    "stain x0.25": lambda rgb: stained(rgb, 0.25),
    "stain x1.8": lambda rgb: stained(rgb, 1.8),
    "grey, vignette": lambda rgb: lit(rgb, 0.85, 0.18),
    "x0.3 + vignette": lambda rgb: lit(stained(rgb, 0.3), 0.85, 0.15),
    "yellow glass": lambda rgb: lit(rgb, (1, 0.96, 0.84)),
    "blue glass": lambda rgb: lit(rgb, (0.86, 0.93, 1)),
}


def changed(case, name):
    """Return a case with changed colours."""
    return Case(group=name, name=f"{case.name} {name}", rgb=CHANGES[name](case.rgb), truth=case.truth, um=case.um)


def framed(case, colour):
    """Return a case with a scan border of one grey level around it."""
    truth, rgb = (np.pad(a, [(a.shape[0] // 12,) * 2] * 2 + [(0, 0)] * (a.ndim - 2), constant_values=v)
                  for a, v in ((case.truth, 0), (case.rgb, colour)))  # fmt: skip
    name = "black border" if colour == 0 else "white border"
    return Case(group=name, name=f"{case.name} {name}", rgb=jpeg(rgb, 85), truth=truth, um=case.um)


def bare(case, *, tissue, factor=1.0):
    """Return a picture of tissue alone, or of glass alone, cut from the middle or painted as the case's glass."""
    name = ("all tissue" if factor == 1 else "faded tissue alone") if tissue else "all glass"
    if not tissue:
        glass = np.quantile(case.rgb, 0.9, axis=(0, 1))
        noise = np.random.default_rng(2).normal(0, 2.5, case.rgb.shape)
        return Case(
            group=name, name=f"{case.name} {name}", rgb=jpeg(glass + noise), truth=case.truth & False, um=case.um
        )
    inner = ndimage.distance_transform_cdt(np.pad(case.truth, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(np.argmax(inner), inner.shape)
    half, scale = int(inner[y, x]) - 2, case.rgb.shape[0] / case.truth.shape[0]
    box = (
        slice(int((y - half) * scale), int((y + half) * scale)),
        slice(int((x - half) * scale), int((x + half) * scale)),
    )
    truth = np.ones((2 * half, 2 * half), bool)
    return Case(group=name, name=f"{case.name} {name}", rgb=stained(case.rgb, factor)[box], truth=truth, um=case.um)


def cases(data, work, *, quick):
    """Return all cases."""
    drawn = list(phantoms(work / "phantoms", 2 if quick else len(PHANTOMS)))
    chosen = [*drawn]
    if data is not None:
        drawn.insert(0, colon(data))
        chosen = [drawn[0], *cores(data, 24 if quick else 5), *chosen]
    few = drawn[:1] + drawn[1:4:2] if quick else drawn[:6]
    chosen += [changed(case, name) for name in CHANGES for case in few]
    chosen += [framed(case, colour) for colour in (0, 255) for case in few]
    chosen += [bare(case, tissue=True, factor=factor) for factor in (1.0, 0.4) for case in few]
    return chosen + [bare(case, tissue=False) for case in few]


def otsu(values):
    """Return Otsu's threshold of values from 0 to 255 (1979, IEEE Trans Syst Man Cybern 9:62)."""
    count = np.bincount(np.clip(values, 0, 255).astype(np.uint8).ravel(), minlength=256).astype(float)
    below, total = np.cumsum(count), np.cumsum(count * np.arange(256))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (total[-1] * below / below[-1] - total) ** 2 / (below * (below[-1] - below))
    return int(np.argmax(np.nan_to_num(between, posinf=0)))


def otsu_grey(rgb, _um):
    """Return what is darker than Otsu's threshold of grey."""
    grey = rgb @ np.array([0.299, 0.587, 0.114])
    return grey <= otsu(grey)


def otsu_saturation(rgb, _um):
    """Return what is more saturated than Otsu's threshold of HSV's saturation."""
    high = rgb.max(-1).astype(float)
    saturation = 255 * (high - rgb.min(-1)) / np.maximum(high, 1)
    return saturation > otsu(saturation)


def vitrail(rgb, um):
    """Return Vitrail's mask."""
    return tissue_mask(rgb, um, TissueSettings())[0]


def own(samples, mask, scales):
    """Return the best Dice and IoU of a function over scales, for every case."""
    return [max(dice(mask(*case.at(um)), case.truth) for um in scales) for case in samples]


def peer(samples, name, peers):
    """Run a peer in its own environment; None where it is not installed."""
    folder, code = MASKERS[name]
    python = peers / folder / "bin" / "python" if peers else None
    if python is None or not python.exists():
        return None
    with tempfile.TemporaryDirectory() as temporary:
        room = Path(temporary)
        targets = defaultdict(list)
        with (room / "jobs").open("w") as jobs:
            for i, scale_um in product(range(len(samples)), SCALES_UM):
                rgb, um = samples[i].at(scale_um)
                source = room / f"{i}_{scale_um:g}.npy"
                targets[i].append(room / f"{i}_{scale_um:g}_mask.npy")
                np.save(source, rgb)
                jobs.write(json.dumps([source.name, targets[i][-1].name, um]) + "\n")
        (room / "run.py").write_text(code + LOOP)
        done = subprocess.run([python, "run.py", "jobs"], cwd=room, capture_output=True, text=True, check=False,  # noqa: S603 - the user names the environment
                              env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
        if done.returncode:
            print(name, done.stderr[-400:])
            return None
        return [best([path for path in targets[i] if path.exists()], samples[i].truth) for i in range(len(samples))]


def best(masks, truth):
    """Return the best Dice and IoU of some masks; those of no tissue at all where the peer gave none."""
    return max((dice(np.load(path), truth) for path in masks), default=dice(np.zeros_like(truth), truth))


def show(samples, rows):
    """Print mean Dice / IoU of every method in every group."""
    groups = list(dict.fromkeys(case.group for case in samples))
    for group in groups:
        chosen = [i for i, case in enumerate(samples) if case.group == group]
        print(f"\n{group} ({len(chosen)})")
        for name, scores in rows.items():
            if scores is None:
                print(f"  {name:26} not installed")
                continue
            values = np.array([scores[i] for i in chosen])
            mean, least = np.nanmean(values, axis=0), np.nanmin(values[:, 0])
            print(f"  {name:26} Dice {mean[0]:.4f}  IoU {mean[1]:.4f}  least Dice {least:.4f}")


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with wsi/ and orca/")
    parser.add_argument("--peers", type=Path, help="folder of virtual environments: tiatoolbox, histolab, pathml")
    parser.add_argument("--work", type=Path, default=Path("bench-tissue"), help="where phantoms are kept")
    parser.add_argument("--quick", action="store_true", help="fewer slides")
    options = parser.parse_args()
    samples = cases(options.data, options.work, quick=options.quick)
    rows = {"Vitrail": own(samples, vitrail, (8.0,))}
    rows |= {name: peer(samples, name, options.peers) for name in MASKERS}
    rows |= {"Otsu on grey": own(samples, otsu_grey, SCALES_UM)}
    rows |= {"Otsu on saturation": own(samples, otsu_saturation, SCALES_UM)}
    show(samples, rows)


if __name__ == "__main__":
    main()
