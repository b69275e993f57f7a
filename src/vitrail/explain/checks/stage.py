"""The stage `check`: whether a run's explanations are true. It writes what `vitrail.explain.checks.store` reads."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vitrail.classes import TASKS, TissueClass
from vitrail.core.files import read_table, write_table, write_text
from vitrail.explain.checks.localisation import locate
from vitrail.explain.checks.perturbation import Scorer, curves, orders
from vitrail.explain.checks.randomisation import METHODS, Subject, randomisation
from vitrail.explain.checks.store import CASCADES, SUMMARY, as_table, summarise
from vitrail.explain.methods.hrcam import fitted_head
from vitrail.explain.study.store import KEYS, open_stored
from vitrail.geometry import Region
from vitrail.models.device import keep_memory, pick_device, reproducible
from vitrail.models.store import load_model
from vitrail.synthetic.truth import read_truth
from vitrail.tiles.store import read_tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
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
_CHOICE, _ORDERS, _WEIGHTS, _OTHERS = (
    0xC4EC,
    0x0DE1,
    0xADEB,
    0x07E5,
)  # keep these draws apart from the others of the same seed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Check:
    """The stage at work.

    Attributes
    ----------
    work
        What the stage was given.
    models
        Both networks, by name.
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
    models: Mapping[str, Model]
    stored: Stored
    images: NDArray[np.uint8]
    chosen: Positions
    device: torch.device

    def kept(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Return a part of a table, from its file where an earlier attempt finished it."""
        path = _parts(self.work) / f"{name}.parquet"
        if not path.is_file():
            write_table(path, make())
        return read_table(path)

    def images_of(self, rows: pd.DataFrame) -> NDArray[np.uint8]:
        return np.asarray(self.images[rows["tile"].to_numpy()])


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
    if not (work.folder / SUMMARY).is_file():  # else it was killed while it cleared up
        keep_memory()
        _parts(work).mkdir(exist_ok=True)
        _write(work, _opened(work), entries)
    shutil.rmtree(_parts(work), ignore_errors=True)


def _opened(work: Work) -> _Check:
    folder, settings = work.run.folder, work.run.settings
    stored = open_stored(folder / "explanations")
    return _Check(
        work=work,
        models={network: load_model(folder / network) for network in TASKS},
        stored=stored,
        images=read_tiles(folder / "tiles").images,
        chosen=choose_tiles(stored.rows, settings.check.tiles, settings.seed),
        device=pick_device(settings.compute.device),
    )


def _write(work: Work, check: _Check, entries: tuple[CohortSlide, ...]) -> None:
    seed = work.run.settings.seed
    makers = {"perturbation": _perturbed(check), "randomisation": _randomised(check), "truth": _located(check, entries)}
    with reproducible(check.device, seed):
        tables = {name: as_table(name, parts) for name, parts in makers.items()}
    for name, table in tables.items():
        write_table(work.folder / f"{name}.parquet", table)
    summary = {"tiles": len(check.chosen), **summarise(tables, seed)}
    write_text(work.folder / SUMMARY, json.dumps(summary, indent=1, allow_nan=False) + "\n")


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
    Their positions in `rows`, rising.
    """
    tumor = (rows["label"] == TissueClass.TUMOR.key).to_numpy()
    called = tumor & (rows[list(TASKS)] >= _CALLED).all(axis=1).to_numpy()
    wanted = next((mask for mask in (called, tumor) if mask.any()), np.ones(len(rows), np.bool_))
    drawn = np.random.default_rng([seed, _CHOICE]).permutation(np.flatnonzero(wanted))[:count]
    return np.sort(drawn).astype(np.int64)


def _parts(work: Work) -> Path:
    return work.folder / "parts"


def _perturbed(check: _Check) -> Iterator[pd.DataFrame]:
    starts = range(0, len(check.chosen), PART)
    with check.work.progress.task("perturb", len(TASKS) * len(check.chosen)) as step:
        for network in TASKS:
            score = Scorer(check.models[network], check.device)
            for start in starts:
                part = check.chosen[start : start + PART]
                yield check.kept(f"perturbation-{network}-{start:06d}", partial(_curves, check, network, score, part))
                step(len(part))


def _curves(check: _Check, network: str, score: Scorer, part: Positions) -> pd.DataFrame:
    return pd.concat([_curve(check, network, score, int(i)) for i in part], ignore_index=True)


def _curve(check: _Check, network: str, score: Scorer, i: int) -> pd.DataFrame:
    settings, row = check.work.run.settings, check.stored.rows.iloc[i]
    tile = int(row["tile"])
    maps = [check.stored.saliency(f"{network}_{method}", i).upsample().astype(np.float64) for method in METHODS]
    ranked = orders(maps[0], maps[1], (settings.seed, _ORDERS, tile))
    found = curves(score, np.asarray(check.images[tile]), ranked, settings.check.steps)
    return found.assign(tile=tile, patient_id=row["patient_id"], network=network)


def _randomised(check: _Check) -> Iterator[pd.DataFrame]:
    draws = check.work.run.settings.check.draws
    few = _spread(check.chosen, RANDOMISED)
    if len(few) < 2:
        return
    with check.work.progress.task("randomise", len(TASKS) * draws) as step:
        for network in TASKS:
            for draw in range(draws):
                yield check.kept(f"randomisation-{network}-{draw:03d}", partial(_cascade, check, network, draw, few))
                step()


def _spread(positions: Positions, count: int) -> Positions:
    """Take at most `count`, evenly spread, so that no patient is left out who need not be."""
    at = np.linspace(0, len(positions) - 1, min(count, len(positions))).round().astype(np.int64)
    return positions[at]


def _cascade(check: _Check, network: str, draw: int, few: Positions) -> pd.DataFrame:
    rows = check.stored.rows.iloc[few]
    folder, seed = check.work.run.folder, check.work.run.settings.seed
    subject = Subject(
        model=check.models[network],
        hrcam_head=fitted_head(folder / network),
        images=check.images_of(rows),
        device=check.device,
    )
    untouched = {method: np.asarray(check.stored.maps(f"{network}_{method}")[few]) for method in METHODS}
    seeds = (seed, _WEIGHTS, TASKS.index(network), draw)
    found = randomisation(subject, untouched, seeds, every_step=draw < CASCADES)
    owners = rows[["tile", "patient_id"]].iloc[found.pop("index")].reset_index(drop=True)
    return pd.concat([owners, found], axis=1).assign(network=network, draw=draw)


def _located(check: _Check, entries: tuple[CohortSlide, ...]) -> Iterator[pd.DataFrame]:
    slides = {entry.slide_id: entry.slide for entry in entries}
    owners = check.stored.rows["slide_id"].iloc[check.chosen].to_numpy()
    names = sorted(set(owners))
    with check.work.progress.task("locate", len(names)) as step:
        for name in names:
            part = check.chosen[owners == name]
            yield check.kept(f"truth-{name}", partial(_on_slide, check, slides[name], part))
            step()


def _on_slide(check: _Check, slide: Path, part: Positions) -> pd.DataFrame:
    truth = read_truth(slide)
    if truth is None:
        return as_table("truth", [])
    side_px = check.images.shape[1]
    found = []
    for i in part:
        row = check.stored.rows.iloc[i]
        region = Region(x=row["x"], y=row["y"], width=row["side"], height=row["side"])
        saliencies = {key: check.stored.saliency(key, i) for key in KEYS}
        others = {key: [check.stored.saliency(key, other) for other in _others(check, i)] for key in KEYS}
        located = pd.DataFrame(locate(saliencies, truth.masks(region, (side_px, side_px)), others))
        found.append(located.assign(tile=row["tile"], patient_id=row["patient_id"]))
    return as_table("truth", found)


def _others(check: _Check, i: np.int64) -> Positions:
    """Draw the tiles whose maps say what chance gives one tile."""
    rest = check.chosen[check.chosen != i]
    return np.random.default_rng([check.work.run.settings.seed, _OTHERS, int(i)]).permutation(rest)[:OTHERS]
