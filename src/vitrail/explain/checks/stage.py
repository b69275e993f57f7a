"""The stage `check`: whether a run's explanations are true. It writes what `vitrail.explain.checks.results` reads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vitrail.classes import TASKS, TissueClass
from vitrail.core.files import write_json, write_table
from vitrail.core.resume import Parts
from vitrail.explain.checks.localisation import locate
from vitrail.explain.checks.perturbation import curves, orders
from vitrail.explain.checks.randomisation import randomisation
from vitrail.explain.checks.reliance_study import check_reliance
from vitrail.explain.checks.results import CASCADES, SUMMARY, as_table, summarise
from vitrail.explain.explainer import Explainer
from vitrail.explain.methods.base import fitted_heads, methods_named
from vitrail.explain.study.store import open_stored, split_key
from vitrail.geometry import Region
from vitrail.models.batches import tumor_score
from vitrail.models.device import keep_memory, pick_device, reproducible
from vitrail.models.store import load_model
from vitrail.synthetic.truth import read_truth
from vitrail.tiles.store import read_tiles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from vitrail.explain.study.store import Stored
    from vitrail.models.store import Model
    from vitrail.slides.cohort import CohortSlide
    from vitrail.stage import Work

    Positions = NDArray[np.int64]


PART = 8
"""Tiles whose curves are kept as one file: what a killed run loses at most."""

RANDOMISED = 32
"""Tiles that randomised networks explain, at most: as many as go through in one pass."""

OTHERS = 16
"""Maps of other tiles that each tile's maps are compared with, at most."""

_CALLED = 0.5
_CHOICE, _ORDERS, _WEIGHTS, _OTHERS = 0xC4EC, 0x0DE1, 0xADEB, 0x07E5  # keep draws of the same seed apart


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

    def methods(self, network: str) -> list[str]:
        """Return the methods that explained a network."""
        return [method for own, method in map(split_key, self.stored.keys) if own == network]


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
                name: load_model(folder / name) for name in dict.fromkeys(split_key(key)[0] for key in stored.keys)
            },
            stored=stored,
            images=read_tiles(folder / "tiles").images,
            chosen=choose_tiles(stored.rows, settings.check.tiles, settings.seed),
            device=pick_device(settings.compute.device),
        )
        with reproducible(check.device, settings.seed):
            tables = {
                "perturbation": as_table("perturbation", _perturbed(check)),
                "randomisation": as_table("randomisation", _randomised(check)),
                "truth": as_table("truth", _located(check, entries)),
            }
            reliance = check_reliance(work, parts, check.models, stored.rows, check.device, entries)
        for name, table in tables.items():
            write_table(work.folder / f"{name}.parquet", table)
        summary = summarise(tables, settings.seed, stored.keys)
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
    called = tumor & (rows[list(TASKS)] >= _CALLED).all(axis=1).to_numpy()
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


def _perturbed(check: _Check) -> Iterator[pd.DataFrame]:
    with check.work.progress.task("perturb", len(check.models) * len(check.chosen)) as step:
        for network, model in check.models.items():
            explainer = Explainer(model, check.device, engine="torch")
            for start in range(0, len(check.chosen), PART):
                part = check.chosen[start : start + PART]
                name = f"perturbation-{network}-{start:06d}"
                yield check.parts.table(name, partial(_curves, check, network, explainer, part))
                step(len(part))


def _curves(check: _Check, network: str, explainer: Explainer, part: Positions) -> pd.DataFrame:
    settings, tables = check.work.run.settings, []
    for i in part.tolist():
        row = check.stored.rows.iloc[i]
        tile = int(row["tile"])
        maps = {
            method: check.stored.saliency(f"{network}_{method}", i).upsample().astype(np.float64)
            for method in check.methods(network)
        }
        ranked = orders(maps, (settings.seed, _ORDERS, tile))
        table = curves(partial(score_images, explainer), np.asarray(check.images[tile]), ranked, settings.check.steps)
        tables.append(table.assign(tile=tile, patient_id=row["patient_id"], network=network))
    return pd.concat(tables, ignore_index=True)


def _randomised(check: _Check) -> Iterator[pd.DataFrame]:
    draws, chosen = check.work.run.settings.check.draws, check.chosen
    if len(chosen) < 2:
        return
    # evenly spread, so that no patient is left out who need not be
    few = chosen[np.linspace(0, len(chosen) - 1, min(RANDOMISED, len(chosen))).round().astype(np.int64)]
    with check.work.progress.task("randomise", len(check.models) * draws) as step:
        for network in check.models:
            for draw in range(draws):
                name = f"randomisation-{network}-{draw:03d}"
                yield check.parts.table(name, partial(_cascade, check, network, draw, few))
                step()


def _cascade(check: _Check, network: str, draw: int, few: Positions) -> pd.DataFrame:
    rows, methods = check.stored.rows.iloc[few], check.methods(network)
    table = randomisation(
        check.models[network],
        np.asarray(check.images[rows["tile"].to_numpy()]),
        {method: np.asarray(check.stored.maps(f"{network}_{method}")[few]) for method in methods},
        fitted_heads(check.work.run.folder / network, methods_named(methods)),
        check.device,
        (check.work.run.settings.seed, _WEIGHTS, TASKS.index(network), draw),
        every_step=draw < CASCADES,
        dense=check.stored.dense,
    )
    owners = rows[["tile", "patient_id"]].iloc[table.pop("index")].reset_index(drop=True)
    return pd.concat([owners, table], axis=1).assign(network=network, draw=draw)


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
    for i in part:
        row = stored.rows.iloc[i]
        region = Region(x=row["x"], y=row["y"], width=row["side"], height=row["side"])
        rest = check.chosen[check.chosen != i]  # their maps say what chance gives
        drawn = np.random.default_rng([check.work.run.settings.seed, _OTHERS, int(i)]).permutation(rest)[:OTHERS]
        saliencies = {key: stored.saliency(key, i) for key in stored.keys}
        others = {key: [stored.saliency(key, other) for other in drawn] for key in stored.keys}
        table = pd.DataFrame(locate(saliencies, truth.masks(region, (side_px, side_px)), others))
        tables.append(table.assign(tile=row["tile"], patient_id=row["patient_id"]))
    return as_table("truth", tables)
