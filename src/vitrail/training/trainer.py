"""One training loop for both networks."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from vitrail.core.files import write_text
from vitrail.core.progress import Silent
from vitrail.errors import ModelError
from vitrail.models.device import Precision, keep_memory, pick_device, reproducible, type_name
from vitrail.models.preprocessing import Normalizer
from vitrail.models.spec import TrainingInfo
from vitrail.models.store import JSON, build_single, save_model, saved_fingerprint
from vitrail.models.weights import load_encoder, start_weights
from vitrail.tiles.appearance import appearance_of
from vitrail.training.calibrate import TrainedModel, examine
from vitrail.training.checkpoint import Checkpoint, EpochScores, TrainState, kept_epoch
from vitrail.training.frozen import CachedFeatures, freeze, hold, remove_features
from vitrail.training.loader import Loader, channel_statistics, cut, shuffled
from vitrail.training.mixing import Mixing
from vitrail.training.precision import choose_precision
from vitrail.training.preflight import check_fit
from vitrail.training.schedule import epochs_of, make_optimizer, one_cycle, set_rate
from vitrail.training.stain_augment import StainTemplates
from vitrail.training.tasks import TRAINING_TASKS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from vitrail.classes import Task
    from vitrail.core.progress import Progress
    from vitrail.models.classifier import Classifier
    from vitrail.models.segmenter import Segmenter
    from vitrail.models.spec import ModelSpec
    from vitrail.settings.load import Settings
    from vitrail.training.augment import Augmenter
    from vitrail.training.loader import TrainingTiles


def train(
    task: Task, parts: TrainingTiles, settings: Settings, *, folder: Path, progress: Progress | None = None
) -> None:
    """Train a network and write its model folder: those of the epoch with the lowest validation loss.

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
    progress, device = progress or Silent(), pick_device(settings.compute.device)
    folder.mkdir(parents=True, exist_ok=True)
    spec = TRAINING_TASKS[task].spec(settings, channel_statistics(parts.tiles.images, parts.train))
    fingerprint = _fingerprint(spec, parts, settings)
    precision = choose_precision(
        spec, device, settings.compute.precision, TRAINING_TASKS[task].settings(settings).batch
    )
    # steps of another device or precision must not be gone on from
    keep = TRAINING_TASKS[task].settings(settings).keep
    checkpoint = Checkpoint(folder=folder, fingerprint=f"{fingerprint} {device.type} {precision.dtype}", keep=keep)
    if saved_fingerprint(folder) == fingerprint:
        checkpoint.remove()  # killed between the training's end and the removal
        remove_features(folder)
        return
    try:
        with reproducible(device, epoch_seeds(settings.seed, task, 0)[0]):
            trainer = Trainer(spec, parts, settings, precision)
            history = trainer.run(checkpoint, progress)
            best = kept_epoch(history, keep)
            info = TrainingInfo.model_validate(
                {
                    "epochs": len(history), "best_epoch": best, "validation_loss": history[best - 1].validation_loss,
                    "seed": settings.seed, "precision": type_name(precision.dtype),
                    "appearance": appearance_of(parts.tiles, parts.train),
                }
            )  # fmt: skip
            trainer.network.load_state_dict(load_file(checkpoint.best_path(history)))
            trained = TrainedModel(
                network=trainer.network, spec=spec.model_copy(update={"training": info}), loader=trainer.loader,
                rows=parts.validation, batch=trainer.own.batch, seed=settings.seed,
            )  # fmt: skip
            save_model(folder, trainer.network, examine(trained, progress), fingerprint)
    except torch.cuda.OutOfMemoryError:
        problem = f"{device.type} has too little memory for batches of {TRAINING_TASKS[task].settings(settings).batch}"
        raise ModelError(f"{task} training", problem, f"Lower {task}.batch in study.toml") from None
    checkpoint.remove()
    remove_features(folder)


def epoch_seeds(seed: int, task: Task, epoch: int) -> tuple[int, int, int]:
    """Derive the seeds of an epoch, so that no generator's state needs to be stored.

    Parameters
    ----------
    seed
        The study's.
    task
        Which network.
    epoch
        From 1; those of 0 are for the start weights and for the order of the validation tiles.

    Returns
    -------
    tuple[int, int, int]
        Of torch, of the order of the tiles, and of the augmentation.
    """
    first, second, third = np.random.SeedSequence([seed, *task.encode(), epoch]).generate_state(3).tolist()
    return first, second, third


