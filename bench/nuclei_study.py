"""Whether maps, and what removed nuclei take from the score, lie on tumor cells more than on the cells beside them.

    python -m bench.nuclei_study RUN... --cells cells.csv [--nuclei ENGINE|discs|FOLDER] [--target Tumor]

The runs are studies of one cohort that are explained; several are folds, whose test patients differ. `cells.csv` says
where cells are and what they are: `slide_id`, `x`, `y` (level-0 pixels), `class`. Nuclei are segmented and matched with
the cells, or are discs of 3.5 um around them, or come from the label images `FOLDER/<slide_id>.png`.

Of each test tile with at least two cells of the target class and two others, and of each network: the AUROC of the mean
relevance of a nucleus for "is of the target class", within the tile, so that no difference between tiles, patients or
stains can help; the share of the relevance on nuclei that lies on the target's, less their share of the area; and the
same of the effect, the fall of the log odds of tumor when the nucleus is painted over. Nulls: the tile's own map moved
on a torus or turned, maps of other patients' tiles, and those of networks with random weights; for the effect nuclei
permuted among those of similar area, the same outline painted over where no nucleus is, and networks with random
weights. A statistic counts as more than its nulls where the intervals over patients of all differences are above 0. How
often that would happen without any effect is simulated: each moved map in turn takes the place of the true one.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from scipy.signal import fftconvolve

from vitrail.classes import TASKS, TissueClass
from vitrail.core.progress import Lines
from vitrail.explain.checks.randomisation import reinitialise, settle, steps_of
from vitrail.explain.checks.reliance_study import log_odds
from vitrail.explain.explainer import Explainer
from vitrail.explain.methods.base import METHODS, fitted_heads, methods_named
from vitrail.explain.nuclei.inpainting import inpaint, with_halo
from vitrail.explain.study.store import open_stored, split_key
from vitrail.metrics.bootstrap import RESAMPLES, crossed_estimate, estimate, interval, sample
from vitrail.metrics.per_patient import tile_parts
from vitrail.models.store import Model, load_model
from vitrail.nuclei.engines import engine_of
from vitrail.nuclei.regions import segment_region
from vitrail.nuclei.scales import WORKING_MPP
from vitrail.settings.schema import NucleiSettings
from vitrail.slides.cohort import read_cohort
from vitrail.slides.slide import open_slide
from vitrail.stage import open_run
from vitrail.tiles.store import read_tiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vitrail.slides.slide import Slide
    from vitrail.stage import Run

LEAST = 2
"""Cells of the target class, and of others, that a tile must have."""

DISC_UM, NEAR_UM = 3.5, 3.0
"""Radius of a disc that stands for a nucleus, and how far beside a nucleus its cell's point may lie."""

SHIFTS, OTHERS, RANDOM, PERMUTATIONS = 16, 8, 3, 16
"""Draws of each null, a tile; of networks with random weights, a run."""

SETTLE = 48
"""Tiles that give batch normalisation its statistics where weights are random."""

SIMILAR, ALIKE = 1.25, 4
"""Largest ratio of the areas of nuclei that are compared as of one size; and how many are permuted among each other."""

T = TypeVar("T")

CALLED = 0.5
"""A tile with this score, or more, is called tumor."""

RATE_UM2 = 100.0
"""Effects of groups are per so many square micrometres that were painted over."""

