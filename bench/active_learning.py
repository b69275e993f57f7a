"""Do raters' answers help sooner in the order of a queue than in that of chance? A simulation whose truth is known.

    python -m bench.active_learning [--folder FOLDER] [--seeds N] [--slides N] [--outlined N] [--rounds N] [--batch N]

For each seed a cohort is drawn that no other seed shares. Half of its slides are for testing. Of the others one is
outlined, coarsely, as an annotator does it; the outlines of the rest are held back. A rater who knows the truth judges
tile by tile, `--batch` tiles a round, as `vitrail review` orders them (`review.queue.urgency`); after each round both
networks are trained again with all that was judged so far. The order `errors` alone may look at the coarse outlines
that were held back, but only to order; `random` is what the others have to beat.

To be affordable this is not Vitrail's training: the encoder that comes with the installation stays as it is, and its
features are computed once and reduced to the first principal components of the training tiles. The classification
network is a logistic regression on a tile's mean features, the segmentation network one on the features of each cell
of the feature map, with the share of tumor in the cell as its target and a tile's mean over cells as its score. What a
rater says of a tile holds for all of its cells. So the table says something of the orders, and nothing of how good
Vitrail's networks become. It is made twice: with both networks on the same, last features, and with the segmentation
network on those of a stage before, as its decoder sees them, so that the two have eyes of their own.

Accuracy and AUC are of the mean score of both networks, over all test tiles against the truth. Intervals hold 95 % and
are over seeds: those of a mean, and of the paired difference to `random` (`metrics.bootstrap`). The gain is the mean
difference over all rounds with anything judged; an order beats chance if the interval of its gain lies above 0.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
import torch
from scipy.special import expit
from shapely.geometry import MultiPolygon, shape
from shapely.ops import unary_union

from vitrail.geometry import Region
from vitrail.metrics.bootstrap import estimate
from vitrail.metrics.scores import auc
from vitrail.models.encoder import create_encoder
from vitrail.models.preprocessing import intensities
from vitrail.models.weights import load_encoder, start_weights
from vitrail.review.queue import ORDERS, urgency
from vitrail.settings.load import EMBEDDED_ENCODER
from vitrail.settings.schema import EncoderSettings
from vitrail.slides.rasterize import rasterize
from vitrail.synthetic.draw import compose, draw_strips
from vitrail.synthetic.layout import TissueType
from vitrail.synthetic.outlines import annotate
from vitrail.synthetic.spec import LAYOUT_STEP, SlideSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.review.queue import Order

    Floats = NDArray[np.float64]

SIDE_PX, TILE_PX, MPP = 1024, 128, 1.0
CELLS = 4
"""Cells of the feature map along a tile."""

FINER = 4
"""Stage of the encoder, counted from 0, in front of its last halving."""

COMPONENTS = 48
RIDGE = 30.0
"""Of both regressions, in the unit of standardised components."""

LEAST = 0.5
"""Of a tile: tissue, so that it counts; outlines, so that they label it; tumor, so that it is one."""

CHANCES = 10
"""Draws of the order of chance for each seed; their mean is what the others are compared with."""

RUN_ORDERS: tuple[Order, ...] = tuple(order for order in ORDERS if order not in {"explanations", "labels"})
"""No maps are made here, and no outlines are judged again."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tiles:
    """The tiles of one cohort.

    Attributes
    ----------
    slide
        Whose tile it is, `[n]`.
    features, finer
        Of the last stage and of one with cells of half the size, means of four: `[n, cells, channels]`.
    truth
        Whether most of its tissue is the carcinoma's, `[n]`.
    outlined
        By cell the shares that the coarse outlines call tumor and non-tumor, `[n, cells, 2]`.
    """

    slide: NDArray[np.int64]
    features: Floats
    finer: Floats
    truth: NDArray[np.bool_]
    outlined: Floats

    @property
    def label(self) -> NDArray[np.int64]:
        """What the coarse outlines say: 1 tumor, 0 non-tumor, -1 nothing."""
        tumor, normal = self.outlined.mean(1).T
        return np.where(tumor + normal < LEAST, -1, tumor > normal)


