"""Whether nuclei can be painted over unseen, and whether the verdict on their removal can be trusted.

    python -m bench.nuclei_removal seen FOLDER [--fields N]
    python -m bench.nuclei_removal scores RUN SLIDES [--tiles N]
    python -m bench.nuclei_removal verdicts [--cohorts N]

`seen`: in fields with outlined nuclei (FOLDER as `../shared/data/nuclei`: `NAME.png` beside `NAME_nuclei.png`), shapes
of nuclei are moved onto tissue without any and painted over there, in several ways. A random forest is shown 20
statistics of each place as it is and painted over, and has to tell which is which in other fields: the area under its
ROC curve, 0.5 where it cannot; at 0.5 um/px, and at 0.89 um/px, the paper's tiles. Seconds are those of this machine.

`scores`: of a run on synthetic slides, the tumor scores of test tiles before and after all nuclei are painted over, by
the outlines of the truth, and after as many moved shapes are.

`verdicts`: of simulated cohorts, how often removal is said to do something where only painting does, and how often the
interval of the effect beyond painting covers the true one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
import torch
from PIL import Image
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from vitrail.classes import TASKS
from vitrail.explain.checks.counterfactuals import fill
from vitrail.explain.checks.replacements import painted as tissue
from vitrail.explain.checks.stage import score_both, tumor_pixels
from vitrail.explain.explainer import Explainer
from vitrail.explain.nuclei.inpainting import harmonic_fill, inpaint, with_halo
from vitrail.explain.nuclei.painting import coverage, move_shapes, paint
from vitrail.explain.nuclei.removal import ALL
from vitrail.explain.nuclei.verdicts import AGAINST, FOR, change_of_tumor_free, judge_removals
from vitrail.explain.study.store import open_stored
from vitrail.geometry import Region
from vitrail.models.store import load_model
from vitrail.slides.rasterize import rasterize
from vitrail.slides.slide import open_slide, read_region
from vitrail.synthetic.truth import read_truth
from vitrail.tiles.store import read_tiles

MPP, PAPER_MPP, MARGIN_PX, RING_PX, MOST = 0.5, 199.1 / 224, 8, 4, 30

Way = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Paints over pieces of an image, numbered above 0, from what is not barred."""


def by_ring(image, pieces, barred):
    """Give each piece the mean colour around it."""
    closed, painted = (pieces > 0) | barred, image.copy()
    for number in np.unique(pieces[pieces > 0]):
        ring = ndimage.binary_dilation(pieces == number, iterations=RING_PX) & ~closed
        painted[pieces == number] = image[ring if ring.any() else ~closed].mean(0)
    return painted


def by_film(image, pieces, barred):
    """Take the harmonic function between the pixels of the rim."""
    film = np.clip(np.rint(harmonic_fill(image.astype(np.float32), (pieces > 0) | barred)), 0, 255)
    return np.where((pieces > 0)[..., None], film, image).astype(np.uint8)


def by_bending(image, pieces, barred):
    """Take the biharmonic function, as scikit-image computes it."""
    from skimage.restoration import inpaint_biharmonic  # noqa: PLC0415 - it takes long

    closed, painted = (pieces > 0) | barred, image.copy()
    for number, box in enumerate(ndimage.find_objects(pieces), 1):
        if box is not None:  # with its surroundings alone: the whole image takes minutes
            near = tuple(slice(max(at.start - MARGIN_PX, 0), at.stop + MARGIN_PX) for at in box)
            bent, own = inpaint_biharmonic(image[near] / 255, closed[near], channel_axis=2), pieces[near] == number
            painted[near][own] = np.clip(np.rint(bent[own] * 255), 0, 255)
    return painted


WAYS: dict[str, Way] = {
    "mean of the ring": by_ring,
    "harmonic": by_film,
    "biharmonic": by_bending,
    "pale half, blurred": lambda image, pieces, _: np.where((pieces > 0)[..., None], tissue(image), image),
    "tissue moved there": lambda image, pieces, barred: fill(image, pieces > 0, barred),
    "harmonic and grain": lambda image, pieces, barred: inpaint(image, pieces, mpp=MPP, barred=barred),
}