OBSERVED, PAIRED = "observed", "paired"
"""What was measured: of all nuclei, and of those that have a place beside them, to compare with that."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TileNuclei:
    """The nuclei of a tile, on its own pixels.

    Attributes
    ----------
    labels
        `[h, w]`: those that have a class, and their centre within the tile, are 1 to n; all others follow.
    target
        `[n]`: whether they are of the target class.
    area_px
        `[n]`.
    """

    labels: NDArray[np.int32]
    target: NDArray[np.bool_]
    area_px: NDArray[np.int64]


def discs(points: NDArray[np.float64], shape: tuple[int, int], radius_px: float) -> NDArray[np.int32]:
    """Return a label image of discs around points (x, y); where two meet, a pixel belongs to the nearer point."""
    seeds = np.zeros(shape, np.int32)
    column, row = np.floor(points).astype(np.int64).T
    seeds[row.clip(0, shape[0] - 1), column.clip(0, shape[1] - 1)] = np.arange(1, len(points) + 1)
    away, (near_row, near_column) = ndimage.distance_transform_edt(seeds == 0, return_indices=True)
    return np.where(away <= radius_px, seeds[near_row, near_column], 0).astype(np.int32)


def match(labels: NDArray[np.int32], points: NDArray[np.float64], target: NDArray[np.bool_], near_px: float) -> NDArray:
    """Give nuclei the class of the cells whose points lie on them.

    Parameters
    ----------
    labels
        `[h, w]`.
    points, target
        `[cells, 2]` (x, y) in its pixels, and whether each is of the target class.
    near_px
        A point beside all nuclei belongs to the nearest one, up to so far away.

    Returns
    -------
    NDArray[np.int64]
        By label, from 0: 1 of the target class, 0 of another, -1 without a cell or with cells of both.
    """
    away, (rows, columns) = ndimage.distance_transform_edt(labels == 0, return_indices=True)
    column, row = np.floor(points).astype(np.int64).T
    row, column = row.clip(0, labels.shape[0] - 1), column.clip(0, labels.shape[1] - 1)
    owner = np.where(away[row, column] <= near_px, labels[rows[row, column], columns[row, column]], 0)
    counts = np.stack([np.bincount(owner[target == kind], minlength=labels.max() + 1) for kind in (False, True)])
    kinds = np.where((counts > 0).sum(0) == 1, counts.argmax(0), -1)
    kinds[0] = -1
    return kinds


def cut_nuclei(
    labels: NDArray[np.int32], kinds: NDArray[np.int64], box: tuple[float, float, float], side_px: int
) -> TileNuclei:
    """Bring the nuclei of a slide to the pixels of a tile; `box` is its x, y and side in pixels of `labels`."""
    x, y, side = box
    at = (np.arange(side_px) + 0.5) * side / side_px
    rows, columns = ((np.floor(start + at).astype(np.int64)) for start in (y, x))
    tile = labels[np.ix_(rows.clip(0, labels.shape[0] - 1), columns.clip(0, labels.shape[1] - 1))]
    numbers, flat = np.unique(tile, return_inverse=True)
    area = np.bincount(flat.ravel(), minlength=len(numbers))
    whole = np.bincount(labels.ravel(), minlength=len(kinds))[numbers] * (side_px / side) ** 2
    own = (numbers > 0) & (kinds[numbers] >= 0) & (area > 0.5 * whole)
    order = np.concatenate([np.flatnonzero(own), np.flatnonzero(~own & (numbers > 0))])
    new = np.zeros(len(numbers), np.int32)
    new[order] = np.arange(1, len(order) + 1)
    return TileNuclei(
        labels=new[flat].reshape(tile.shape), target=kinds[numbers[own]] == 1, area_px=area[own].astype(np.int64)
    )


def auroc(values: NDArray[np.float64], target: NDArray[np.bool_], area: NDArray[np.int64] | None = None) -> float:
    """Return how often a nucleus of the target class has more than another, ties counting half; NaN without pairs.

    With areas only pairs count whose areas differ by less than `SIMILAR`.
    """
    pairs = np.ones((int(target.sum()), int((~target).sum())), np.bool_)
    if area is not None:
        pairs = np.abs(np.log(area[target])[:, None] - np.log(area[~target])) < np.log(SIMILAR)
    if not pairs.any():
        return float("nan")
    differences = values[target][:, None] - values[~target]
    return float(((differences > 0) + 0.5 * (differences == 0))[pairs].mean())


def excess(values: NDArray[np.float64], target: NDArray[np.bool_], area: NDArray[np.int64]) -> float:
    """Return the target's share of what is positive, less its share of the area; NaN where nothing is positive."""
    positive = np.maximum(values, 0)
    total = positive.sum()
    return float(positive[target].sum() / total - area[target].sum() / area.sum()) if total > 0 else float("nan")


