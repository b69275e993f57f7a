"""Explanations where the cause is known: pairs of synthetic tiles that differ in one thing.

    python -m bench.explanations RUN [--slides N] [--tiles N] [--shortcut NAME] [--causes NAME ...] [--methods NAME ...]

It takes the networks of a finished run, draws tiles of tumor from slides of unseen seeds with each cause and without
it, and asks:

reliance    how far the score (a logit) falls when the cause is taken away;
where       the truth: blocks of 12 x 12, swapped between the two images of a pair one by one. A block's effect is what
            the score loses when the block's cause is taken out of the tile, and gains when it is put into the other
            one, averaged. The blocks that move the score are those that carry 80 % of the positive effect;
map, pair   AUROC of a method's map, and of the difference of its maps of a pair, for these blocks. Pairs count whose
            cause is worth at least `LEAST` logits: without an effect there is no place;
mass        share of the positive map on these blocks, over their share of the area;
in - out    mean absolute difference of the maps of a pair inside, less that outside, of what differs, over their sum;
r           Pearson's correlation of reliance, over tiles and causes, with the difference of the sums of a pair's maps,
            with that difference inside what differs alone, and with the sum of the tile's map there.

Intervals are of 95 %, over slides.
"""

from __future__ import annotations

import argparse
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from scipy.stats import rankdata

from vitrail.classes import TissueClass
from vitrail.core.progress import Silent
from vitrail.errors import VitrailError
from vitrail.explain.checks.perturbation import PER_SIDE, block_numbers, closeness
from vitrail.explain.explainer import Explainer
from vitrail.explain.methods.base import METHODS, HeadTiles
from vitrail.explain.target import target_pixels, target_score
from vitrail.geometry import Region
from vitrail.metrics.bootstrap import RESAMPLES, Drawn, Estimate, by_patient, estimate, interval, sample
from vitrail.models.device import pick_device
from vitrail.models.store import load_model
from vitrail.settings.load import read_settings
from vitrail.synthetic import CAUSES, SHORTCUTS, SlideSpec, TissueType, compose, slide_pair
from vitrail.synthetic.spec import LAYOUT_STEP
from vitrail.tiles.split import read_split
from vitrail.tiles.store import read_tiles

FIRST_SEED = 7000
"""No cohort of the tests or the demo has slides of these seeds."""

SIDE_PX = 2048
SHARE = 0.8
LEAST = 0.25
FLOORS = ("random", "blob", "edges")
NOTHING = Estimate(float("nan"), float("nan"), float("nan"))


def tumor_regions(scene, side_um, count):
    """Return the tiles of a grid that hold most of the nests, in a random order of those with at least a half."""
    side = side_um / scene.spec.mpp
    nest = (scene.layout.types == TissueType.TUMOR_NEST).astype(float)
    regions = [
        Region(x=x * side, y=y * side, width=side, height=side)
        for y in range(int(SIDE_PX / side))
        for x in range(int(SIDE_PX / side))
    ]
    cells = [[int(edge / LAYOUT_STEP) for edge in (r.x, r.y, r.right, r.bottom)] for r in regions]
    shares = np.array([nest[top:bottom, left:right].mean() for left, top, right, bottom in cells])
    chosen = np.random.default_rng(scene.spec.seed).permutation(np.flatnonzero(shares > 0.4))[:count]
    return [regions[k] for k in chosen]


def swap_effects(score, present, absent, per_side=PER_SIDE):
    """Return each block's effect on the score, both ways averaged, `[blocks]`; 0 where the images are equal.

    `score` maps bytes `[n, h, w, 3]` to `[n]`.
    """
    blocks = block_numbers(present.shape[:2], per_side)
    differs = (present != absent).any(2)
    numbers = np.unique(blocks[differs])
    effects = np.zeros(per_side**2)
    if not len(numbers):
        return effects
    inside = (blocks == numbers[:, None, None])[..., None]
    scores = score(
        np.concatenate(
            [present[None], absent[None], np.where(inside, absent, present), np.where(inside, present, absent)]
        )
    )
    without, planted = np.split(scores[2:], 2)
    effects[numbers] = ((scores[0] - without) + (planted - scores[1])) / 2
    return effects


def movers(effects, share=SHARE):
    """Return the fewest blocks that carry a share of the positive effect."""
    gains = np.maximum(effects, 0)
    order = np.argsort(-gains, kind="stable")
    reached = np.cumsum(gains[order]) >= share * gains.sum() - 1e-12
    chosen = np.zeros(len(effects), bool)
    chosen[order[: int(np.argmax(reached)) + 1]] = gains.sum() > 0
    return chosen


def auroc(values, truth):
    """Return the area under the ROC curve; NaN where one class is empty."""
    ones = truth.sum()
    if not 0 < ones < len(truth):
        return float("nan")
    return float((rankdata(values)[truth].sum() - ones * (ones + 1) / 2) / (ones * (len(truth) - ones)))


