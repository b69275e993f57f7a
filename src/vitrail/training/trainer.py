"""One training loop for both networks."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from vitrail.core.files import write_text
from vitrail.core.progress import Silent
from vitrail.errors import ModelError, RunError, SettingsError
from vitrail.models.device import Precision, keep_memory, pick_device, reproducible, type_name
from vitrail.models.preprocessing import Normalizer
from vitrail.models.recompute import backward_pass, recompute_activations
from vitrail.models.spec import TrainingInfo
from vitrail.models.store import JSON, build_single, save_model, saved_fingerprint
from vitrail.models.weights import load_encoder, start_weights
from vitrail.tiles.appearance import appearance_of
from vitrail.training.calibrate import TrainedModel, examine
from vitrail.training.checkpoint import Checkpoint, EpochScores, TrainState, kept_epoch
from vitrail.training.frozen import CachedFeatures, freeze, hold, remove_features
from vitrail.training.loader import Loader, TrainingTiles, channel_statistics, cut, shuffled
from vitrail.training.mixing import Mixing
from vitrail.training.precision import choose_precision
from vitrail.training.preflight import check_fit
from vitrail.training.ranks import Ranks
from vitrail.training.schedule import epochs_of, make_optimizer, one_cycle, set_rate
from vitrail.training.stain_augment import StainTemplates
from vitrail.training.synchronised import synchronise
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
    from vitrail.tiles.store import TileTable
    from vitrail.training.augment import Augmenter
    from vitrail.training.loader import Part, Rows, Share
    from vitrail.training.mixing import Targets


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTraining:
    """What the process that leads a training tells those that take part in it, besides the tiles.

    Attributes
    ----------
    spec, settings
        The network, and the study's settings.
    train, validation
        Rows of the tile table.
    checkpoint
        Where all of them go on from; the leader writes it.
    precision
        Device and type of the leader: the others have a device of the same kind.
    """

    spec: ModelSpec
    settings: Settings
    train: Rows
    validation: Rows
    checkpoint: Checkpoint
    precision: Precision


def train(
    task: Task,
    parts: TrainingTiles,
    settings: Settings,
    *,
    folder: Path,
    progress: Progress | None = None,
    gather: Callable[[SharedTraining], Ranks] | None = None,
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
    gather
        Calls further processes in, once there is something to train, and returns all of them; see
        `vitrail.training.torchrun`. None trains in this process alone.

    Raises
    ------
    TileError
        A label has no training tile, or there is no validation tile.
    SettingsError
        The device that the settings ask for is not there.
    ModelError
        The encoder or its weights cannot be had or do not fit the tiles, the device's memory is too small, or the loss
        is no longer finite.
    RunError
        Another process that takes part has ended.
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
    shared = SharedTraining(
        spec=spec, settings=settings, train=parts.train, validation=parts.validation, checkpoint=checkpoint,
        precision=precision,
    )  # fmt: skip
    ranks = gather(shared) if gather else Ranks()
    with _memory_errors(task, settings, device), reproducible(device, epoch_seeds(settings.seed, task, 0)[0]):
        trainer = Trainer(spec, parts, settings, precision, ranks)
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
    checkpoint.remove()
    remove_features(folder)


def take_part(shared: SharedTraining, tiles: TileTable, ranks: Ranks) -> None:
    """Take part in a training that another process leads, and writes; here only features of an encoder are written.

    Parameters
    ----------
    shared
        The training.
    tiles
        The table that it is about.
    ranks
        This process among all that take part.

    Raises
    ------
    VitrailError
        As `train`; and where this machine has no such device, or does not see the leader's checkpoint.
    """
    keep_memory()
    spec, settings, device = shared.spec, shared.settings, pick_device(shared.settings.compute.device)
    if device.type != shared.precision.device.type:
        problem = f"this machine would train on {device.type}, and the one that leads does on "
        cure = 'Take machines of one kind, or set compute.device = "cpu"'
        raise SettingsError("compute.device", problem + shared.precision.device.type, cure)
    parts = TrainingTiles(tiles=tiles, train=shared.train, validation=shared.validation)
    with _memory_errors(spec.task, settings, device), reproducible(device, epoch_seeds(settings.seed, spec.task, 0)[0]):
        Trainer(spec, parts, settings, shared.precision, ranks).run(shared.checkpoint, Silent())


@contextmanager
def _memory_errors(task: Task, settings: Settings, device: torch.device) -> Iterator[None]:
    """Tell what to do where a device's memory is too small for a training."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        problem = f"{device.type} has too little memory for batches of {TRAINING_TASKS[task].settings(settings).batch}"
        cure = (
            f"Set compute.checkpoint_activations = true, raise {task}.accumulate, or lower {task}.batch in study.toml"
        )
        raise ModelError(f"{task} training", problem, cure) from None


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
    ranks
        The processes that share the training.

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

    def __init__(
        self,
        spec: ModelSpec,
        parts: TrainingTiles,
        settings: Settings,
        precision: Precision,
        ranks: Ranks | None = None,
    ) -> None:
        self.objective = TRAINING_TASKS[spec.task]
        self.own = self.objective.settings(settings)
        self.parts, self.settings, self.precision, self.ranks = parts, settings, precision, ranks or Ranks()
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
        if self.ranks.size > 1:  # the average is only looked at: it stays as it is
            synchronise(self.network, self.ranks)
        if settings.compute.checkpoint_activations:
            recompute_activations(self.network)
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
        ranks = self.ranks
        history = checkpoint.resume(self.state, ranks.size)
        if not ranks.is_agreed(len(history)):
            problem = "the processes of this training do not see the same checkpoint"
            raise RunError(checkpoint.folder, problem, "Put the run on a disk that all machines share")
        if not history and ranks.is_first:
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
                if ranks.is_first:
                    checkpoint.save(self.state, history, ranks.size)
                    self._write_history(checkpoint.folder, history)
        if ranks.is_first:  # once more, for one that was killed before the line above
            self._write_history(checkpoint.folder, history)
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
        batches = cut(shuffled(self.parts.train, order_seed), self.own.batch)
        for done, (images, targets, share) in enumerate(self._read(batches), (number - 1) * self.steps):
            if self.own.schedule == "one_cycle":
                set_rate(self.state.optimizer, one_cycle(done / (self.epochs * self.steps), self.own.warmup))
            train_loss += self._step(images, targets, share, augmenter) * share.total
            self.state.follow(min(self.own.ema, (done + 2) / (done + 11)))  # at first it must forget the start
            step()
        mean_loss = train_loss.item() / len(self.parts.train)
        validation_loss, score = self._validate(step)
        return EpochScores(train_loss=mean_loss, validation_loss=validation_loss, score=score)

    def _read(self, batches: list[Rows]) -> Iterator[tuple[Tensor, Tensor, Share]]:
        """Read batches, or this process's shares of them."""
        shares = [self.ranks.share(len(batch), self.own.accumulate) for batch in batches]
        own = [batch if share.rows is None else batch[share.rows] for batch, share in zip(batches, shares, strict=True)]
        for (images, targets), share in zip((self.features or self.loader)(own), shares, strict=True):
            yield images, targets, share

    def _step(self, images: Tensor, targets: Tensor, share: Share, augmenter: Augmenter) -> Tensor:
        """Change the weights by one batch and return its loss, that of the negatives left out."""
        optimizer, scaler, side_px = self.state.optimizer, self.state.scaler, self.parts.tiles.images.shape[1]
        negatives = self.objective.negatives(self.settings, share.total, side_px, augmenter.generator)
        images, mixed = self._changed(images, targets, share, augmenter)
        optimizer.zero_grad(set_to_none=True)
        losses = []
        for part in share.parts:
            logits = self._logits(self.network, images[part.own], part)
            each = [weight * self._loss(logits, target[part.own], part) for weight, target in mixed]
            losses.append(torch.stack(each).sum() * (part.tiles / share.total))
            self._backward(losses[-1])
        if negatives is not None:
            self.network.eval()  # in the batch they would move its statistics
            glass, truth = (each.to(self.precision.device) for each in negatives)
            (part,) = (beside := self.ranks.share(len(glass))).parts
            logits = self._logits(self.network, beside.take(glass), part, of_features=False)
            self._backward(self._loss(logits, beside.take(truth), part) * len(glass) / share.total)
            self._train_mode()
        self.ranks.sum_gradients(self.network.parameters())
        scaler.step(optimizer)
        scaler.update()
        return torch.stack(losses).detach().sum()

    def _changed(self, images: Tensor, targets: Tensor, share: Share, augmenter: Augmenter) -> tuple[Tensor, Targets]:
        """Augment and mix a batch's tiles, or draw the symmetries of their features."""
        if self.features is not None:
            return self.features.turned(images, augmenter.generator, share), ((1.0, targets),)
        images, masks = augmenter(images, targets if targets.ndim == 3 else None, share)
        targets = targets if masks is None else masks
        if not self.mixing.mixes:
            return images, ((1.0, targets),)
        # partners may be with other processes
        images, targets = self.ranks.joined(images, share), self.ranks.joined(targets, share)
        images, mixed = self.mixing(images, targets, augmenter.generator)
        return share.take(images), tuple((weight, share.take(target)) for weight, target in mixed)

    def _backward(self, loss: Tensor) -> None:
        """Add a loss's gradients to those that are there."""
        again = self.settings.compute.checkpoint_activations
        with backward_pass(self.network) if again else nullcontext():
            self.state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch leaves this one untyped

    def _train_mode(self) -> None:
        self.network.train()
        if self.settings.encoder.frozen:
            hold(self.network)

    def _logits(
        self, network: Classifier | Segmenter, inputs: Tensor, part: Part, *, of_features: bool = True
    ) -> Tensor:
        """Return the logits of images, or of their features where these are computed once."""
        self.ranks.part = part
        with self.precision.autocast():
            if of_features and self.features is not None:
                logits = self.features.logits(network, inputs)
            else:
                logits = network(self.standardise(inputs))
        return logits.float()

    def _loss(self, logits: Tensor, targets: Tensor, part: Part) -> Tensor:
        if part.is_idle:
            logits, targets = logits[:0], targets[:0]
        return self.objective.loss(self.settings, logits, targets, self.ranks.total)

    @torch.inference_mode()
    def _validate(self, step: Callable[[], None]) -> tuple[float, float]:
        """Return loss and score of the validation tiles, which are not augmented."""
        network, total = self.state.judged.eval(), self.ranks.total
        order_seed = epoch_seeds(self.settings.seed, self.objective.task, 0)[1]
        rows = shuffled(self.parts.validation, order_seed)  # tiles of one slide lack classes
        losses, metric = [], self.objective.metric()
        for images, truth, share in self._read(cut(rows, self.own.batch)):
            # parts save memory here, too, but the loss is the batch's
            own, idle = [part.own for part in share.parts], [part.is_idle for part in share.parts]
            logits = _without_idle([self._logits(network, images[part.own], part) for part in share.parts], idle)
            targets = _without_idle([truth[tiles] for tiles in own], idle)
            losses.append(self.objective.loss(self.settings, logits, targets, total) * share.total)
            metric.update(logits, targets)
            step()
        return torch.stack(losses).sum().item() / len(rows), metric.compute(total)


def _without_idle(tensors: list[Tensor], idle: list[bool]) -> Tensor:
    """Join tensors but for those that do not count."""
    if len(tensors) == 1 and not idle[0]:
        return tensors[0]
    return torch.cat([each[:0] if skip else each for each, skip in zip(tensors, idle, strict=True)])