def statistics(image, own):
    """Return what tells a painted place: contrast, sharpness and colour inside, at the rim, and around."""
    grey = image.mean(2)
    sharp, steep = np.abs(ndimage.laplace(grey)), np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1)) / 8
    core, grown = ndimage.binary_erosion(own), ndimage.binary_dilation(own)
    rim, ring = grown & ~core, ndimage.binary_dilation(own, iterations=RING_PX) & ~grown

    def of(plane, where, how=np.mean):
        return float(how(plane[where])) if where.any() else 0.0

    pairs = [(of(plane, core if core.any() else own), of(plane, ring), of(plane, rim)) for plane in (sharp, steep)]
    spread = of(grey, own, np.std), of(grey, ring, np.std)
    ratios = [inside / (around + 1) for inside, around, _ in pairs] + [edge / (inside + 1) for inside, _, edge in pairs]
    shift = image[own].mean(0) - (image[ring].mean(0) if ring.any() else 0)
    flat = [number for each in pairs for number in each]
    return [*flat, *ratios, *spread, spread[0] / (spread[1] + 1), *shift, *image[own].std(0), of(sharp, own, np.median)]


def fields(folder, most):
    """Yield images and the labels of their nuclei, at most 400 px wide."""
    for path in sorted(folder.glob("*_nuclei.png"))[:most]:
        image = np.asarray(Image.open(path.with_name(path.name.replace("_nuclei", ""))).convert("RGB"))
        yield image[:400, :400], np.asarray(Image.open(path)).astype(np.int32)[:400, :400]


def places(image, moved, factor):
    """Yield windows of an image around moved shapes, averaged over `factor` pixels."""
    size = tuple(round(side / factor) for side in moved.shape)
    down, right = (coverage(parts, side) for parts, side in zip(size, moved.shape, strict=True))
    small = np.einsum("ah,hwc,bw->abc", down, image.astype(np.float32), right, optimize=True)
    for number, box in enumerate(ndimage.find_objects(moved), 1):
        if box is None:
            continue
        own = down @ (moved == number).astype(np.float32) @ right.T > 0.5
        if own.any():
            part = tuple(
                slice(max(int(at.start / factor) - MARGIN_PX, 0), int(at.stop / factor) + MARGIN_PX) for at in box
            )
            yield small[part], own[part]


def seen(folder: Path, most: int) -> None:
    """Print how well painted places are told from real ones."""
    rows, groups, seconds = {}, {}, dict.fromkeys(WAYS, 0.0)
    for number, (image, labels) in enumerate(fields(folder, most)):
        own = with_halo(labels, MPP)
        free = (own == 0) & (ndimage.uniform_filter(image.mean(2), 9) < 225)
        moved = move_shapes(own, free, np.random.default_rng(number))
        moved[~np.isin(moved, np.unique(moved)[: MOST + 1])] = 0
        for way, run in WAYS.items():
            began = time.perf_counter()
            painted = run(image, moved, own > 0)
            seconds[way] += time.perf_counter() - began
            for scale in (1.0, PAPER_MPP / MPP):
                both = [[statistics(*place) for place in places(each, moved, scale)] for each in (image, painted)]
                rows.setdefault((way, scale), []).extend(
                    [(0, each) for each in both[0]] + [(1, each) for each in both[1]]
                )
                groups.setdefault((way, scale), []).extend([number] * (len(both[0]) + len(both[1])))
    for (way, scale), pairs in rows.items():
        truth, values = (np.array(each) for each in zip(*pairs, strict=True))
        forest = RandomForestClassifier(200, min_samples_leaf=3, random_state=0)
        folds = {"groups": groups[way, scale], "cv": GroupKFold(5), "method": "predict_proba"}
        area = roc_auc_score(truth, cross_val_predict(forest, values, truth, **folds)[:, 1])
        print(f"{way:20s} {MPP * scale:.2f} um/px  {len(truth) // 2:4d} places  AUC {area:.3f}  {seconds[way]:6.1f} s")


def labels_of(truth, region, size):
    """Paint the true nuclei whose centre lies in a region."""
    box = shapely.box(region.x, region.y, region.right, region.bottom)
    labels = np.zeros(size, np.int32)
    for number, nucleus in enumerate(truth.nuclei[shapely.contains(box, shapely.centroid(truth.nuclei))], 1):
        labels[rasterize(shapely.MultiPolygon([nucleus]), region, size[::-1])] = number
    return labels