def judge_maps(maps: NDArray[np.float32], nuclei: TileNuclei) -> list[dict[str, float]]:
    """Return the statistics of maps `[k, h, w]` of a tile: what `relevance` measures on each nucleus, all at once."""
    inside = (nuclei.labels.ravel() == np.arange(1, len(nuclei.target) + 1)[:, None]).astype(np.float64)
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    means, masses = flat @ inside.T / nuclei.area_px, np.maximum(flat, 0) @ inside.T
    return [
        {
            "auroc": auroc(mean, nuclei.target),
            "matched": auroc(mean, nuclei.target, nuclei.area_px),
            "excess": excess(mass, nuclei.target, nuclei.area_px),
        }
        for mean, mass in zip(means, masses, strict=True)
    ]


def judge_effect(effects: NDArray[np.float64], nuclei: TileNuclei) -> dict[str, float]:
    """Return the statistics of the effects of a tile's nuclei, `[n]`; NaN for those that have none."""
    has = np.isfinite(effects)
    values, target, area = effects[has], nuclei.target[has], nuclei.area_px[has]
    if not target.any() or target.all():
        return dict.fromkeys(("auroc", "matched", "excess", "logit"), float("nan"))
    return {
        "auroc": auroc(values, target),
        "matched": auroc(values, target, area),
        "excess": excess(values, target, area),
        "logit": float(values[target].mean() - values[~target].mean()),
    }


