"""The stage `check`: whether a run's explanations are true. It writes what `vitrail.explain.checks.results` reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from vitrail.classes import TASKS, TissueClass
from vitrail.core.files import write_json, write_table
from vitrail.core.resume import Parts
from vitrail.explain.checks.floors import Untrained, blind_maps
from vitrail.explain.checks.localisation import locate
from vitrail.explain.checks.map_statistics import gini, likeness
from vitrail.explain.checks.perturbation import FLOORS, curves, orders
from vitrail.explain.checks.randomisation import derangement, map_correlation, randomisation, steps_of
from vitrail.explain.checks.reliance_study import check_reliance
from vitrail.explain.checks.replacements import CALLED, choose_donors, replacements, without_evidence
from vitrail.explain.checks.results import CASCADES, SUMMARY, as_table, summarise
from vitrail.explain.checks.stability import CHANGES, change, follow, moved
from vitrail.explain.explainer import BATCH, Explainer
from vitrail.explain.methods.base import METHODS, fitted_heads, methods_named
from vitrail.explain.study.store import open_stored, split_key
from vitrail.explain.target import target_pixels, target_score
from vitrail.geometry import Region
from vitrail.models.batches import tumor_score
from vitrail.models.device import keep_memory, pick_device, reproducible
from vitrail.models.openvino import Compiled, use_openvino
from vitrail.models.preprocessing import FromBytes
from vitrail.models.store import load_explained
from vitrail.synthetic.truth import read_truth
from vitrail.tiles.store import read_tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.explain.methods.base import Head
    from vitrail.explain.saliency import Saliency
    from vitrail.explain.study.store import Stored
    from vitrail.models.store import Model
    from vitrail.slides.cohort import CohortSlide
    from vitrail.stage import Work

    Positions = NDArray[np.int64]
    Outputs = Callable[[NDArray[np.uint8]], Iterator[torch.Tensor]]


PART = 8
"""Tiles whose curves are kept as one file: what a killed run loses at most."""

RANDOMISED = 32
"""Tiles that randomised networks explain, at most: as many as go through in one pass."""

STEPWISE = 8
"""Tiles in the draws that are explained step by step: there are many steps."""

OTHERS = 16
"""Maps of other tiles that each tile's maps are compared with, at most."""

CHANGED = 8
"""Tiles whose maps have to follow changes, at most."""

REFERENCE = 64
"""Tiles without evidence that are scored for each network, at most."""

EXPENSIVE = 8
"""A method that takes more passes of the network an image than this, of which one back counts as two, is expensive."""

FEW_TILES, FEW_DRAWS = 4, 3
"""Tiles that an expensive method explains again for stability and randomisation, and draws of random weights: its
verdicts rest on so many, and are undecided sooner."""