def scores(run: Path, slides: Path, most: int) -> None:
    """Print what scores of tumor and of other tiles do when nuclei are painted over in several ways."""
    images, rows = read_tiles(run / "tiles").images, open_stored(run / "explanations").rows
    rng = np.random.default_rng(0)
    chosen = [rng.permutation(np.flatnonzero(rows["label"] == name))[:most] for name in ("tumor", "non_tumor")]
    networks = {task: Explainer(load_model(run / task), torch.device("cpu"), engine="torch").outputs for task in TASKS}
    table = []
    for row in rows.iloc[np.concatenate(chosen)].itertuples():
        slide = open_slide(slides / f"{row.slide_id}.tif")
        region = Region(x=row.x, y=row.y, width=row.side, height=row.side)
        side, tile = round(row.side * slide.mpp / MPP), np.asarray(images[row.tile])
        image = read_region(slide, region, (side, side))
        labels = labels_of(read_truth(slide.path), region, (side, side))
        done = paint(image, labels, mpp=MPP, tile=tile, seed=(0, row.tile))
        every, versions, names = np.ones(done.count, bool), [tile], []
        for way, painter in WAYS.items():
            if way == "biharmonic":
                continue  # minutes a tile
            change = painter(image, done.labels, np.zeros(labels.shape, bool)).astype(np.float32) - image
            beside = painter(image, done.moved, done.labels > 0).astype(np.float32) - image
            own = replace(done, change=change, moved_change=beside)
            versions += [own.without(every), own.without(every, moved=True)]
            names.append(way)
        for task, outputs in networks.items():
            result = score_both(outputs, tumor_pixels(outputs(tile[None])), np.stack(versions))
            for at, way in enumerate(names):
                effect, control = result[0] - result[1 + 2 * at], result[0] - result[2 + 2 * at]
                table.append({
                    "way": way, "network": task, "group": ALL, "patient_id": row.patient_id, "label": row.label,
                    "before": result[0, 0], "before_logit": result[0, 1], "effect": effect[0],
                    "effect_logit": effect[1], "control": control[0], "control_logit": control[1],
                    "area_um2": done.areas_um2.sum(), "control_area_um2": done.moved_areas_um2.sum(),
                })  # fmt: skip
    frame = pd.DataFrame(table)
    means = frame.assign(size=frame["effect"].abs(), control_size=frame["control"].abs())
    columns = ["before", "effect", "size", "control", "control_size", "before_logit", "effect_logit", "control_logit"]
    print(means.groupby(["network", "way", "label"], sort=False)[columns].mean().round(3).to_string())
    for way, own in frame.groupby("way", sort=False):
        print(way, change_of_tumor_free(own, 0).round(3).to_string(), sep="\n")


def verdicts(cohorts: int) -> None:
    """Print how often the verdict is wrong, and how often intervals cover."""
    for patients in (3, 5, 8, 15):
        rng, wrong, inside = np.random.default_rng(patients), 0, 0
        for effect in (0.0, 1.0):
            for _ in range(cohorts):
                owner = np.repeat(np.arange(patients), 4)
                painting = 2 + rng.normal(0, 0.5, patients)[owner]
                own = effect * (1 + rng.normal(0, 0.5, patients)[owner]) + rng.normal(0, 0.5, len(owner))
                table = pd.DataFrame({
                    "network": "", "group": ALL, "patient_id": owner.astype(str), "area_um2": 2.0,
                    "control_area_um2": 1.0, "effect_logit": own + painting, "random_logit": 0.0,
                    "control_logit": painting / 2 + rng.normal(0, 0.2, len(owner)),
                })  # fmt: skip
                row = judge_removals(table, 0).iloc[0]
                wrong += not effect and row["verdict"] in {FOR, AGAINST}
                inside += bool(effect) and row["beyond_control_low"] <= 1 <= row["beyond_control_high"]
        print(f"{patients:3d} patients: wrong {wrong / cohorts:.3f}, covered {inside / cohorts:.3f} of {cohorts}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(required=True)
    for job, arguments, option, default in (
        (seen, ("folder",), "--fields", 15),
        (scores, ("run", "slides"), "--tiles", 15),
        (verdicts, (), "--cohorts", 200),
    ):  # fmt: skip
        own = jobs.add_parser(job.__name__)
        for name in arguments:
            own.add_argument(name, type=Path)
        own.add_argument(option, type=int, default=default, dest="most")
        own.set_defaults(
            job=lambda given, job=job, names=arguments: job(*(getattr(given, n) for n in names), given.most)
        )
    torch.set_num_threads(1)
    given = parser.parse_args()
    given.job(given)


if __name__ == "__main__":
    main()
