"""Nuclei outlined: Vitrail's engines, plain pipelines, and networks that the user has.

    python -m bench.nuclei --data ../shared/data [--work FOLDER] [--quick] [--model instanseg=PATH ...]

Fields: CPM-15, at 20x and 40x, taken for 0.5 and 0.25 um/px; CoNSeP at 0.25 um/px, every class; synthetic slides, other
ones than those that the embedded network learnt from. The constants of `embedded` and `classical` were chosen on the
fields of CPM-15 with odd numbers, "cpm-15 odd" here; the even ones and CoNSeP were looked at by nothing before they were
measured. All engines get 0.5 um/px; their labels are enlarged to the field's own pixels without smoothing, and scored
there. StarDist and Cellpose run where they are installed and their weights are there; InstanSeg where `--model` names
its TorchScript.

Means over fields, with the interval of the studentised bootstrap over fields. Megapixels are those of 0.5 um/px, a
second of one core's work.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
import torch
from PIL import Image, ImageDraw
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.feature import peak_local_max
from skimage.filters import apply_hysteresis_threshold, threshold_otsu
from skimage.morphology import remove_small_objects
from skimage.segmentation import watershed

from vitrail.errors import VitrailError
from vitrail.metrics.bootstrap import estimate
from vitrail.metrics.instances import overlaps
from vitrail.nuclei.engines import engine_of
from vitrail.nuclei.scales import WORKING_MPP
from vitrail.settings.schema import NucleiSettings
from vitrail.slides.readers.resample import area_resample
from vitrail.slides.slide import open_slide, read_region
from vitrail.synthetic import write_slide
from vitrail.synthetic.truth import read_truth

LAST_AT_20X = 7
"""Of CPM-15: the fields from 8 on have nuclei twice as many pixels wide."""

SEEDS = range(301, 309)
"""Of synthetic slides; the network learnt from 901 to 908."""

SCORES = ("dice", "aji", "pq", "f1", "precision", "recall")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A picture with its true nuclei."""

    group: str
    image: np.ndarray
    truth: np.ndarray
    mpp: float


def cpm(folder):
    """Yield the fields of CPM-15."""
    for path in sorted(folder.glob("image??.png")):
        number = int(path.stem.removeprefix("image"))
        image = np.asarray(Image.open(path).convert("RGB"))
        truth = np.asarray(Image.open(folder / f"{path.stem}_nuclei.png")).astype(np.int32)
        mpp = 0.5 if number <= LAST_AT_20X else 0.25
        yield Field(group="cpm-15 odd" if number % 2 else "cpm-15 even", image=image, truth=truth, mpp=mpp)


def consep(folder, step):
    """Yield fields of CoNSeP."""
    for path in sorted((folder / "slides").glob("*.tif"))[::step]:
        slide = open_slide(path)
        image = read_region(slide, slide.region, (int(slide.region.width), int(slide.region.height)))
        truth = np.asarray(Image.open(folder / "nuclei" / f"{path.stem}.png")).astype(np.int32)
        yield Field(group="consep", image=image, truth=truth, mpp=slide.mpp)


def synthetic(folder, count):
    """Yield synthetic slides of 512 pixels."""
    for seed in SEEDS[:count]:
        path = write_slide(folder, f"nuclei{seed}", side_px=512, seed=seed)
        slide, picture = open_slide(path), Image.new("I", (512, 512))
        draw = ImageDraw.Draw(picture)
        for number, outline in enumerate(read_truth(path).nuclei, start=1):
            draw.polygon([(x - 0.5, y - 0.5) for x, y in shapely.get_coordinates(outline)], fill=number)
        image = read_region(slide, slide.region, (512, 512))
        yield Field(group="synthetic", image=image, truth=np.asarray(picture), mpp=slide.mpp)


def plain(image):
    """Segment nuclei as a tutorial of scikit-image would: colour deconvolution, Otsu, distance, watershed."""
    stain = ndimage.gaussian_filter(rgb2hed(image)[..., 0], 1)
    return divided(stain > threshold_otsu(stain))


