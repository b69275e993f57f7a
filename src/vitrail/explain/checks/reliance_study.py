"""What the networks of a study rely on: every candidate, on test tiles that they call correctly, and known causes."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from vitrail.classes import TissueClass
from vitrail.core.files import write_array, write_table
from vitrail.explain.checks.counterfactuals import Looks, candidates
from vitrail.explain.checks.known_causes import KNOWN, draw_known, measure_known, read_spec
from vitrail.explain.checks.reliance import COLUMNS, PICTURES, TABLE, measure, summarise
from vitrail.explain.explainer import Explainer
from vitrail.tiles.store import read_tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from vitrail.core.resume import Parts
    from vitrail.explain.checks.counterfactuals import Counterfactual
    from vitrail.models.store import Model
    from vitrail.slides.cohort import CohortSlide
    from vitrail.stage import Work

    Images = NDArray[np.uint8]
    Scores = tuple[NDArray[np.float64], NDArray[np.float64]]
    Score = Callable[[Images], NDArray[np.float64]]
    Positions = NDArray[np.int64]

TILES = 60
"""Tiles of each class that candidates are taken from and put onto, at most."""

LOOKS = 200
"""Other tiles of each class that say what the classes look like, at most."""

SHOWN = 6
"""Tiles of each cause that are stored beside themselves without it."""

PAIRS = 12
"""Tiles of each class of synthetic slides that are drawn again, at most."""

_CALLED = 0.5
_DRAW = 0x4E11


def check_reliance(
    work: Work,
    parts: Parts,
    models: Mapping[str, Model],
    rows: pd.DataFrame,
    device: torch.device,
    entries: Sequence[CohortSlide] = (),
) -> dict[str, list[dict[str, Any]]]:
    """Write the table `reliance` with its pictures, and return what `summarise` says of it.

    Parameters
    ----------
    work
        A run whose tiles and networks are finished, and where to write.
    parts
        Of what was measured before a kill.
    models
        The networks, by name.
    rows
        The test tiles, with what both networks say of them; rows of the explanations.
    device
        Where to run.
    entries
        The cohort: tiles of synthetic slides are drawn again without what makes a carcinoma one.

    Returns
    -------
    dict[str, list[dict[str, Any]]]
        By network; without those that call no tumor, or nothing else, correctly.
    """
    images, looks = read_tiles(work.run.folder / "tiles").images, _looks(work, rows["tile"])
    settings = work.run.settings
    found = candidates(*looks, settings.tiles.side_um / images.shape[1])
    scores = {name: partial(log_odds, Explainer(model, device, engine="torch")) for name, model in models.items()}
    tables: list[pd.DataFrame] = []
    pictures: list[Images] = []
    with work.progress.task("reliance", len(models) * len(found)) as step:
        for network, score in scores.items():
            tumor, rest = called_tiles(rows, network, settings.seed)
            begun = cache(partial(_begun, score, images, rows, (tumor, rest)))
            for candidate in found:
                if len(tumor) and len(rest):
                    job = partial(_measured, candidate, score, begun, images, rows, (tumor, rest))
                    table, pairs = _resumed(parts, f"reliance-{network}-{candidate.name}", job)
                    table["picture"] += len(pictures) * (table["picture"] >= 0)
                    tables.append(table.assign(network=network))
                    pictures.extend(pairs)
                step()
    for table, pairs in _known(work, parts, scores, rows, entries, images.shape[1]):
        table["picture"] += len(pictures) * (table["picture"] >= 0)
        tables.append(table)
        pictures.extend(pairs)
    if not tables:
        return {}
    table = pd.concat(tables, ignore_index=True)[[*COLUMNS, "picture"]].astype(COLUMNS)
    write_table(work.folder / TABLE, table)
    write_array(work.folder / PICTURES, np.stack(pictures))
    return summarise(table, settings.seed)


def called_tiles(rows: pd.DataFrame, network: str, seed: int, most: int = TILES) -> tuple[Positions, Positions]:
    """Draw test tiles that a network calls correctly, patients in turn.

    Parameters
    ----------
    rows
        The rows of the explanations.
    network
        Its column.
    seed
        Draws them.
    most
        How many of each, at most.

    Returns
    -------
    tuple[NDArray[np.int64], NDArray[np.int64]]
        Positions in `rows`, rising: of tumor, and of other tissue.
    """
    tumor, called = rows["label"] == TissueClass.TUMOR.key, rows[network] >= _CALLED
    drawn = []
    for mask in (tumor & called, ~tumor & ~called):
        order = np.random.default_rng([seed, _DRAW]).permutation(np.flatnonzero(mask))
        patients = rows["patient_id"].iloc[order]
        turn = patients.groupby(patients.to_numpy()).cumcount().to_numpy()
        drawn.append(np.sort(order[np.argsort(turn, kind="stable")][:most]).astype(np.int64))
    return drawn[0], drawn[1]


def log_odds(explainer: Explainer, images: Images) -> NDArray[np.float64]:
    """Return the log odds of tumor, which unlike a probability do not saturate.

    Parameters
    ----------
    explainer
        The network.
    images
        `[n, h, w, 3]`.

    Returns
    -------
    NDArray[np.float64]
        `[n]`: of a classifier its logit, of a segmenter the mean over all pixels of tumor against all other classes.
    """
    scores = []
    for output in explainer.outputs(images):
        logits = output.float()
        if logits.ndim == 4:
            others = [kind for kind in range(logits.shape[1]) if kind != TissueClass.TUMOR]
            logits = (logits[:, TissueClass.TUMOR] - torch.logsumexp(logits[:, others], 1)).mean((1, 2))
        scores.append(logits.cpu().double().numpy())
    return np.concatenate(scores)


def _looks(work: Work, explained: pd.Series) -> tuple[Looks, Looks]:
    """Return tiles of tumor and of the rest that are not explained, for training or validation; or else any."""
    tiles = read_tiles(work.run.folder / "tiles")
    trained = ~np.isin(np.arange(len(tiles)), explained)
    tumor = (tiles.rows["label"] == TissueClass.TUMOR.key).to_numpy()
    looks = []
    for mask in (tumor, ~tumor):
        numbers = np.flatnonzero(mask & trained if (mask & trained).any() else mask)
        drawn = np.random.default_rng([work.run.settings.seed, _DRAW]).permutation(numbers)[:LOOKS]
        drawn = np.sort(drawn)
        patients = tiles.rows["patient_id"].to_numpy(np.str_)[drawn]
        looks.append(Looks(images=np.asarray(tiles.images[drawn]), patients=patients))
    return looks[0], looks[1]


def _begun(score: Score, images: Images, rows: pd.DataFrame, drawn: tuple[Positions, Positions]) -> Scores:
    """Score the tiles of both classes as they are, which all candidates share."""
    first, second = (score(np.asarray(images[rows["tile"].to_numpy()[part]])) for part in drawn)
    return first, second


def _known(
    work: Work,
    parts: Parts,
    scores: Mapping[str, Score],
    rows: pd.DataFrame,
    entries: Sequence[CohortSlide],
    side_px: int,
) -> Iterator[tuple[pd.DataFrame, Images]]:
    """Yield for each network and known cause the table and its pictures; nothing without synthetic slides."""
    specs = {entry.slide_id: spec for entry in entries if (spec := read_spec(entry.slide)) is not None}
    mine = rows[rows["slide_id"].isin(specs)] if "slide_id" in rows else rows[:0]
    # the same tiles for all networks, so that they are drawn once: those that all call correctly
    called = mine.assign(low=mine[list(scores)].min(axis=1), high=mine[list(scores)].max(axis=1))
    agreed = called.assign(all=np.where(called["label"] == TissueClass.TUMOR.key, called["low"], called["high"]))
    tumor, rest = (agreed.iloc[part] for part in called_tiles(agreed, "all", work.run.settings.seed, PAIRS))
    if not (len(tumor) and len(rest)):
        return
    with work.progress.task("draw", len({*tumor["slide_id"], *rest["slide_id"]}) * (1 + len(KNOWN))) as step:
        drawn = parts.array("reliance-drawn", lambda: draw_known(specs, tumor, rest, side_px, step))
    pairs = drawn[: len(tumor) * (1 + len(KNOWN))].reshape(1 + len(KNOWN), len(tumor), *drawn.shape[1:])
    for network, score in scores.items():
        for number, (cause, measured) in enumerate(measure_known(score, drawn, len(tumor)).items(), 1):
            own = tumor[["tile", "patient_id"]].reset_index(drop=True)
            table = pd.concat([own, pd.DataFrame(measured)], axis=1)
            table = table.assign(network=network, cause=cause, way="pair", picture=-1)
            most = np.argsort(-(table["before"] - table["after"]).to_numpy(), kind="stable")[:SHOWN]
            table.loc[most, "picture"] = np.arange(len(most))
            yield table, np.stack([pairs[0], pairs[number]], axis=1)[most]


def _measured(
    candidate: Counterfactual,
    score: Score,
    begun: Callable[[], Scores],
    images: Images,
    rows: pd.DataFrame,
    drawn: tuple[Positions, Positions],
) -> tuple[pd.DataFrame, Images]:
    """Measure one candidate; the pictures are of the tiles of tumor that lose most."""
    tumor, rest = (np.asarray(images[rows["tile"].to_numpy()[part]]) for part in drawn)
    tables = []
    for way, part, measured in zip(
        ("taken", "put"), drawn, measure(candidate, score, tumor, rest, begun()), strict=True
    ):
        own = rows[["tile", "patient_id"]].iloc[part].reset_index(drop=True)
        tables.append(
            pd.concat([own, pd.DataFrame(measured)], axis=1).assign(cause=candidate.name, way=way, picture=-1)
        )
    lost = (tables[0]["before"] - tables[0]["after"]).to_numpy()
    most = np.argsort(-lost, kind="stable")[:SHOWN]
    tables[0].loc[most, "picture"] = np.arange(len(most))
    return pd.concat(tables, ignore_index=True), np.stack([tumor, candidate.take(tumor).images], axis=1)[most]


def _resumed(parts: Parts, name: str, make: Callable[[], tuple[pd.DataFrame, Images]]) -> tuple[pd.DataFrame, Images]:
    """Return a table and its pictures, made by `make` unless an earlier attempt has written both."""
    made: list[tuple[pd.DataFrame, Images]] = []

    def both() -> tuple[pd.DataFrame, Images]:
        if not made:
            made.append(make())
        return made[0]

    pictures = parts.array(name, lambda: both()[1])
    return parts.table(name, lambda: both()[0]), pictures
