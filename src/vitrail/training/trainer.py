"""One training loop for both networks."""

from __future__ import annotations

import hashlib
import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from vitrail.core.files import write_text
from vitrail.core.progress import Silent
from vitrail.errors import ModelError
from vitrail.models.device import (
    Precision,
    keep_memory,
    pick_device,
    reproducible,
    training_precision,
    type_name,
)
from vitrail.models.encoder import load_encoder, start_weights
from vitrail.models.preprocessing import Normalizer
from vitrail.models.spec import TrainingInfo
from vitrail.models.store import JSON, build, check_fit, save_model, saved_fingerprint
from vitrail.training.calibrate import TrainedModel, examine
from vitrail.training.checkpoint import Checkpoint, EpochScores, TrainState, best_epoch
from vitrail.training.loader import Loader, channel_statistics, cut, shuffled
from vitrail.training.tasks import TRAINING_TASKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

    from vitrail.classes import Task
    from vitrail.core.progress import Progress
    from vitrail.models.classifier import Classifier
    from vitrail.models.segmenter import Segmenter
    from vitrail.models.spec import ModelSpec
    from vitrail.settings.load import Settings
    from vitrail.training.augment import Augmenter
    from vitrail.training.loader import Parts, Rows
    from vitrail.training.tasks import TrainingTask

    Report = Callable[[list[EpochScores]], None]


def train(task: Task, parts: Parts, settings: Settings, *, folder: Path, progress: Progress | None = None) -> None:
    """Train a network and write its model folder: the weights of the epoch with the lowest validation loss.

    Writes `weights.safetensors`, `history.csv` and, last, `model.json`, with what `examine` finds. Until then the
    folder holds a checkpoint of the last finished epoch; called again with the same tiles and settings on such a
    device, the training goes on from there and ends with the same bytes as one that was never stopped. On another kind
    of device it begins anew; where it had ended, nothing is done. Torch's generators and switches are put back.

    Parameters
    ----------
    task
        Which network.
    parts
        The tiles to train on and to choose the best epoch by.
    settings
        Of the study; the seed, `encoder`, `augment`, `tiles` and the task's own branch matter.
    folder
        The model folder; made where it is missing.
    progress
        Told of every step.

    Raises
    ------
    TileError
        A label has no training tile, or there is no validation tile.
    SettingsError
        The device that the settings ask for is not there.
    ModelError
        The encoder or its weights cannot be had or do not fit the tiles, the device's memory is too small, or the loss
        is no longer finite.
    """
    parts.check()
    keep_memory()
    device = pick_device(settings.compute.device)
    folder.mkdir(parents=True, exist_ok=True)
    plan = _plan(task, parts, settings)
    checkpoint = Checkpoint(folder=folder, fingerprint=_fingerprint_on(plan, device))
    if saved_fingerprint(folder) == plan.fingerprint():
        checkpoint.remove()  # killed between the training's end and the removal
        return
    with reproducible(device, _seeds(settings.seed, task, 0)[0]), _enough_memory(plan, device):
        lesson = _lesson(plan, device)
        history = _epochs(lesson, checkpoint, progress or Silent())
        _finish(lesson, checkpoint, history, progress or Silent())


@contextmanager
def _enough_memory(plan: _Plan, device: torch.device) -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        task = plan.objective.task
        problem = f"{device.type} has too little memory for batches of {plan.batch}"
        raise ModelError(f"{task} training", problem, f"Lower {task}.batch in study.toml") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What a training follows from."""

    objective: TrainingTask
    parts: Parts
    settings: Settings
    spec: ModelSpec

    def fingerprint(self) -> str:
        """Digest everything that the result depends on, except machine and libraries."""
        branches = {"seed", "tiles", "encoder", "augment", self.objective.task}
        content = self.spec.model_dump_json() + self.settings.model_dump_json(include=branches)
        precision = self.settings.compute.precision
        content += "" if precision == "auto" else precision
        rows = pd.util.hash_pandas_object(self.parts.tiles.rows, index=False).to_numpy()
        arrays = (rows, self.parts.train, self.parts.validation)
        return hashlib.sha256(content.encode() + b"".join(array.tobytes() for array in arrays)).hexdigest()

    @property
    def batch(self) -> int:
        return self.objective.settings(self.settings).batch

    @property
    def epochs(self) -> int:
        return self.objective.settings(self.settings).epochs

    def precision(self, device: torch.device) -> Precision:
        return training_precision(device, self.settings.compute.precision)

    def seeds(self, epoch: int) -> tuple[int, int, int]:
        return _seeds(self.settings.seed, self.objective.task, epoch)


def _fingerprint_on(plan: _Plan, device: torch.device) -> str:
    """Digest what a training's steps follow from: those of another device or precision must not go on from them."""
    return f"{plan.fingerprint()} {device.type} {plan.precision(device).dtype}"


