"""Several networks in the place of one: each trained on all folds of patients but its own, then joined.

A model folder of an ensemble also holds `folds.csv`, the fold of each patient of training and validation, and
`members.csv`, a row for each member: `epochs`, `best_epoch`, `validation_loss`, and `correlation` of its logits for the
validation tiles with the ensemble's. `members/<number>/` keeps each one's `model.json` and `history.csv`.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vitrail.core.files import read_csv, write_csv
from vitrail.core.progress import Silent
from vitrail.metrics.calibration import fit_temperature
from vitrail.models.device import keep_memory, pick_device, reproducible
from vitrail.models.folds import FOLDS, MEMBERS
from vitrail.models.join import joined
from vitrail.models.store import JSON, WEIGHTS, load_model, save_model
from vitrail.tiles.folds import fold_of_rows
from vitrail.tiles.store import read_tiles
from vitrail.training.calibrate import PIXELS, TrainedModel, compare_types
from vitrail.training.loader import Loader, TrainingTiles
from vitrail.training.tasks import TRAINING_TASKS
from vitrail.training.trainer import train
from vitrail.training.workers import in_workers, one_thread, worker_environments

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.classes import Task
    from vitrail.core.progress import Progress
    from vitrail.models.store import Model
    from vitrail.settings.load import Settings
    from vitrail.tiles.store import TileTable
    from vitrail.training.loader import Rows

_DEAL, _TRAINING = 0xF01E, 0x3E3B  # keep these draws apart from the others of the same seed


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberJob:
    """What a process needs to train a member.

    Attributes
    ----------
    task
        Which network.
    number
        Of the member, which is that of its fold, from 0.
    tiles
        The folder of the tile table.
    train, validation
        Rows of the table.
    settings
        Of the study, with the member's own seed.
    folder
        The member's model folder.
    """

    task: Task
    number: int
    tiles: Path
    train: Rows
    validation: Rows
    settings: Settings
    folder: Path

    def run(self, progress: Progress) -> None:
        """Train the member unless that is done; on a CPU on one thread, whatever else runs."""
        parts = TrainingTiles(tiles=read_tiles(self.tiles), train=self.train, validation=self.validation)
        if pick_device(self.settings.compute.device).type != "cpu":
            train(self.task, parts, self.settings, folder=self.folder, progress=progress)
            return
        with one_thread():
            train(self.task, parts, self.settings, folder=self.folder, progress=progress)


def train_ensemble(
    task: Task,
    tiles: Path,
    split: NDArray[np.str_],
    settings: Settings,
    *,
    folder: Path,
    progress: Progress | None = None,
) -> None:
    """Train `ensemble.folds` networks and write the model folder of their ensemble.

    The patients of training and validation are dealt into folds; member k is trained on all but fold k and chooses its
    best epoch on that. Members are trained side by side in processes of this machine, `compute.workers` of them, or one
    after the other where there is but one worker or GPU. The temperature is fitted on what each member says of its own
    fold, which are all tiles of training and validation. A killed call goes on where its last epoch ended, and ends
    with the same bytes.

    Parameters
    ----------
    task
        Which network.
    tiles
        The folder of the tile table.
    split
        One of `train`, `validation` and `test` a row of the table.
    settings
        As for `train`; and the branches `ensemble` and `compute`.
    folder
        The model folder. Its name must stand for all that decides the networks, as that of `Parts`.
    progress
        Told of every member.

    Raises
    ------
    SettingsError
        There are fewer patients than folds, or the device that the settings ask for is not there.
    TileError
        A class is held by fewer than two patients, or the patients of all other folds hold none of it.
    ModelError
        As `train`.
    RunError
        The worker processes could not start, or a member cost several of them their lives.
    """
    progress, members = progress or Silent(), folder / "members"
    if not (folder / JSON).is_file():  # else it was killed while it cleared up
        rows = read_tiles(tiles).rows
        known = np.flatnonzero(split != "test")
        count = settings.ensemble.folds
        folds = np.full(len(rows), -1)
        folds[known] = fold_of_rows(rows.iloc[known], count, (settings.seed, _DEAL), "ensemble.folds")
        jobs = [
            MemberJob(
                task=task,
                number=number,
                tiles=tiles,
                train=np.flatnonzero((folds >= 0) & (folds != number)),
                validation=np.flatnonzero(folds == number),
                settings=settings.model_copy(update={"seed": member_seed(settings.seed, number)}),
                folder=members / str(number),
            )
            for number in range(count)
        ]
        _train_all(jobs, progress)
        dealt = rows.iloc[known][["patient_id"]].assign(fold=folds[known]).drop_duplicates().sort_values("patient_id")
        write_csv(folder / FOLDS, dealt)
        _join(jobs, np.flatnonzero(split == "validation"), settings, folder)
    for weights in members.glob(f"*/{WEIGHTS}"):
        weights.unlink()


def member_seed(seed: int, number: int) -> int:
    """Derive the seed of a member from the study's."""
    return int(np.random.SeedSequence([seed, _TRAINING, number]).generate_state(1)[0])