def pearson(x, y, slides):
    """Return Pearson's correlation with its interval over slides."""
    finite = np.isfinite(x) & np.isfinite(y)
    x, y, slides = x[finite], y[finite], slides[finite]
    if len(x) < 3 or np.std(x) == 0 or np.std(y) == 0:
        return NOTHING
    x, y = ((v - v.mean()) / v.std() for v in (x, y))  # r does not mind, and rounding does less harm
    sums = by_patient(slides, np.column_stack([np.ones_like(x), x, y, x * x, y * y, x * y]))
    weights = sample(len(sums), RESAMPLES, 0)
    n, sx, sy, sxx, syy, sxy = (weights @ sums).T[:, :, None]
    mx, my = sx / n, sy / n
    vx, vy = sxx / n - mx**2, syy / n - my**2
    count, a, b, aa, bb, ab = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (sxy / n - mx * my) / np.sqrt(vx * vy)
        # of each slide; the influence function of r is zx zy - r (zx^2 + zy^2) / 2 of standardised deviations z
        zxy = (ab - mx * b - my * a + mx * my * count) / np.sqrt(vx * vy)
        zxx, zyy = (aa - 2 * mx * a + mx**2 * count) / vx, (bb - 2 * my * b + my**2 * count) / vy
        influence = (zxy - r / 2 * (zxx + zyy)) / n
    drawn = Drawn(value=r[:, 0], influence=influence, scale="correlation")
    return Estimate(float(drawn), *interval(drawn, weights))


class Examined:
    """A network of a run, its methods with what they need fitted, and its score."""

    def __init__(self, run, task, names):
        model, settings = load_model(run / task), read_settings(run / "study.toml")
        self.task, self.spec = task, model.spec
        self.explainer = Explainer(model, pick_device("cpu"), engine="torch")
        self.heads, self.names = {}, []
        table = read_tiles(run / "tiles")
        rows = np.flatnonzero(read_split(run / "split", table.rows) == "train")
        labels = table.rows[[TissueClass.TUMOR.key, TissueClass.NON_TUMOR.key]].to_numpy()
        rows = rows[labels[rows].max(1) >= settings.explain.min_share]
        for name in names:
            method = METHODS[name]
            if not method.explains(model.module):
                continue
            if method.needs_head:
                try:
                    head = method.load(run / "explanations" / task)
                except (VitrailError, OSError):
                    head, _ = method.fit(
                        HeadTiles(
                            task=task,
                            network=self.explainer,
                            images=table.images,
                            rows=rows,
                            tumor=table.rows["label"].to_numpy()[rows] == TissueClass.TUMOR.key,
                            settings=settings,
                            unfinished=Path(tempfile.mkdtemp()),
                            augmenter=None,
                            progress=Silent(),
                        )
                    )
                self.heads[name] = head
            self.names.append(name)

    def outputs(self, images):
        """Return the network's outputs for bytes `[n, h, w, 3]`."""
        return torch.cat(list(self.explainer.outputs(np.ascontiguousarray(images))))

    def pixels_of(self, image):
        """Return what is explained of a tile: for a segmenter its pixels of tumor, chosen once."""
        output = self.outputs(image[None])
        return None if output.ndim == 1 else target_pixels(output, TissueClass.TUMOR)

    def score(self, pixels):
        """Return what maps bytes `[n, h, w, 3]` to the logits that are explained, `[n]`."""
        return lambda images: target_score(self.outputs(images), TissueClass.TUMOR, pixels).numpy().astype(float)

    def maps(self, images, pixels):
        """Return by method the maps over the images, `[n, h, w]`, scaled so that a map's pixels add up to its cells."""
        chosen = "predicted" if pixels is None else pixels.repeat(len(images), 1, 1)
        every = {}
        for name in self.names:
            batches = self.explainer.maps(images, [name], self.heads, pixels=chosen)
            saliencies = [each for (maps,) in batches for each in maps.saliencies()]
            every[name] = np.stack(
                [each.upsample().astype(float) * (np.size(each.values) / images[0, ..., 0].size) for each in saliencies]
            )
        every |= floors(images)
        return every


def floors(images):
    """Return maps that know nothing of the network."""
    size = images.shape[1:3]
    grey = images.astype(float).mean(3)
    noise = [np.random.default_rng(zlib.crc32(image.tobytes())).random(size) for image in images]
    edges = [ndimage.gaussian_gradient_magnitude(image, 1.0) for image in grey]
    return {
        "random": np.stack(noise),
        "blob": np.stack([closeness(size) - closeness(size).min()] * len(images)),
        "edges": np.stack(edges),
    }