def _fingerprint(spec: ModelSpec, parts: TrainingTiles, settings: Settings) -> str:
    """Digest everything that a trained network depends on, except machine and libraries."""
    values = settings.digest_values()
    counted = {name: values[name] for name in ("seed", "tiles", "encoder", "augment", spec.task)}
    content = spec.model_dump_json() + json.dumps(counted)
    content += settings.compute.named_precision or ""
    rows = pd.util.hash_pandas_object(parts.tiles.rows, index=False).to_numpy()
    arrays = (rows, parts.train, parts.validation)
    return hashlib.sha256(content.encode() + b"".join(array.tobytes() for array in arrays)).hexdigest()


class Trainer:
    """A training on its device.

    Parameters
    ----------
    spec
        The network; its weights start as the settings say.
    parts
        The tiles to train on and to validate with.
    settings
        Of the study.
    precision
        Device, and type to compute in.

    Attributes
    ----------
    network
        The network with its present weights.
    loader
        Reads its tiles and what they hold.
    own
        The task's branch of the settings.

    Raises
    ------
    ModelError
        The encoder or its weights cannot be had or do not fit the tiles.
    """

    def __init__(self, spec: ModelSpec, parts: TrainingTiles, settings: Settings, precision: Precision) -> None:
        self.objective = TRAINING_TASKS[spec.task]
        self.own = self.objective.settings(settings)
        self.parts, self.settings, self.precision = parts, settings, precision
        network = build_single(spec)
        check_fit(spec, min(map(len, cut(parts.train, self.own.batch))))
        weights = start_weights(settings.encoder)
        if weights is not None:
            load_encoder(network.backbone, weights, f"encoder.weights = {settings.encoder.weights!r}")
        if settings.encoder.frozen:
            freeze(network)
        device = precision.device
        self.network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs lack this one
        adam = make_optimizer(self.network, self.network.backbone, self.own, self.own.learning_rate)
        average = copy.deepcopy(self.network).requires_grad_(requires_grad=False) if self.own.ema else None
        self.state = TrainState(module=self.network, optimizer=adam, scaler=precision.scaler(), average=average)
        self.mixing = Mixing.of(self.own)
        self.standardise = Normalizer(spec, device)
        self.loader = Loader(images=parts.tiles.images, targets=self.objective.targets(parts.tiles), device=device)
        self.features: CachedFeatures | None = None
        slides = parts.tiles.rows["slide_id"].to_numpy()[parts.train]
        wanted = settings.augment.stain_templates
        self.templates = StainTemplates.of(parts.tiles.images, parts.train, slides) if wanted else None
        self.steps = len(cut(parts.train, self.own.batch))
        self.epochs = epochs_of(self.own, epochs=self.own.epochs, steps=self.steps)

    def run(self, checkpoint: Checkpoint, progress: Progress) -> list[EpochScores]:
        """Train what is left of the epochs, and write `history.csv`.

        Parameters
        ----------
        checkpoint
            Where to go on from, and to be killed without loss.
        progress
            Told of every step.

        Returns
        -------
        list[EpochScores]
            Of all epochs.

        Raises
        ------
        ModelError
            The loss is no longer finite.
        """
        task, epochs = self.objective.task, self.epochs
        history = checkpoint.resume(self.state)
        if not history:
            (checkpoint.folder / JSON).unlink(
                missing_ok=True
            )  # a model of earlier settings must not look like this one
        if self.settings.encoder.frozen:
            self.features = CachedFeatures.of(self, checkpoint, progress)
        steps = self.steps + len(cut(self.parts.validation, self.own.batch))
        with progress.task(task, epochs * steps, len(history) * steps) as step:
            for number in range(len(history) + 1, epochs + 1):
                loss = f"  validation loss {history[-1].validation_loss:.3f}" if history else ""
                note = f"epoch {number}/{epochs}{loss}"
                scores = self._epoch(number, lambda note=note: step(1, note))  # type: ignore[misc]  # a default binds this round's note
                if not (math.isfinite(scores.train_loss) and math.isfinite(scores.validation_loss)):
                    problem = f"the loss is no longer finite in epoch {number}"
                    cure = f"Lower {task}.learning_rate, which is {self.own.learning_rate:g}"
                    raise ModelError(f"{task} training", problem, cure)
                history.append(scores)
                checkpoint.save(self.state, history)
                self._write_history(checkpoint.folder, history)
        self._write_history(checkpoint.folder, history)  # once more, for one that was killed before the line above
        return history

    def _write_history(self, folder: Path, history: list[EpochScores]) -> None:
        lines = [f"epoch,train_loss,validation_loss,{self.objective.score}"]
        lines += [f"{n},{e.train_loss!r},{e.validation_loss!r},{e.score!r}" for n, e in enumerate(history, 1)]
        write_text(folder / "history.csv", "\n".join(lines) + "\n", flush=True)

    def _epoch(self, number: int, step: Callable[[], None]) -> EpochScores:
        """Train one epoch and validate."""
        torch_seed, order_seed, augment_seed = epoch_seeds(self.settings.seed, self.objective.task, number)
        torch.manual_seed(torch_seed)
        augmenter = self.objective.augmenter(self.settings, torch.Generator().manual_seed(augment_seed))
        augmenter.templates = self.templates
        self._train_mode()
        train_loss = torch.zeros((), device=self.precision.device)  # read once an epoch: reading waits for the device
        batches, read = cut(shuffled(self.parts.train, order_seed), self.own.batch), self.features or self.loader
        for done, (images, targets) in enumerate(read(batches), (number - 1) * self.steps):
            if self.own.schedule == "one_cycle":
                set_rate(self.state.optimizer, one_cycle(done / (self.epochs * self.steps), self.own.warmup))
            train_loss += self._step(images, targets, augmenter) * len(images)
            self.state.follow(min(self.own.ema, (done + 2) / (done + 11)))  # at first it must forget the start
            step()
        mean_loss = train_loss.item() / len(self.parts.train)
        validation_loss, score = self._validate(step)
        return EpochScores(train_loss=mean_loss, validation_loss=validation_loss, score=score)

    def _step(self, images: Tensor, targets: Tensor, augmenter: Augmenter) -> Tensor:
        """Change the weights by one batch and return its loss, that of the negatives left out."""
        optimizer, scaler = self.state.optimizer, self.state.scaler
        if self.features is None:
            negatives = self.objective.negatives(self.settings, images, augmenter.generator)
            images, masks = augmenter(images, targets if targets.ndim == 3 else None)
            images, mixed = self.mixing(images, targets if masks is None else masks, augmenter.generator)
            logits = self._logits(self.network, images)
        else:
            side = self.features.side_px
            tiles = images.new_zeros(1).expand(len(images), 3, side, side)
            negatives = self.objective.negatives(self.settings, tiles, augmenter.generator)
            logits, mixed = (
                self._logits(self.network, self.features.turned(images, augmenter.generator)),
                ((1.0, targets),),
            )
        loss = torch.stack([weight * self._loss(logits, each) for weight, each in mixed]).sum()
        total = loss
        if negatives is not None:
            self.network.eval()  # in the batch they would move its statistics
            glass, truth = negatives
            seen = self._logits(self.network, glass, of_features=False)
            total = loss + self._loss(seen, truth) * len(glass) / len(images)
            self._train_mode()
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(total).backward()  # type: ignore[no-untyped-call]  # torch leaves this one untyped
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    def _train_mode(self) -> None:
        self.network.train()
        if self.settings.encoder.frozen:
            hold(self.network)

    def _logits(self, network: Classifier | Segmenter, inputs: Tensor, *, of_features: bool = True) -> Tensor:
        """Return the logits of images, or of their features where these are computed once."""
        with self.precision.autocast():
            if of_features and self.features is not None:
                logits = self.features.logits(network, inputs)
            else:
                logits = network(self.standardise(inputs))
        return logits.float()

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.objective.loss(self.settings, logits, targets)

    @torch.inference_mode()
    def _validate(self, step: Callable[[], None]) -> tuple[float, float]:
        """Return loss and score of the validation tiles, which are not augmented."""
        network = self.state.judged.eval()
        order_seed = epoch_seeds(self.settings.seed, self.objective.task, 0)[1]
        rows = shuffled(self.parts.validation, order_seed)  # tiles of one slide lack classes
        losses, metric = [], self.objective.metric()
        for images, targets in (self.features or self.loader)(cut(rows, self.own.batch)):
            logits = self._logits(network, images)
            losses.append(self._loss(logits, targets) * len(images))
            metric.update(logits, targets)
            step()
        return torch.stack(losses).sum().item() / len(rows), metric.compute()