def hysteresis(image):
    """Segment nuclei by two thresholds of colour deconvolution's hematoxylin."""
    stain = ndimage.gaussian_filter(rgb2hed(image)[..., 0], 1)
    high = threshold_otsu(stain)
    return divided(apply_hysteresis_threshold(stain, 0.8 * high, 1.2 * high))


def divided(mask):
    """Divide a mask by a watershed of its distances."""
    mask = remove_small_objects(ndimage.binary_fill_holes(ndimage.binary_opening(mask)), max_size=24)
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), 1)
    peaks = peak_local_max(distance, min_distance=5, labels=ndimage.label(mask)[0])
    seeds = np.zeros(mask.shape, int)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-distance, seeds, mask=mask)


def engines(models):
    """Yield names and functions from an image at 0.5 um/px to labels; None, and why, where one cannot run."""
    for name in ("embedded", "classical", "instanseg", "stardist", "cellpose"):
        try:
            engine = engine_of(NucleiSettings(engine=name, model=models.get(name, "")))
        except VitrailError as error:
            yield name, None, error.problem
        else:
            yield name, lambda image, engine=engine: engine(image, WORKING_MPP), ""
    yield "scikit-image", plain, ""
    yield "hysteresis", hysteresis, ""


def score(segment, field):
    """Return the scores of a field, its megapixels and the seconds that they took."""
    height, width = field.truth.shape
    scale = field.mpp / WORKING_MPP
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = field.image if size == (width, height) else area_resample(field.image, (0, 0, width, height), size)
    start = time.process_time()
    labels = np.asarray(segment(image))
    seconds = time.process_time() - start
    rows, columns = (
        ((np.arange(length) + 0.5) / length * other).astype(int)
        for length, other in zip((height, width), size[::-1], strict=True)
    )
    counted = overlaps(field.truth, labels[np.ix_(rows, columns)])
    values = {name: counted.f1() if name == "f1" else getattr(counted, name) for name in SCORES}
    return values, labels.size / 1e6, seconds


def show(fields, segment, name):
    """Print a row for each group."""
    for group in dict.fromkeys(field.group for field in fields):
        results = [score(segment, field) for field in fields if field.group == group]
        cells = []
        for wanted in SCORES:
            # a field in which nothing was found has no precision; it counts as 0
            values = np.nan_to_num([scores[wanted] for scores, _, _ in results])
            value, low, high = estimate(values, 1, np.arange(len(values)), 0, "share")
            cells.append(f"{value:.3f} ({low:.2f}-{high:.2f})" if wanted in {"dice", "f1", "pq"} else f"{value:.3f}")
        speed = sum(megapixels for _, megapixels, _ in results) / sum(seconds for _, _, seconds in results)
        print(f"{name:13} {group:12} {len(results):3}  {'  '.join(cells)}  {speed:.2f}", flush=True)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with nuclei/ and consep/")
    parser.add_argument("--work", type=Path, default=Path("bench-nuclei"), help="where synthetic slides are kept")
    parser.add_argument("--model", action="append", default=[], help="engine=path, of engines that need one")
    parser.add_argument("--quick", action="store_true", help="fewer fields")
    options = parser.parse_args()
    torch.set_num_threads(1)
    fields = list(synthetic(options.work / "synthetic", 2 if options.quick else len(SEEDS)))
    if options.data is not None:
        fields = [*cpm(options.data / "nuclei"), *consep(options.data / "consep", 9 if options.quick else 1), *fields]
    print(f"{'engine':13} {'fields':16}  " + "  ".join(SCORES) + "  megapixels/s")
    for name, segment, reason in engines(dict(model.split("=", 1) for model in options.model)):
        if segment is None:
            print(f"{name:13} not run: {reason}")
        else:
            show(fields, segment, name)


if __name__ == "__main__":
    main()