def measure(network, scene, region, causes):
    """Return a row for each cause and method of one tile."""
    size, rows = (network.spec.side_px, network.spec.side_px), []
    pairs = {cause: pair.tile(region, size) for cause, pair in causes.items()}
    images = np.stack([next(iter(pairs.values())).present, *[pair.absent for pair in pairs.values()]])
    pixels = network.pixels_of(images[0])
    if pixels is not None and not pixels.any():
        return rows
    score, maps = network.score(pixels), network.maps(images, pixels)
    scores = score(images)
    blocks = block_numbers(size)
    numbers = np.arange(PER_SIDE**2)
    for k, (cause, pair) in enumerate(pairs.items(), 1):
        differs, reliance = pair.differs, scores[0] - scores[k]
        if not differs.any():
            continue
        effects = swap_effects(score, pair.present, pair.absent)
        truth = movers(effects)
        counts = bool(reliance >= LEAST)
        base = {"slide": scene.spec.slide_id, "cause": cause, "reliance": reliance, "swaps": effects.sum()}
        base |= {"probability": np.ptp(1 / (1 + np.exp(-scores[[0, k]]))) * np.sign(reliance), "counts": counts}
        for name, both in maps.items():
            here, change = both[0], both[0] - both[k]
            mean_here, mean_change = (ndimage.mean(values, blocks, numbers) for values in (here, change))
            positive = np.maximum(here, 0)
            share = positive[truth[blocks]].sum() / max(positive.sum(), 1e-12) / max(truth.mean(), 1e-12)
            inside = np.abs(change)[differs].mean()
            outside = np.abs(change)[~differs].mean() if (~differs).any() else np.nan
            rows.append(
                base
                | {
                    "method": name,
                    "map": auroc(mean_here, truth) if counts else np.nan,
                    "pair": auroc(mean_change, truth) if counts else np.nan,
                    "mass": share if counts else np.nan,
                    "in-out": (inside - outside) / (inside + outside) if inside + outside > 0 else np.nan,
                    "sum": change.sum(),
                    "sum inside": change[differs].sum(),
                    "map inside": here[differs].sum(),
                }
            )
    return rows


def show(estimated):
    """Write an estimate and its interval."""
    value, low, high = estimated
    return "-" if np.isnan(value) else f"{value:.2f} ({low:.2f}..{high:.2f})"


def report(task, table):
    """Print the tables of one network."""
    first = table[table["method"] == table["method"].iloc[0]]
    print(f"\n{task}: reliance, {first['slide'].nunique()} slides")
    print(f"  {'cause':<12}{'logit':>22}{'probability':>24}{'sum of swaps':>14}{'tiles':>7}{'of use':>8}")
    for cause, rows in first.groupby("cause", sort=False):
        logit, probability = (
            estimate(rows[c].to_numpy(), 1, rows["slide"].to_numpy(), 0) for c in ("reliance", "probability")
        )
        swaps = rows["swaps"].mean()
        estimates = f"{show(logit):>22}{show(probability):>24}"
        print(f"  {cause:<12}{estimates}{swaps:>14.2f}{len(rows):>7}{rows['counts'].sum():>8}")
    heads = ("map", "pair", "mass", "in-out")
    titles = (
        "AUROC of map",
        "AUROC of pair",
        "mass over area",
        "in - out",
        "r of sums",
        "r of sums inside",
        "r of map inside",
    )
    print(f"\n{task}: methods\n  {'':<22}" + "".join(f"{title:>22}" for title in titles))
    for method, rows in table.groupby("method", sort=False):
        slides = rows["slide"].to_numpy()
        cells = []
        for head in heads:
            values = rows[head].to_numpy()
            finite = np.isfinite(values)
            scale = "share" if head in ("map", "pair") else "plain"
            cells.append(estimate(values[finite], 1, slides[finite], 0, scale) if finite.any() else NOTHING)
        if method in FLOORS:
            cells += [NOTHING] * 3
        else:
            cells += [
                pearson(rows[c].to_numpy(), rows["reliance"].to_numpy(), slides)
                for c in ("sum", "sum inside", "map inside")
            ]
        print(f"  {method:<22}" + "".join(f"{show(cell):>22}" for cell in cells), flush=True)


def main():
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--slides", type=int, default=8)
    parser.add_argument("--tiles", type=int, default=3, help="of each slide")
    parser.add_argument("--shortcut", choices=SHORTCUTS, help="that the slides have")
    parser.add_argument("--causes", nargs="*", choices=[*CAUSES, *SHORTCUTS])
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--table", type=Path, help="a CSV of every tile, cause and method")
    arguments = parser.parse_args()
    causes = arguments.causes or [*CAUSES, *([arguments.shortcut] if arguments.shortcut else [])]
    networks = [Examined(arguments.run, task, arguments.methods) for task in ("classifier", "segmenter")]
    rows = {network.task: [] for network in networks}
    for number in range(arguments.slides):
        shortcuts = (arguments.shortcut,) if arguments.shortcut else ()
        spec = SlideSpec(slide_id=f"U{number}", side_px=SIDE_PX, seed=(FIRST_SEED, number), shortcuts=shortcuts)
        scene = compose(spec)
        regions = tumor_regions(scene, networks[0].spec.side_px * networks[0].spec.mpp, arguments.tiles)
        if not regions:
            continue
        pairs = {cause: slide_pair(scene, cause) for cause in causes}
        for region in regions:
            for network in networks:
                rows[network.task] += measure(network, scene, region, pairs)
    for task, measured in rows.items():
        report(task, pd.DataFrame(measured))
    if arguments.table:
        pd.concat([pd.DataFrame(r).assign(network=t) for t, r in rows.items()]).to_csv(arguments.table, index=False)


if __name__ == "__main__":
    main()