def _seeds(seed: int, task: str, epoch: int) -> tuple[int, int, int]:
    """Derive an epoch's seeds of torch, of the order and of the augmentation, so that no state needs to be stored."""
    first, second, third = np.random.SeedSequence([seed, *task.encode(), epoch]).generate_state(3).tolist()
    return first, second, third


def _plan(task: Task, parts: Parts, settings: Settings) -> _Plan:
    objective = TRAINING_TASKS[task]
    spec = objective.spec(settings, channel_statistics(parts.tiles.images, parts.train))
    return _Plan(objective=objective, parts=parts, settings=settings, spec=spec)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trainer:
    """A training on its device, ready for its epochs."""

    plan: _Plan
    network: Classifier | Segmenter
    trainee: TrainState
    precision: Precision
    standardise: Normalizer
    loader: Loader

    def epoch(self, number: int, step: Callable[[], None]) -> EpochScores:
        """Train one epoch and validate."""
        torch_seed, order_seed, augment_seed = self.plan.seeds(number)
        torch.manual_seed(torch_seed)
        generator = torch.Generator().manual_seed(augment_seed)
        augmenter = self.plan.objective.augmenter(self.plan.settings, generator)
        train_loss = self._train(shuffled(self.plan.parts.train, order_seed), augmenter, step)
        validation_loss, score = self._validate(step)
        return EpochScores(train_loss=train_loss, validation_loss=validation_loss, score=score)

    def _train(self, rows: Rows, augmenter: Augmenter, step: Callable[[], None]) -> float:
        self.network.train()
        total = torch.zeros((), device=self.precision.device)  # read once an epoch: reading waits for the device
        for images, targets in self.loader(cut(rows, self.plan.batch)):
            negatives = self.plan.objective.negatives(self.plan.settings, images, augmenter.generator)
            total += self._step(*self.plan.objective.augment(augmenter, images, targets), negatives) * len(images)
            step()
        return total.item() / len(rows)

    def _step(self, images: Tensor, targets: Tensor, negatives: tuple[Tensor, Tensor] | None) -> Tensor:
        """Change the weights by one batch and return its loss, that of the negatives left out."""
        optimizer, scaler = self.trainee.optimizer, self.trainee.scaler
        loss = self.plan.objective.loss(self.plan.settings, self._logits(images), targets)
        wanted = loss if negatives is None else loss + self._beside(*negatives) * len(negatives[0]) / len(images)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(wanted).backward()  # type: ignore[no-untyped-call]  # torch leaves this one untyped
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    def _beside(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of images that no tile shows, in eval mode: in the batch they would move its statistics."""
        self.network.eval()
        loss = self.plan.objective.loss(self.plan.settings, self._logits(images), targets)
        self.network.train()
        return loss

    def _logits(self, images: Tensor) -> Tensor:
        with self.precision.autocast():
            logits: Tensor = self.network(self.standardise(images))
        return logits.float()

    @torch.inference_mode()
    def _validate(self, step: Callable[[], None]) -> tuple[float, float]:
        """Return loss and score of the validation tiles, which are not augmented."""
        self.network.eval()
        objective = self.plan.objective
        rows = shuffled(self.plan.parts.validation, self.plan.seeds(0)[1])  # tiles of one slide lack classes
        losses, tallies = [], []
        for images, targets in self.loader(cut(rows, self.plan.batch)):
            logits = self._logits(images)
            losses.append(objective.loss(self.plan.settings, logits, targets) * len(images))
            tallies.append(objective.tally(logits, targets))
            step()
        return torch.stack(losses).sum().item() / len(rows), objective.rate(torch.stack(tallies).sum(0))


def _lesson(plan: _Plan, device: torch.device) -> _Trainer:
    network = _network(plan).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs lack this one
    rate, chosen = plan.objective.settings(plan.settings).learning_rate, plan.precision(device)
    adam = torch.optim.Adam(network.parameters(), lr=rate, fused=device.type in {"cpu", "cuda"})
    tiles = plan.parts.tiles
    return _Trainer(
        plan=plan,
        network=network,
        trainee=TrainState(module=network, optimizer=adam, scaler=chosen.scaler()),
        precision=chosen,
        standardise=Normalizer(plan.spec, device),
        loader=Loader(images=tiles.images, targets=plan.objective.targets(tiles), device=device),
    )


def _network(plan: _Plan) -> Classifier | Segmenter:
    encoder = plan.settings.encoder
    network = build(plan.spec)
    check_fit(plan.spec, min(map(len, cut(plan.parts.train, plan.batch))))
    weights = start_weights(encoder)
    if weights is not None:
        load_encoder(network.backbone, weights, f"encoder.weights = {encoder.weights!r}")
    return network


def _epochs(lesson: _Trainer, checkpoint: Checkpoint, progress: Progress) -> list[EpochScores]:
    """Train what is left of the epochs and return the scores of all."""
    plan = lesson.plan
    history = checkpoint.resume(lesson.trainee)
    if not history:
        (checkpoint.folder / JSON).unlink(missing_ok=True)  # a model of earlier settings must not look like this one
    steps = len(cut(plan.parts.train, plan.batch)) + len(cut(plan.parts.validation, plan.batch))
    with progress.task(plan.objective.task, plan.epochs * steps, len(history) * steps) as step:
        for number in range(len(history) + 1, plan.epochs + 1):
            note = _note(number, plan.epochs, history)
            history.append(_checked(lesson.epoch(number, lambda note=note: step(1, note)), number, plan))  # type: ignore[misc]  # a default binds this round's note
            checkpoint.save(lesson.trainee, history)
            _write_history(checkpoint.folder, history, plan.objective.score)
    return history


def _note(number: int, epochs: int, history: list[EpochScores]) -> str:
    loss = f"  validation loss {history[-1].validation_loss:.3f}" if history else ""
    return f"epoch {number}/{epochs}{loss}"


def _checked(scores: EpochScores, number: int, plan: _Plan) -> EpochScores:
    if math.isfinite(scores.train_loss) and math.isfinite(scores.validation_loss):
        return scores
    task, rate = plan.objective.task, plan.objective.settings(plan.settings).learning_rate
    cure = f"Lower {task}.learning_rate, which is {rate:g}"
    raise ModelError(f"{task} training", f"the loss is no longer finite in epoch {number}", cure)


def _write_history(folder: Path, history: list[EpochScores], score: str) -> None:
    lines = [f"epoch,train_loss,validation_loss,{score}"]
    lines += [f"{n},{e.train_loss!r},{e.validation_loss!r},{e.score!r}" for n, e in enumerate(history, 1)]
    write_text(folder / "history.csv", "\n".join(lines) + "\n", flush=True)


def _finish(lesson: _Trainer, checkpoint: Checkpoint, history: list[EpochScores], progress: Progress) -> None:
    """Turn the checkpoint into a model folder."""
    best, plan, settings = best_epoch(history), lesson.plan, lesson.plan.settings
    info = TrainingInfo.model_validate(
        {
            "epochs": len(history),
            "best_epoch": best,
            "validation_loss": history[best - 1].validation_loss,
            "seed": settings.seed,
            "precision": type_name(lesson.precision.dtype),
        }
    )
    lesson.network.load_state_dict(load_file(checkpoint.best_path(history)))
    _write_history(checkpoint.folder, history, plan.objective.score)
    examinee = TrainedModel(
        network=lesson.network, spec=plan.spec.model_copy(update={"training": info}), loader=lesson.loader,
        rows=plan.parts.validation, batch=plan.batch, seed=settings.seed,
    )  # fmt: skip
    save_model(checkpoint.folder, lesson.network, examine(examinee, progress), plan.fingerprint())
    checkpoint.remove()