def draw_cohort(seed: int, slides: int, folder: Path | None) -> Tiles:
    """Draw a cohort's tiles and compute their features, or read those that an earlier run has left."""
    file = None if folder is None else folder / f"cohort-{seed}-{slides}.npz"
    if file is not None and file.is_file():
        with np.load(file) as arrays:
            return Tiles(**{name: arrays[name] for name in Tiles.__slots__})
    settings = EncoderSettings(name=EMBEDDED_ENCODER, weights="embedded")
    encoder = create_encoder(settings.name)
    load_encoder(encoder, start_weights(settings) or {}, "embedded")
    encoder.eval()
    parts = [_slide_tiles(encoder, seed, number) for number in range(slides)]
    tiles = Tiles(**{name: np.concatenate([part[name] for part in parts]) for name in Tiles.__slots__})
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **{name: getattr(tiles, name) for name in Tiles.__slots__})
    return tiles


def _slide_tiles(encoder: Any, seed: int, number: int) -> dict[str, NDArray[Any]]:
    spec = SlideSpec(
        slide_id=f"{seed}-{number}", side_px=SIDE_PX, mpp=MPP, seed=(15, seed, number), keratinising=number % 3 > 0
    )
    scene = compose(spec)
    pixels = np.concatenate(list(draw_strips(scene)))
    collection, whole = annotate(scene), Region(x=0, y=0, width=SIDE_PX, height=SIDE_PX)
    drawn: dict[str, list[Any]] = {"Tumor": [], "Non-tumor": []}
    for feature in collection["features"]:
        drawn[feature["properties"]["classification"]["name"]].append(shape(feature["geometry"]))
    size = SIDE_PX, SIDE_PX
    tumor, normal = (rasterize(MultiPolygon(_polygons(unary_union(each))), whole, size) for each in drawn.values())
    cell = TILE_PX // CELLS
    shares = np.stack([_blocks(tumor, cell), _blocks(normal & ~tumor, cell)], -1)
    unit = TILE_PX // LAYOUT_STEP
    tissue = scene.layout.types != TissueType.GLASS
    covered = _blocks(tissue, unit)
    rows, columns = np.nonzero(covered >= LEAST)
    grid = pixels.reshape(SIDE_PX // TILE_PX, TILE_PX, SIDE_PX // TILE_PX, TILE_PX, 3).swapaxes(1, 2)
    images = np.ascontiguousarray(grid[rows, columns])
    with torch.inference_mode():
        standardised = (intensities(torch.from_numpy(images)) - 0.5) * 2
        parts = [_two_stages(encoder, part) for part in standardised.split(16)]
    last, finer = (torch.cat(maps).flatten(2).permute(0, 2, 1).numpy() for maps in zip(*parts, strict=True))
    cells = shares.reshape(-1, CELLS, shares.shape[1] // CELLS, CELLS, 2).transpose(0, 2, 1, 3, 4)
    return {
        "slide": np.full(len(rows), number),
        "features": last,
        "finer": finer,
        "truth": (_blocks(tissue & scene.layout.zone, unit) > LEAST * covered)[rows, columns],
        "outlined": cells[rows, columns].reshape(len(rows), CELLS**2, 2),
    }


def _two_stages(encoder: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the last feature map, and that of the last stage with cells of half the size, means of four."""
    finer: list[torch.Tensor] = []
    hook = encoder.blocks[FINER].register_forward_hook(lambda _module, _inputs, output: finer.append(output))
    try:
        last = encoder.forward_features(images)
    finally:
        hook.remove()
    return last, torch.nn.functional.avg_pool2d(finer[0], 2)


def _polygons(geometry: Any) -> list[Any]:
    return [part for part in shapely.get_parts(geometry) if part.geom_type == "Polygon" and not part.is_empty]


def _blocks(mask: NDArray[np.bool_], side: int) -> Floats:
    """Return the share of a mask in squares."""
    count = len(mask) // side
    return mask[: count * side, : count * side].reshape(count, side, count, side).mean((1, 3))


def fit(features: Floats, target: Floats, weight: Floats) -> Floats:
    """Fit a logistic regression with shares as targets by Newton's method; the last coefficient is the constant."""
    design = np.column_stack([features, np.ones(len(features))])
    ridge = np.diag(np.r_[np.full(features.shape[1], RIDGE), 1e-3])
    coefficients = np.zeros(design.shape[1])
    for _ in range(25):
        expected = expit(design @ coefficients)
        gradient = design.T @ (weight * (target - expected)) - ridge @ coefficients
        curvature = (design * (weight * expected * (1 - expected))[:, None]).T @ design + ridge
        step = np.linalg.solve(curvature, gradient)
        coefficients += step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-6:
            break
    return coefficients


class Learner:
    """Both networks of one seed, and what they may learn from."""

    def __init__(self, tiles: Tiles, seed: int, outlined: int, *, own_eyes: bool) -> None:
        self.tiles, rng = tiles, np.random.default_rng([seed, 15])
        names = np.unique(tiles.slide)
        # the slides that are outlined show both classes; the last half of all is for testing
        train = rng.permutation(names[: len(names) // 2])
        mixed = [name for name in train if len(set(tiles.label[tiles.slide == name]) - {-1}) == 2]
        first = mixed[:outlined]
        self.is_test = tiles.slide >= len(names) // 2
        self.is_outlined = np.isin(tiles.slide, first) & (tiles.label >= 0)
        self.is_pool = ~self.is_test & ~np.isin(tiles.slide, first)
        self.cells = self._components(tiles.features)
        self.finer = self._components(tiles.finer) if own_eyes else self.cells

    def _components(self, features: Floats) -> Floats:
        """Reduce features to what differs most between training tiles, each of variance 1 there."""
        pooled = features.mean(1, dtype=np.float64)[~self.is_test]
        axes = np.linalg.svd(pooled - pooled.mean(0), full_matrices=False)[2][:COMPONENTS]
        cells = (features - pooled.mean(0)) @ axes.T
        return np.asarray(cells / cells[~self.is_test].mean(1).std(0))

    def scores(self, judged: NDArray[np.int64]) -> Floats:
        """Train both networks and return the scores of all tiles, `[n, 2]`."""
        tiles, cells, finer = self.tiles, self.cells, self.finer
        own = np.concatenate([np.flatnonzero(self.is_outlined), judged])
        said = np.concatenate([tiles.label[self.is_outlined], tiles.truth[judged]]).astype(np.float64)
        share = np.repeat(said[:, None], cells.shape[1], 1)
        weight = np.ones_like(share)
        drawn = tiles.outlined[self.is_outlined]
        weight[: len(drawn)] = drawn.sum(-1)
        share[: len(drawn)] = drawn[..., 0] / np.maximum(drawn.sum(-1), 1e-9)
        pooled = fit(cells[own].mean(1), said, np.ones(len(own)))
        fine = fit(finer[own].reshape(-1, finer.shape[2]), share.ravel(), weight.ravel() / cells.shape[1])
        classifier = expit(cells.mean(1) @ pooled[:-1] + pooled[-1])
        segmenter = expit(finer @ fine[:-1] + fine[-1]).mean(1)
        return np.column_stack([classifier, segmenter])

    def curve(self, by: Order, rounds: int, batch: int, seed: tuple[int, int]) -> list[dict[str, float]]:
        """Judge round by round; return accuracy and AUC after each."""
        rng, judged, rows = np.random.default_rng([*seed, 7]), np.empty(0, np.int64), []
        for _ in range(rounds + 1):
            scores = self.scores(judged)
            tumor, score = self.tiles.truth[self.is_test], scores[self.is_test].mean(1)
            accuracy = float(((score >= 0.5) == tumor).mean())
            rows.append({"judged": len(judged), "accuracy": accuracy, "auc": auc(tumor, score)})
            left = np.setdiff1d(np.flatnonzero(self.is_pool), judged)
            label = np.where(self.tiles.label[left] == 1, "tumor", "non_tumor")
            table = pd.DataFrame({"label": label, "classifier": scores[left, 0], "segmenter": scores[left, 1]})
            wanted = urgency(table, by, rng)
            if by == "errors":
                wanted = np.where(self.tiles.label[left] < 0, -1.0, wanted)  # outlines say nothing of these
            judged = np.concatenate([judged, left[np.lexsort((rng.random(len(left)), -wanted))][:batch]])
        return rows


def summarise(rows: pd.DataFrame) -> list[str]:
    """Return the table, and what it says of each order against chance."""
    lines, verdicts = [], []
    checkpoints = sorted(rows["judged"].unique())
    chosen = [number for k, number in enumerate(checkpoints) if k in {0, 1, 2, 4, 8, len(checkpoints) - 1}]
    for measure in ("accuracy", "auc"):
        lines += ["", f"{measure} after so many tiles judged, mean over seeds (95 % interval)", ""]
        lines.append("| order | " + " | ".join(str(number) for number in chosen) + " | gain over random |")
        lines.append("|---" * (len(chosen) + 2) + "|")
        table = rows.pivot_table(index=["order", "seed"], columns="judged", values=measure)
        for order in RUN_ORDERS:
            own, chance = table.loc[order], table.loc["random"]
            cells = [_interval(own[number].to_numpy(), own.index) for number in chosen]
            gain = (own - chance)[checkpoints[1:]].mean(axis=1)
            last = "" if order == "random" else _interval(gain.to_numpy(), gain.index, signed=True)
            lines.append(f"| {order} | " + " | ".join(cells) + f" | {last} |")
            if order != "random":
                _, low, high = estimate(gain.to_numpy(), 1, np.asarray(gain.index), 0)
                verdict = "beats" if low > 0 else "is worse than" if high < 0 else "is not clearly better than"
                verdicts.append(f"By {measure}, {order} {verdict} random.")
    return [*lines, "", *verdicts]


def _interval(values: Floats, seeds: Any, *, signed: bool = False) -> str:
    value, low, high = estimate(values, 1, np.asarray(seeds), 0, "plain" if signed else "share")
    sign = "+" if signed else ""
    return f"{value:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def main() -> None:
    """Run the simulation and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keeps features, so that another run need not compute them")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--slides", type=int, default=24, help="of a cohort; half of them are for testing")
    parser.add_argument("--outlined", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for seed in range(args.seeds):
        began = time.perf_counter()
        tiles = draw_cohort(seed, args.slides, args.folder)
        for own_eyes in (False, True):
            learner = Learner(tiles, seed, args.outlined, own_eyes=own_eyes)
            for order in RUN_ORDERS:
                for again in range(CHANCES if order == "random" else 1):
                    rows = learner.curve(order, args.rounds, args.batch, (seed, again))
                    results += [{"own_eyes": own_eyes, "seed": seed, "order": order} | row for row in rows]
        counts = (
            f"{learner.is_outlined.sum()} outlined, {learner.is_pool.sum()} to judge, {learner.is_test.sum()} to test, "
            f"{tiles.truth.mean():.0%} tumor"
        )
        print(f"seed {seed}: {len(tiles.truth)} tiles: {counts}; {time.perf_counter() - began:.0f} s", flush=True)
    table = pd.DataFrame(results)
    if args.folder is not None:
        (args.folder / "curves.json").write_text(json.dumps(results))
    for own_eyes, rows in table.groupby("own_eyes"):
        print("\n## " + ("Each network on features of its own" if own_eyes else "Both networks on the same features"))
        print("\n".join(summarise(rows)))


if __name__ == "__main__":
    main()