def moved_maps(values: NDArray[np.float32], rng: np.random.Generator) -> Iterator[tuple[str, int, NDArray[np.float32]]]:
    """Yield a tile's map moved on a torus, by at least an eighth of its side along both axes, and turned."""
    side = len(values)
    for draw in range(SHIFTS):
        down, right = rng.integers(side // 8, side - side // 8 + 1, 2)
        yield "shifted", draw, np.roll(values, (int(down), int(right)), (0, 1))
    for draw in range(1, 8):  # the symmetries of the square but the identity
        yield "turned", draw, np.rot90(values.T if draw >= 4 else values, draw % 4)


def ghosts(labels: NDArray[np.int32], halo: NDArray[np.int32], count: int) -> NDArray[np.bool_]:
    """Move the outlines of nuclei, each to the nearest place where no nucleus is.

    Parameters
    ----------
    labels, halo
        `[h, w]`: all nuclei of a tile, and what each is painted over with.
    count
        The first so many are moved.

    Returns
    -------
    NDArray[np.bool_]
        `[count, h, w]`; empty where there is no such place.
    """
    masks, occupied = np.zeros((count, *labels.shape), np.bool_), (labels > 0).astype(np.float64)
    for number, box in enumerate(ndimage.find_objects(halo, max_label=count)):
        if box is None:
            continue
        piece = halo[box] == number + 1
        free = np.argwhere(fftconvolve(occupied, piece[::-1, ::-1].astype(np.float64), "valid") < 0.5)
        if len(free):
            away = ((free - [box[0].start, box[1].start]) ** 2).sum(1)
            row, column = free[away.argmin()]
            masks[number, row : row + piece.shape[0], column : column + piece.shape[1]] = piece
    return masks


def painted_over(
    image: NDArray[np.uint8], nuclei: TileNuclei, mpp: float, seed: tuple[int, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Paint over each nucleus of a tile, and its outline where no nucleus is.

    Returns
    -------
    tuple[NDArray[np.uint8], NDArray[np.int64]]
        `[2n + 4, h, w, 3]`: without each nucleus, without each place beside, and without all nuclei of the target
        class, all others, and the places of both; and how many pixels each has been painted over.
    """
    halo, count = with_halo(nuclei.labels, mpp), len(nuclei.target)
    every = halo > 0
    places = ghosts(nuclei.labels, halo, count)
    images, areas = [], []
    for masks, whole in ((halo == np.arange(1, count + 1)[:, None, None], halo), (places, places.any(0))):
        painting = inpaint(image, whole, mpp=mpp, barred=every, seed=seed)
        groups = np.stack([masks[nuclei.target == kind].any(0) for kind in (True, False)])
        parts = np.concatenate([masks, groups])
        images.append(np.where(parts[..., None], painting, image))
        areas.append(parts.sum((1, 2)))
    order = np.argsort(np.tile(np.repeat([0, 1], [count, 2]), 2), kind="stable")  # groups after all singles
    return np.concatenate(images)[order], np.concatenate(areas)[order]


def among_similar(area: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Permute nuclei among those of similar area: of each `ALIKE` that follow each other by area."""
    order = np.argsort(area + rng.random(len(area)), kind="stable")
    start, permuted = int(rng.integers(ALIKE)), np.arange(len(area))
    for part in np.split(order, np.arange(start, len(order), ALIKE)):
        permuted[part] = rng.permutation(part)
    return permuted


def slide_labels(slide: Slide, slide_id: str, cells: pd.DataFrame, source: str) -> tuple[NDArray[np.int32], float]:
    """Return the label image of a slide's nuclei, and how many level-0 pixels its pixels are wide."""
    if source == "discs":
        per_px = max(WORKING_MPP / slide.mpp, 1.0)
        shape = round(slide.region.height / per_px), round(slide.region.width / per_px)
        return discs(cells[["x", "y"]].to_numpy() / per_px, shape, DISC_UM / (per_px * slide.mpp)), per_px
    chosen = {"engine": "labels", "model": source} if Path(source).is_dir() else {"engine": source}
    found = segment_region(slide, slide.region, engine_of(NucleiSettings.model_validate(chosen)), slide_id=slide_id)
    return found.labels, found.mpp / slide.mpp


class Study:
    """The explained test tiles of one run that have cells of both kinds.

    Parameters
    ----------
    run
        The run.
    cells
        `slide_id`, `x`, `y`, `target`.
    source
        The name of an engine that needs no model, `discs`, or a folder of label images.
    most
        Tiles, at most.
    """

    def __init__(self, run: Run, cells: pd.DataFrame, source: str, most: int) -> None:
        self.run, self.stored, self.progress = run, open_stored(run.folder / "explanations"), Lines()
        self.images = read_tiles(run.folder / "tiles").images
        self.mpp = run.settings.tiles.side_um / self.images.shape[1]
        self.models: dict[str, Model] = {task: load_model(run.folder / task) for task in TASKS}
        slides = {entry.slide_id: open_slide(entry.slide, mpp=entry.mpp) for entry in read_cohort(run.cohort)}
        nuclei: dict[int, TileNuclei] = {}
        self.cells = self.matched = 0
        for slide_id, rows in self.stored.rows.groupby("slide_id"):
            own, slide = cells[cells["slide_id"] == slide_id], slides[str(slide_id)]
            if not len(own):
                continue
            labels, per_px = slide_labels(slide, str(slide_id), own, source)
            near_px = NEAR_UM / (per_px * slide.mpp)
            kinds = match(labels, own[["x", "y"]].to_numpy() / per_px, own["target"].to_numpy(), near_px)
            self.cells, self.matched = self.cells + len(own), self.matched + int((kinds >= 0).sum())
            for i, x, y, side in rows[["x", "y", "side"]].itertuples():
                box = x / per_px, y / per_px, side / per_px
                nuclei[i] = cut_nuclei(labels, kinds, box, self.images.shape[1])
        mixed = [i for i, each in nuclei.items() if min(each.target.sum(), (~each.target).sum()) >= LEAST]
        order = np.random.default_rng([run.settings.seed, 0xF]).permutation(np.array(mixed, np.int64))
        patients = self.stored.rows["patient_id"].iloc[order]
        turn = patients.groupby(patients.to_numpy()).cumcount().to_numpy()  # each gives one before any gives a second
        self.rows = np.sort(order[np.argsort(turn, kind="stable")][:most])
        self.nuclei = [nuclei[int(i)] for i in self.rows]
        self.tiles = self.stored.rows.iloc[self.rows].reset_index(drop=True)
        self.called = {network: (self.tiles[network] >= CALLED).to_numpy() for network in TASKS}
        names = self.tiles[["patient_id", "tile"]].itertuples(index=False)
        self.owners = [
            {"patient_id": name, "tile": f"{run.folder.name}-{tile}", "run": run.folder.name} for name, tile in names
        ]

    def explaining(self, model: Model) -> Explainer:
        """Return what explains a model as the study's maps were made."""
        return Explainer(model, torch.device("cpu"), engine="torch", **self.stored.dense)

    @property
    def settling(self) -> NDArray[np.uint8]:
        """Tiles from all over the cohort, for the batch normalisation of random networks."""
        return np.asarray(self.images[np.linspace(0, len(self.images) - 1, SETTLE).round().astype(np.int64)])

    def pictures(self) -> NDArray[np.uint8]:
        """Return the tiles, `[n, side_px, side_px, 3]`."""
        return np.asarray(self.images[self.tiles["tile"].to_numpy()])

    def measure_maps(self) -> pd.DataFrame:
        """Return the statistics of every map of every tile, and of its nulls."""
        records, patients = [], self.tiles["patient_id"].to_numpy()
        for network in TASKS:
            methods = [method for own, method in map(split_key, self.stored.keys) if own == network]
            untrained = [self._untrained_maps(network, methods, draw) for draw in range(RANDOM)]
            for method in self.stepped(f"{network} maps", methods):
                maps = [self.stored.saliency(f"{network}_{method}", int(i)).upsample() for i in self.rows]
                constant = np.array([np.ptp(each) == 0 for each in maps])
                for at in np.flatnonzero(~constant):
                    rng = np.random.default_rng([self.run.settings.seed, int(self.rows[at])])
                    strangers = rng.permutation(np.flatnonzero((patients != patients[at]) & ~constant))[:OTHERS]
                    nulls = [(OBSERVED, 0, maps[at]), *moved_maps(maps[at], rng)]
                    nulls += [("other tiles", draw, maps[other]) for draw, other in enumerate(strangers)]
                    nulls += [("random weights", draw, each[method][at]) for draw, each in enumerate(untrained)]
                    judged = judge_maps(np.stack([values for _, _, values in nulls]), self.nuclei[at])
                    for (null, draw, _), statistics in zip(nulls, judged, strict=True):
                        records += self._records(int(at), network, method, (null, draw), statistics)
        return pd.DataFrame(records)

    def _untrained_maps(self, network: str, methods: list[str], draw: int) -> dict[str, list[NDArray[np.float32]]]:
        """Explain the tiles with random weights: of a segmenter the same pixels as with the trained ones."""
        pictures = self.pictures()
        fitted = fitted_heads(self.run.folder / network, methods_named(methods))
        pixels: torch.Tensor | str = "predicted"
        if network == "segmenter":
            outputs = self.explaining(self.models[network]).outputs(pictures)
            pixels = torch.cat([output.argmax(1).cpu() for output in outputs]) == TissueClass.TUMOR
        explainer = self.explaining(self.randomised(network, draw))
        heads = {name: METHODS[name].redraw(head, draw) for name, head in fitted.items()}
        batches = list(explainer.maps(pictures, methods, heads, pixels=pixels))
        result = {}
        for method, parts in zip(methods, zip(*batches, strict=True), strict=True):
            kind = self.stored.saliency(f"{network}_{method}", 0)
            values = torch.cat([maps.values for maps in parts]).cpu().numpy()  # noqa: PD011
            result[method] = [replace(kind, values=each).upsample() for each in values]
        return result

    def measure_effects(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the statistics of the effects and of their nulls; and a table of all nuclei."""
        pictures, seed, records, singles = self.pictures(), self.run.settings.seed, [], []
        for network in TASKS:
            models = [self.models[network], *(self.randomised(network, draw) for draw in range(RANDOM))]
            scores = [partial(log_odds, Explainer(model, torch.device("cpu"), engine="torch")) for model in models]
            befores = [score(pictures) for score in scores]
            for at, nuclei in enumerate(self.stepped(f"{network} effects", self.nuclei)):
                rng, count = np.random.default_rng([seed, int(self.rows[at]), 1]), len(nuclei.target)
                changed, area_px = painted_over(pictures[at], nuclei, self.mpp, (seed, int(self.rows[at])))
                chance = [b[at] - s(changed[:count]) for s, b in zip(scores[1:], befores[1:], strict=True)]
                trained = befores[0][at] - scores[0](changed)
                trained[area_px == 0] = np.nan
                own, beside = trained[:count], trained[count : 2 * count]
                rates = trained[2 * count :] / (np.maximum(area_px[2 * count :], 1) * self.mpp**2) * RATE_UM2
                both = np.where(np.isfinite(beside), own, np.nan)  # nuclei that have a place beside them
                judged = {
                    (OBSERVED, 0): judge_effect(own, nuclei) | {"group": float(rates[0] - rates[1])},
                    (PAIRED, 0): judge_effect(both, nuclei) | {"group": float(rates[0] - rates[1])},
                    ("beside", 0): judge_effect(beside, nuclei) | {"group": float(rates[2] - rates[3])},
                }
                judged |= {("random weights", d): judge_effect(each, nuclei) for d, each in enumerate(chance)}
                for draw in range(PERMUTATIONS):
                    permuted = own[among_similar(nuclei.area_px, rng)]
                    judged["similar area", draw] = judge_effect(permuted, nuclei)
                for null, values in judged.items():
                    records += self._records(at, network, "effect", null, values)
                owner = self.tiles[["slide_id", "patient_id", "tile"]].iloc[at].to_dict() | {"network": network}
                columns = {"target": nuclei.target, "area_um2": nuclei.area_px * self.mpp**2}
                columns |= {"effect": own, "beside": beside}
                singles.append(pd.DataFrame(owner | {"label": np.arange(1, count + 1)} | columns))
        return pd.DataFrame(records), pd.concat(singles, ignore_index=True)

    def stepped(self, title: str, items: list[T]) -> Iterator[T]:
        """Go through a list, and say how far it is."""
        with self.progress.task(title, len(items)) as step:
            for item in items:
                yield item
                step()

    def randomised(self, network: str, draw: int) -> Model:
        """Return a network with all weights random, its batch normalisation settled on tiles."""
        trained, images = self.models[network], self.settling
        model = Model(spec=trained.spec, module=copy.deepcopy(trained.module).cpu().eval())
        # where cells look is measured once and kept: while the weights are still the trained ones
        next(self.explaining(model).maps(images[:1], ["gradcam"]))
        steps = steps_of(model.module.cpu(), torch.zeros(1, 3, *images.shape[1:3]))
        for number, step in enumerate(steps, 1):
            reinitialise(model.module, step, self.run.settings.seed + 1000 * draw + number)
        settle(model, steps, images, torch.device("cpu"))
        return model

    def _records(
        self, at: int, network: str, method: str, null: tuple[str, int], values: dict[str, float]
    ) -> list[dict[str, object]]:
        owner = self.owners[at] | {"called": bool(self.called[network][at]), "network": network, "method": method}
        owner |= {"null": null[0], "draw": null[1]}
        return [owner | {"statistic": name, "value": value} for name, value in values.items()]


def compare(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return each statistic with its interval over patients, and how far it is above each of its nulls.

    Parameters
    ----------
    table
        What `measure_maps` and `measure_effects` return, of one network, method and statistic.
    seed
        Draws patients.

    Returns
    -------
    pd.DataFrame
        `null` (`observed` for the statistic itself), `value`, `low`, `high`, `tiles`, `patients`.
    """
    table = table.dropna(subset="value")
    result = []
    for null, rows in table.groupby("null", sort=False):
        if null == OBSERVED:
            joined = rows.assign(above=rows["value"])
        else:
            reference = table[table["null"] == (PAIRED if null == "beside" else OBSERVED)]
            joined = rows.merge(reference[["tile", "value"]], on="tile", suffixes=("", "_observed"))
            joined["above"] = joined["value_observed"] - joined["value"]
        if null == "random weights":
            draws = joined["run"] + "-" + joined["draw"].astype(str)
            value, low, high = crossed_estimate(joined["above"], joined["patient_id"], draws, seed)
        else:
            tiles = joined.groupby("tile").agg(above=("above", "mean"), patient_id=("patient_id", "first"))
            value, low, high = estimate(tiles["above"], 1, tiles["patient_id"], seed)
        counts = {"tiles": joined["tile"].nunique(), "patients": joined["patient_id"].nunique()}
        result.append({"null": null, "value": value, "low": low, "high": high} | counts)
    return pd.DataFrame(result)


def false_alarms(table: pd.DataFrame, seed: int) -> tuple[int, int]:
    """Count how often a map that was moved, in the place of the true one, is above the other moved ones, of how many.

    Parameters
    ----------
    table, seed
        As for `compare`, of a map.
    """
    wide = table[table["null"] == "shifted"].pivot_table(index=["tile", "patient_id"], columns="draw", values="value")
    wide = wide.dropna()
    patients = wide.index.get_level_values("patient_id")
    others = [wide[draw] - wide.drop(columns=draw).mean(axis=1) for draw in wide]
    return sum(estimate(above, 1, patients, seed + 1).low > 0 for above in others), len(others)


def main(given: list[str] | None = None) -> int:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--cells", type=Path, required=True)
    parser.add_argument(
        "--nuclei", default=NucleiSettings().engine, help="an engine, discs, or a folder of label images"
    )
    parser.add_argument("--target", default="Tumor", help="the class of cells that is asked for")
    parser.add_argument("--tiles", type=int, default=150, help="of each run, at most")
    parser.add_argument("--out", type=Path, help="folder for the tables")
    options = parser.parse_args(given)
    torch.set_num_threads(1)
    cells = pd.read_csv(options.cells).assign(target=lambda rows: rows["class"] == options.target)
    tables, singles = [], []
    for folder in options.runs:
        study = Study(open_run(folder), cells, options.nuclei, options.tiles)
        own = np.concatenate([each.target for each in study.nuclei])
        print(
            f"{folder.name}: {study.cells} cells of test slides, {study.matched} nuclei of a class; {len(study.rows)} "
            f"tiles with both kinds, {own.sum()} nuclei {options.target}, {(~own).sum()} others",
            flush=True,
        )
        print(f"{folder.name}: AUC of test tiles: {learned(study.stored.rows)}", flush=True)
        effects, nuclei = study.measure_effects()
        tables += [study.measure_maps(), effects]
        singles.append(nuclei.assign(run=folder.name))
    table = pd.concat(tables, ignore_index=True)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        table.to_parquet(options.out / "statistics.parquet")
        pd.concat(singles, ignore_index=True).to_parquet(options.out / "nuclei.parquet")
    report(table)
    return 0


def learned(rows: pd.DataFrame) -> str:
    """Say how well each network tells test tiles apart, with the interval over patients."""
    truth, words = rows["label"] == TissueClass.TUMOR.key, []
    weights = sample(rows["patient_id"].nunique(), RESAMPLES, 0)
    for network in TASKS:
        score = tile_parts(truth, rows[network], rows["patient_id"], 0.5).scores(weights)["auc"]
        low, high = interval(score, weights)
        words.append(f"{network} {float(score):.3f} ({low:.3f} to {high:.3f})")
    return f"{', '.join(words)}; {len(rows)} tiles, {truth.sum()} tumor, {weights.shape[1]} patients"


def report(table: pd.DataFrame) -> None:
    """Print what each statistic comes to, over all tiles and over those called tumor, and the rate of false alarms."""
    for part, rows in (("all", table), ("called tumor", table[table["called"]])):
        print(f"\ntiles: {part}")
        print(f"{'':10} {'':9} {'':8} {'tiles':>5} {'patients':>8}  value (95 % interval); above null: ...")
        alarms = np.zeros(2, np.int64)
        for (network, method, statistic), own in rows.groupby(["network", "method", "statistic"], sort=False):
            compared = compare(own, 0).set_index("null")
            head = compared.loc[OBSERVED]
            words = [f"{each.value:+.3f} ({each.low:+.3f} to {each.high:+.3f})" for each in compared.itertuples()]
            nulls = [
                f"{name} {word}"
                for name, word in zip(compared.index, words, strict=True)
                if name not in (OBSERVED, PAIRED)
            ]
            print(
                f"{network:10} {method:9} {statistic:8} {head.tiles:5.0f} {head.patients:8.0f}  "
                f"{words[list(compared.index).index(OBSERVED)]}; {'; '.join(nulls)}"
            )
            if method != "effect" and statistic == "auroc":
                alarms += false_alarms(own, 0)
        if alarms[1]:
            print(f"moved maps in the place of true ones: {alarms[0]} of {alarms[1]} intervals lie above 0")


if __name__ == "__main__":
    raise SystemExit(main())
