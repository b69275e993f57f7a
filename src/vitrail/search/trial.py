"""One cell of a search: a training and its score. Runs in a worker, perhaps on another machine."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from vitrail.classes import TissueClass
from vitrail.core.files import read_json, read_table, write_text
from vitrail.core.lock import locked
from vitrail.errors import RunError
from vitrail.metrics import scores
from vitrail.search.grid import cell_settings
from vitrail.tiles.folds import fold_of_rows
from vitrail.tiles.store import TileTable
from vitrail.training.workers import one_thread

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vitrail.core.progress import Progress
    from vitrail.search.grid import Cell
    from vitrail.settings.load import Settings
    from vitrail.training.loader import TrainingTiles

_FOLDS, _TRAINING = 0xF01D, 0x7EAC  # keep these draws apart from the others of the same seed


@dataclass(frozen=True, slots=True, kw_only=True)
class CellJob:
    """What a worker needs for one cell; paths are absolute.

    Attributes
    ----------
    cell
        Which one.
    settings
        Of the study.
    rows, images
        The tile table's rows, and the images at the cell's resolution.
    folder
        Of the search.
    """

    cell: Cell
    settings: Settings
    rows: Path
    images: Path
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class CellScore:
    """How well a cell's network did.

    Attributes
    ----------
    accuracy
        Of the validation tiles, at a probability of one half.
    auc
        None where the fold lacks a class.
    n_validation, n_train
        Tiles.
    seconds
        Of training and validation.
    """

    accuracy: float
    auc: float | None
    n_validation: int
    n_train: int
    seconds: float


def model_folder(folder: Path, cell: Cell) -> Path:
    """Return where the folder of a search keeps the network of a cell, with `search.keep_models`."""
    return folder / "models" / cell.digest[:16]


def is_done(folder: Path, cell: Cell, *, keep_models: bool) -> bool:
    """Tell whether a cell has its score, and its network where that is kept."""
    kept = not keep_models or (model_folder(folder, cell) / "model.json").is_file()
    return kept and read_score(folder, cell) is not None


def read_score(folder: Path, cell: Cell) -> CellScore | None:
    """Read the score of a cell from the folder of a search; None where there is none."""
    try:
        return CellScore(**read_json(folder / "cells" / f"{cell.digest}.json")["score"])
    except (RunError, TypeError, KeyError):
        return None


def run_cell(job: CellJob, progress: Progress) -> None:  # noqa: ARG001 - what all jobs are given
    """Train and score one cell on one thread, and leave its file; does nothing where it is there.

    Parameters
    ----------
    job
        The cell, and where its tiles are.
    progress
        Not told: cells are counted.

    Raises
    ------
    RunError
        This machine does not see the files of the search.
    VitrailError
        As `training.trainer.train`.
    """
    keep = job.settings.search.keep_models
    if is_done(job.folder, job.cell, keep_models=keep):
        return
    if not job.images.is_file():
        where = f"worker on {socket.gethostname()}"
        raise RunError(where, f"does not see {job.images}", "Put the run on a file system that all workers share")
    with one_thread(), _checkpoints(job) as folder:
        score = _train_and_score(job, folder)
        if keep:
            _keep(folder, model_folder(job.folder, job.cell))
    record = {"cell": asdict(job.cell), "score": asdict(score)}
    path = job.folder / "cells" / f"{job.cell.digest}.json"
    write_text(path, json.dumps(record, indent=1), shared=True)  # a cluster may give a cell to two workers


def _keep(trained: Path, folder: Path) -> None:
    """Copy a trained model to those that are kept, whole or not at all; another worker may be sooner."""
    copy = folder.with_name(f"{folder.name}-{socket.gethostname()}-{os.getpid()}")
    shutil.copytree(trained, copy, ignore=shutil.ignore_patterns(".*"))
    with suppress(OSError):  # it is there
        copy.rename(folder)
    shutil.rmtree(copy, ignore_errors=True)


@contextmanager
def _checkpoints(job: CellJob) -> Iterator[Path]:
    """Give a folder for the training's checkpoints, where an attempt that was killed is taken up again.

    The folder is gone once the block has ended well. Where another worker holds it, there is one of this process.
    """
    folder = job.folder / ".partial" / job.cell.digest[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(locked(folder))
        except RunError:
            folder = folder.with_name(f"{folder.name}-{socket.gethostname()}-{os.getpid()}")
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _train_and_score(job: CellJob, folder: Path) -> CellScore:
    """Train a cell's network, its checkpoints in a folder, and apply it to the tiles of the fold."""
    from vitrail.inference.predictor import Predictor  # noqa: PLC0415 - the process that sends cells does without torch
    from vitrail.models.device import pick_device  # noqa: PLC0415 - the same
    from vitrail.models.store import load_model  # noqa: PLC0415 - the same
    from vitrail.training.trainer import train  # noqa: PLC0415 - the same

    begun, parts, settings = time.monotonic(), cell_parts(job), cell_settings(job.settings, job.cell.pair)
    # each fold of each iteration has a seed of its own, which is the same for all combinations
    seeds = np.random.SeedSequence([settings.seed, _TRAINING, job.cell.iteration, job.cell.fold])
    seeded = settings.model_copy(update={"seed": int(seeds.generate_state(1)[0])})
    train("classifier", parts, seeded, folder=folder)
    device, precision = pick_device(settings.compute.device), settings.compute.precision
    predictor = Predictor(load_model(folder), device, engine="torch", precision=precision)
    chunks = [parts.validation[i : i + 256] for i in range(0, len(parts.validation), 256)]
    probability = np.concatenate([predictor.tumor_probability(parts.tiles.images[chunk]) for chunk in chunks])
    truth = (parts.tiles.rows["label"] == TissueClass.TUMOR.key).to_numpy()[parts.validation]
    auc = float(scores.auc(truth, probability))
    return CellScore(
        accuracy=float(scores.accuracy(scores.confusion(truth, probability >= 0.5, 2))),
        auc=None if np.isnan(auc) else auc,
        n_validation=len(parts.validation),
        n_train=len(parts.train),
        seconds=round(time.monotonic() - begun, 1),
    )


def cell_parts(job: CellJob) -> TrainingTiles:
    """Return the tiles of a cell, divided by patient into those to train on and those of the fold.

    Parameters
    ----------
    job
        The cell, and where its tiles are.

    Returns
    -------
    TrainingTiles
        The fold's tiles are those for validation.

    Raises
    ------
    SettingsError, TileError
        As `fold_of_rows`.
    """
    from vitrail.training.loader import TrainingTiles  # noqa: PLC0415 - the process that sends cells does without torch

    rows = read_table(job.rows)
    fold = fold_of_rows(rows, job.settings.search.folds, (job.settings.seed, _FOLDS, job.cell.iteration))
    images = np.load(job.images, mmap_mode="r")
    masks = np.broadcast_to(np.uint8(TissueClass.BACKGROUND), images.shape[:3])  # the classifier reads none
    tiles = TileTable(rows=rows, images=images, masks=masks)
    inside = fold == job.cell.fold
    return TrainingTiles(tiles=tiles, train=np.flatnonzero(~inside), validation=np.flatnonzero(inside))