def _train_all(jobs: Sequence[MemberJob], progress: Progress) -> None:
    """Train members side by side, or one after the other where one process would do all."""
    task, count, compute = jobs[0].task, len(jobs), jobs[0].settings.compute
    if len(worker_environments(compute, count)) == 1:
        for job in jobs:
            progress.say(f"{task}: network {job.number + 1} of {count}")
            job.run(progress)
        return
    with progress.task(f"{task}, networks", count) as step, closing(in_workers(_work, jobs, compute)) as trained:
        for job, error in trained:
            if error:
                raise error
            step(1, f"network {job.number + 1} is trained")


def _work(job: MemberJob) -> None:
    """Train a member in a worker process."""
    job.run(Silent())


def _join(jobs: Sequence[MemberJob], validation: Rows, settings: Settings, folder: Path) -> None:
    """Join trained members into the model folder."""
    keep_memory()
    device = pick_device(settings.compute.device)
    table, models = read_tiles(jobs[0].tiles), [load_model(job.folder) for job in jobs]
    ensemble = joined({str(job.folder): model for job, model in zip(jobs, models, strict=True)})
    ensemble.module.to(device)
    logits, truth, answers = [], [], []
    with reproducible(device, settings.seed):
        for job, model in zip(jobs, models, strict=True):
            own = _on_tiles(model, table, job.validation, settings).pixels(PIXELS // len(jobs))
            logits.append(own[0])
            truth.append(own[1])
            answers.append(_on_tiles(model, table, validation, settings).pixels(PIXELS // len(jobs))[0])
        held = np.concatenate(truth)
        temperature = fit_temperature(np.concatenate(logits), held) if len(np.unique(held)) > 1 else 1.0
        correlations = correlation_with_mean(np.stack(answers))
        chosen = int(np.argmax(correlations))
        update = {"temperature": temperature, "representative": chosen, "training": models[chosen].spec.training}
        spec = ensemble.spec.model_copy(update=update)
        checks = compare_types(_on_tiles(ensemble, table, validation, settings))
    histories = [read_csv(job.folder / "history.csv", ("epoch",)).astype(float) for job in jobs]
    mean = pd.concat(histories).groupby("epoch", as_index=False).mean()
    write_csv(folder / "history.csv", mean.astype({"epoch": int}))
    trained = [model.spec.training for model in models]
    write_csv(
        folder / MEMBERS,
        pd.DataFrame(
            {
                "member": range(len(jobs)),
                "epochs": [each.epochs if each else None for each in trained],
                "best_epoch": [each.best_epoch if each else None for each in trained],
                "validation_loss": [each.validation_loss if each else None for each in trained],
                "correlation": correlations,
            }
        ),
    )
    save_model(folder, ensemble.module, spec.model_copy(update=checks))


def _on_tiles(model: Model, table: TileTable, rows: Rows, settings: Settings) -> TrainedModel:
    objective, device = TRAINING_TASKS[model.spec.task], pick_device(settings.compute.device)
    return TrainedModel(
        network=model.module,
        spec=model.spec,
        loader=Loader(images=table.images, targets=objective.targets(table), device=device),
        rows=rows,
        batch=objective.settings(settings).batch,
        seed=settings.seed,
    )


def correlation_with_mean(answers: NDArray[np.float64]) -> list[float]:
    """Correlate each member's logits with the mean of all members'.

    Parameters
    ----------
    answers
        `[members, n]`; or `[members, n, classes]`, of which what all classes share does not count, as it does not in
        their probabilities.

    Returns
    -------
    list[float]
        Pearson's coefficient of each member; 0 where one says the same of everything.
    """
    if answers.ndim > 2:
        answers = (answers - answers.mean(2, keepdims=True)).reshape(len(answers), -1)
    centred = answers - answers.mean(1, keepdims=True)
    mean = centred.mean(0)
    scale = np.linalg.norm(centred, axis=1) * np.linalg.norm(mean)
    return [float(each @ mean / of) if of > 0 else 0.0 for each, of in zip(centred, scale, strict=True)]