_CHOICE, _ORDERS, _WEIGHTS, _OTHERS = 0xC4EC, 0x0DE1, 0xADEB, 0x07E5  # keep draws of the same seed apart
_DONORS, _REFERENCE, _CHANGES, _NOISE, _UNTRAINED = 0xD0E0, 0x2EFE, 0xC4A6, 0x2015, 0x0411


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Check:
    """The stage at work.

    Attributes
    ----------
    work
        What the stage was given.
    parts
        Of the tables.
    models
        The networks that were explained, by name.
    stored
        The run's explanations.
    images
        Of all of the run's tiles.
    chosen
        Which rows of the explanations are checked, rising.
    device
        Where to run.
    """

    work: Work
    parts: Parts
    models: dict[str, Model]
    stored: Stored
    images: NDArray[np.uint8]
    chosen: Positions
    device: torch.device

    @property
    def seed(self) -> int:
        """The study's seed."""
        return self.work.run.settings.seed

    def explaining(self, model: Model) -> Explainer:
        """Return what explains a model as the study's maps were made."""
        return Explainer(model, self.device, engine="torch", **self.stored.dense)

    def methods(self, network: str) -> list[str]:
        """Return the methods that explained a network."""
        return [method for own, method in map(split_key, self.stored.keys) if own == network]

    def heads(self, network: str) -> dict[str, Head]:
        """Return what was fitted for the methods of a network."""
        return fitted_heads(self.work.run.folder / network, methods_named(self.methods(network)))

    def tiles(self, positions: Positions) -> NDArray[np.uint8]:
        """Return the images of rows of the explanations."""
        return np.asarray(self.images[self.stored.rows["tile"].to_numpy()[positions]])

    def few(self, most: int) -> Positions:
        """Return some of the checked tiles, evenly spread, so that no patient is left out who need not be."""
        at = np.linspace(0, len(self.chosen) - 1, min(most, len(self.chosen))).round().astype(np.int64)
        return self.chosen[at]

    def untrained(self, network: str, draw: int) -> Untrained:
        """Return a network with random weights, explained by its first method that is not expensive."""
        seed = int(np.random.default_rng([self.seed, _UNTRAINED, TASKS.index(network), draw]).integers(2**32))
        count, model = len(self.stored), self.models[network]
        # its batch normalisation needs several tiles, whether or not they are checked
        few = np.linspace(0, count - 1, max(2, min(RANDOMISED, count))).round().astype(np.int64)
        return Untrained(model, self.tiles(few), self.first(network), self.heads(network), self.explaining, seed)

    def first(self, network: str) -> str:
        """Return the first method of a network that is not expensive, or else the first."""
        methods = self.methods(network)
        return next((name for name in methods if not expensive(name)), methods[0])

    def floors(self, network: str, draw: int = 0) -> list[dict[str, Saliency]]:
        """Return for each checked tile the maps that no method made; those that are random in one of several draws."""
        if not len(self.chosen):
            return []

        def explain() -> NDArray[np.float32]:
            images = self.tiles(self.chosen)
            pixels = tumor_pixels(Explainer(self.models[network], self.device, engine="torch").outputs(images))
            return self.untrained(network, draw).maps(images, "predicted" if pixels is None else pixels)

        maps = self.parts.array(f"untrained-{network}-{draw}", explain)
        tiles, first = self.stored.rows["tile"].to_numpy()[self.chosen].tolist(), f"{network}_{self.first(network)}"
        return [
            blind_maps(np.asarray(self.images[tile]), (self.seed, _NOISE, tile, draw))
            | {"untrained": replace(self.stored.saliency(first, i), method="untrained", values=values)}
            for i, tile, values in zip(self.chosen.tolist(), tiles, maps, strict=True)
        ]


def expensive(method: str) -> bool:
    """Tell whether a method takes many passes of the network."""
    return METHODS[method].passes + 2 * METHODS[method].gradients > EXPENSIVE


def check_study(work: Work, entries: tuple[CohortSlide, ...]) -> None:
    """Write the folder `checks/`.

    The same study gives the same bytes on one machine, however often the work was killed.

    Parameters
    ----------
    work
        A run whose tiles, networks and explanations are finished, and where to write.
    entries
        The cohort: synthetic slides among it are asked for their truth.

    Raises
    ------
    RunError, ModelError
        A stage's folder cannot be read, or the device's memory is too small.
    SettingsError
        The settings name a device that is not there.
    SlideError
        The truth of a synthetic slide is damaged.
    """
    parts = Parts(work.folder / "parts")
    if not (work.folder / SUMMARY).is_file():  # else it was killed while it cleared up
        keep_memory()
        folder, settings = work.run.folder, work.run.settings
        stored = open_stored(folder / "explanations")
        check = _Check(
            work=work,
            parts=parts,
            models={
                name: load_explained(folder / name) for name in dict.fromkeys(split_key(key)[0] for key in stored.keys)
            },
            stored=stored,
            images=read_tiles(folder / "tiles").images,
            chosen=choose_tiles(stored.rows, settings.check.tiles, settings.seed),
            device=pick_device(settings.compute.device),
        )
        with reproducible(check.device, settings.seed):
            tables = {
                "perturbation": as_table("perturbation", _perturbed(check)),
                "reference": as_table("reference", _reference(check)),
                "randomisation": as_table("randomisation", _randomised(check)),
                "stability": as_table("stability", _changed(check)),
                "maps": as_table("maps", _described(check)),
                "truth": as_table("truth", _located(check, entries)),
            }
            reliance = check_reliance(work, parts, check.models, stored.rows, check.device, entries)
        for name, table in tables.items():
            write_table(work.folder / f"{name}.parquet", table)
        cells = {key: stored.file.kinds[key].size for key in stored.keys}
        summary = summarise(tables, settings.seed, stored.keys, stored.methods, cells)
        write_json(work.folder / SUMMARY, {"tiles": len(check.chosen), **summary, "reliance": reliance})
    parts.discard()


def choose_tiles(rows: pd.DataFrame, count: int, seed: int) -> Positions:
    """Draw the tiles to check.

    Best are those that both networks call tumor, rightly: there is something to explain. Where a cohort has none, all
    that are labelled tumor will do, so that networks that fail are checked, too; and where no test tile is, all tiles:
    maps point at what speaks for tumor on those as well, and the score falls or rises with it, if less.

    Parameters
    ----------
    rows
        The rows of the explanations.
    count
        How many, at most.
    seed
        Draws them.

    Returns
    -------
    NDArray[np.int64]
        Their positions in `rows`, rising.
    """
    tumor = (rows["label"] == TissueClass.TUMOR.key).to_numpy()
    called = tumor & (rows[list(TASKS)] >= CALLED).all(axis=1).to_numpy()
    best = next((mask for mask in (called, tumor) if mask.any()), np.ones(len(rows), np.bool_))
    drawn = np.random.default_rng([seed, _CHOICE]).permutation(np.flatnonzero(best))[:count]
    return np.sort(drawn).astype(np.int64)


def score_images(explainer: Explainer, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return how much tumor a network sees in images, 0 to 1.

    Parameters
    ----------
    explainer
        The network.
    images
        `[n, h, w, 3]`.

    Returns
    -------
    NDArray[np.float64]
        `[n]`: of a classifier the probability of tumor, of a segmenter the mean of the pixels'.
    """
    return np.concatenate([tumor_score(output.float(), soft=True) for output in explainer.outputs(images)])


def tumor_pixels(outputs: Iterator[torch.Tensor]) -> torch.Tensor | None:
    """Return the pixels that a segmenter calls tumor, which are what is explained, `[n, h, w]`; None of a classifier.

    Of a tile without any, all pixels.
    """
    batches = [target_pixels(batch, TissueClass.TUMOR).cpu() for batch in outputs if batch.ndim > 1]
    if not batches:
        return None
    inside = torch.cat(batches)
    return inside | ~inside.any(2, keepdim=True).any(1, keepdim=True)


def score_both(
    run: Outputs,
    inside: torch.Tensor | None,
    images: NDArray[np.uint8],
) -> NDArray[np.float64]:
    """Return how much tumor a network sees in versions of one image, as a probability and as what methods explain.

    Parameters
    ----------
    run
        Yields the network's outputs for images, batch by batch.
    inside
        Of a segmenter, which pixels are explained: what `tumor_pixels` returns for the image as it is, `[1, h, w]`.
    images
        `[n, h, w, 3]`.

    Returns
    -------
    NDArray[np.float64]
        `[n, 2]`: what `score_images` returns, and what `target_score` does.
    """
    scores = []
    for batch in run(images):
        output = batch.float()
        chosen = None if inside is None else inside.to(output.device).expand(len(output), -1, -1)
        logits = target_score(output, TissueClass.TUMOR, chosen).cpu().double().numpy()
        scores.append(np.column_stack([tumor_score(output, soft=True), logits]))
    return np.concatenate(scores)


def compiled_outputs(compiled: Compiled, images: NDArray[np.uint8]) -> Iterator[torch.Tensor]:
    """Yield the outputs of a compiled network for images `[n, h, w, 3]`, batch by batch."""
    for at in range(0, len(images), BATCH):
        (output,) = compiled(images[at : at + BATCH])
        yield torch.from_numpy(output)


def _perturbed(check: _Check) -> Iterator[pd.DataFrame]:
    donors = choose_donors(check.stored.rows, check.chosen, check.images, (check.seed, _DONORS))
    with check.work.progress.task("perturb", len(check.models) * len(check.chosen)) as step:
        for network, model in check.models.items():
            run, floors = Explainer(model, check.device, engine="torch").outputs, check.floors(network)
            if use_openvino(check.work.run.settings.compute.engine, check.device):  # curves are most of the work
                compiled = Compiled(FromBytes(model.module, model.spec))
                run = partial(compiled_outputs, compiled)
            for start in range(0, len(check.chosen), PART):
                numbers = range(len(check.chosen))[start : start + PART]
                name = f"perturbation-{network}-{start:06d}"
                yield check.parts.table(name, partial(_curves, check, network, run, floors, donors, numbers))
                step(len(numbers))


def _curves(
    check: _Check, network: str, run: Outputs, floors: list[dict[str, Saliency]], donors: Positions, numbers: range
) -> pd.DataFrame:  # fmt: skip
    settings, tables = check.work.run.settings.check, []
    for number in numbers:
        i = int(check.chosen[number])
        row, image = check.stored.rows.iloc[i], check.tiles(check.chosen[number : number + 1])[0]
        saliencies = {method: check.stored.saliency(f"{network}_{method}", i) for method in check.methods(network)}
        saliencies |= {name: floors[number][name] for name in ("edges", "untrained")}  # the others are orders anyhow
        maps = {name: saliency.upsample().astype(np.float64) for name, saliency in saliencies.items()}
        ranked = orders(maps, (check.seed, _ORDERS, int(row["tile"])))
        donor = check.tiles(donors[number : number + 1])[0] if len(donors) else None
        score = partial(score_both, run, tumor_pixels(run(image[None])))
        table = curves(score, image, ranked, settings.steps, replacements(image, donor, settings.replacements))
        tables.append(table.assign(tile=row["tile"], patient_id=row["patient_id"], network=network))
    return pd.concat(tables, ignore_index=True)


def _reference(check: _Check) -> Iterator[pd.DataFrame]:
    for network, model in check.models.items():
        explainer = Explainer(model, check.device, engine="torch")
        there = np.flatnonzero(without_evidence(check.stored.rows, [network]))
        rng = np.random.default_rng([check.seed, _REFERENCE])
        drawn = np.sort(rng.permutation(there)[:REFERENCE])

        def score(network: str = network, explainer: Explainer = explainer, drawn: Positions = drawn) -> pd.DataFrame:
            rows = check.stored.rows[["tile", "patient_id"]].iloc[drawn].reset_index(drop=True)
            return rows.assign(network=network, score=score_images(explainer, check.tiles(drawn)) if len(drawn) else [])

        yield check.parts.table(f"reference-{network}", score)


def _randomised(check: _Check) -> Iterator[pd.DataFrame]:
    draws = check.work.run.settings.check.draws
    if len(check.chosen) < 2:
        return
    with check.work.progress.task("randomise", len(check.models) * (draws + 1)) as step:
        for network in check.models:
            for draw in range(draws):
                name = f"randomisation-{network}-{draw:03d}"
                yield check.parts.table(name, partial(_cascade, check, network, draw))
                step()
            yield check.parts.table(f"randomisation-{network}-floors", partial(_blind_cascade, check, network))
            step()


def _cascade(check: _Check, network: str, draw: int) -> pd.DataFrame:
    methods = check.methods(network)
    costly, tables = [method for method in methods if expensive(method)], []
    cheap, seed = [method for method in methods if method not in costly], (check.seed, _WEIGHTS, TASKS.index(network))
    for names, most, every_step in (
        (cheap, STEPWISE if draw < CASCADES else RANDOMISED, draw < CASCADES),
        (costly if draw < FEW_DRAWS else [], FEW_TILES, False),
    ):
        if not names:
            continue
        few = check.few(most)
        table = randomisation(
            check.models[network],
            check.tiles(few),
            {method: np.asarray(check.stored.maps(f"{network}_{method}")[few]) for method in names},
            {name: head for name, head in check.heads(network).items() if name in names},
            check.device,
            (*seed, draw),
            every_step=every_step,
            dense=check.stored.dense,
        )
        owners = check.stored.rows[["tile", "patient_id"]].iloc[few].iloc[table.pop("index")].reset_index(drop=True)
        tables.append(pd.concat([owners, table], axis=1).assign(network=network, draw=draw))
    return pd.concat(tables, ignore_index=True) if tables else as_table("randomisation", [])


def _blind_cascade(check: _Check, network: str) -> pd.DataFrame:
    """Compare maps that no method made with those once weights and noise are drawn again; edges and blob stay."""
    before, after = (check.floors(network, draw) for draw in (0, 1))
    steps = steps_of(check.models[network].module.cpu(), torch.zeros(1, 3, *check.images.shape[1:3]))
    check.models[network].module.to(check.device)
    owners = check.stored.rows[["tile", "patient_id"]].iloc[check.chosen].reset_index(drop=True)
    tables = []
    for draw, name in product((0, 1), before[0]):
        others = derangement(len(before), np.random.default_rng([check.seed, _OTHERS, draw]))
        pair = [np.stack([maps[name].values for maps in each]) for each in (after, before)]  # noqa: PD011
        same, chance = map_correlation(pair[0], pair[1], others)
        table = owners.assign(method=name, number=len(steps), step=steps[-1].name, correlation=same, chance=chance)
        tables.append(table.assign(network=network, draw=draw))
    return pd.concat(tables, ignore_index=True)


def _changed(check: _Check) -> Iterator[pd.DataFrame]:
    if len(check.chosen) < 2:
        return
    with check.work.progress.task("change", len(check.models) * len(CHANGES)) as step:
        for network in check.models:
            untrained = cache(partial(check.untrained, network, 0))  # takes seconds, and all changes ask it
            for name in CHANGES:
                job = partial(_followed, check, network, name, untrained)
                yield check.parts.table(f"stability-{network}-{name}", job)
                step()


def _followed(check: _Check, network: str, name: str, untrained: Callable[[], Untrained]) -> pd.DataFrame:
    methods, tables = check.methods(network), []
    for costly, most in ((False, CHANGED), (True, FEW_TILES)):
        names = [method for method in methods if expensive(method) == costly]
        few = check.few(most)
        images, rows = check.tiles(few), check.stored.rows[["tile", "patient_id"]].iloc[few].reset_index(drop=True)
        seeds = [(check.seed, _CHANGES, CHANGES.index(name), tile) for tile in rows["tile"].tolist()]
        altered = np.stack([change(image, name, seed) for image, seed in zip(images, seeds, strict=True)])
        explainer = Explainer(check.models[network], check.device, engine="torch")
        inside = tumor_pixels(explainer.outputs(images))
        # what is explained are the pixels of the tile as it is, wherever they have moved
        pixels = None if inside is None else torch.stack([torch.tensor(moved(each.numpy(), name)) for each in inside])
        maps = _maps_of_changed(check, network, names, altered, pixels)
        before = {method: [check.stored.saliency(f"{network}_{method}", i) for i in few.tolist()] for method in names}
        if not costly:
            floors = check.floors(network)
            own = [floors[int(number)] for number in np.searchsorted(check.chosen, few)]
            after = untrained().maps(altered, "predicted" if pixels is None else pixels)
            blind = [
                blind_maps(image, (*seed, _NOISE)) | {"untrained": replace(like["untrained"], values=values)}
                for image, seed, like, values in zip(altered, seeds, own, after, strict=True)
            ]
            before |= {floor: [each[floor] for each in own] for floor in FLOORS}
            maps |= {floor: ([each[floor] for each in blind], np.full((2, len(few)), np.nan)) for floor in FLOORS}
        others = derangement(len(few), np.random.default_rng([check.seed, _OTHERS]))
        for method, (after_change, (residue, difference)) in maps.items():
            pair = [np.stack([each.upsample() for each in which]) for which in (before[method], after_change)]
            same, chance = follow(pair[0], pair[1], name, others)
            table = rows.assign(network=network, method=method, change=name, correlation=same, chance=chance)
            tables.append(table.assign(residue=residue, difference=difference))
    return pd.concat(tables, ignore_index=True)


def _maps_of_changed(
    check: _Check, network: str, methods: list[str], images: NDArray[np.uint8], pixels: torch.Tensor | None
) -> dict[str, tuple[list[Saliency], NDArray[np.float64]]]:
    """Explain images; returns by method the maps, and their residues and the differences they should add up to."""
    if not methods:
        return {}
    explainer = check.explaining(check.models[network])
    heads = {name: head for name, head in check.heads(network).items() if name in methods}
    batches = explainer.maps(images, methods, heads, pixels="predicted" if pixels is None else pixels)
    result = {}
    for method, parts in zip(methods, zip(*batches, strict=True), strict=True):
        missing = []
        for maps in parts:
            sums = maps.values.double().sum((1, 2)).cpu().numpy()  # noqa: PD011 - no data frame
            residue = np.full(len(sums), np.nan) if maps.residue is None else maps.residue.double().cpu().numpy()
            missing.append(np.stack([residue, sums - residue]))
        result[method] = ([each for maps in parts for each in maps.saliencies()], np.concatenate(missing, axis=1))
    return result


def _described(check: _Check) -> Iterator[pd.DataFrame]:
    owners = check.stored.rows[["tile", "patient_id"]].iloc[check.chosen].reset_index(drop=True)
    for key in check.stored.keys:
        maps = np.asarray(check.stored.maps(key)[check.chosen])
        yield owners.assign(key=key, gini=gini(maps), shared=likeness(maps))
    for network in check.models:
        floors = check.floors(network)
        for name in FLOORS if len(floors) else ():
            maps = np.stack([each[name].values for each in floors])  # noqa: PD011 - no data frame
            yield owners.assign(key=f"{network}_{name}", gini=gini(maps), shared=likeness(maps))


def _located(check: _Check, entries: tuple[CohortSlide, ...]) -> Iterator[pd.DataFrame]:
    slides = {entry.slide_id: entry.slide for entry in entries}
    owners = check.stored.rows["slide_id"].iloc[check.chosen].to_numpy()
    names = sorted(set(owners))
    with check.work.progress.task("locate", len(names)) as step:
        for name in names:
            part = check.chosen[owners == name]
            yield check.parts.table(f"truth-{name}", partial(_on_slide, check, slides[name], part))
            step()


def _on_slide(check: _Check, slide: Path, part: Positions) -> pd.DataFrame:
    truth, stored = read_truth(slide), check.stored
    if truth is None:
        return as_table("truth", [])
    side_px, tables = check.images.shape[1], []
    floors = {network: check.floors(network) for network in check.models}

    def saliencies_of(i: int) -> dict[str, Saliency]:
        number = int(np.searchsorted(check.chosen, i))
        own = {key: stored.saliency(key, i) for key in stored.keys}
        return own | {
            f"{network}_{name}": saliency for network in floors for name, saliency in floors[network][number].items()
        }

    for i in part.tolist():
        row = stored.rows.iloc[i]
        region = Region(x=row["x"], y=row["y"], width=row["side"], height=row["side"])
        rest = check.chosen[check.chosen != i]  # their maps say what chance gives
        drawn = np.random.default_rng([check.seed, _OTHERS, i]).permutation(rest)[:OTHERS]
        own, far = saliencies_of(i), [saliencies_of(other) for other in drawn.tolist()]
        others = {key: [each[key] for each in far] for key in own}
        table = pd.DataFrame(locate(own, truth.masks(region, (side_px, side_px)), others))
        tables.append(table.assign(tile=row["tile"], patient_id=row["patient_id"]))
    return as_table("truth", tables)
