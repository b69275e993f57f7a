"""The two training tasks: what is learnt, its augmentation, its loss and its metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from vitrail.classes import TissueClass
from vitrail.models.encoder import expansions
from vitrail.models.sources import find_source
from vitrail.models.spec import ClassifierSpec, SegmenterSpec
from vitrail.models.weights import describe_source
from vitrail.training.augment import Augmenter
from vitrail.training.glass import glass_count, glass_tiles
from vitrail.training.losses import alone, pixel_loss, tile_loss

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Generator, Tensor

    from vitrail.classes import Task
    from vitrail.settings.load import Settings
    from vitrail.settings.schema import ClassifierSettings, SegmenterSettings
    from vitrail.tiles.store import TileTable
    from vitrail.training.losses import Total

    Colours = tuple[list[float], list[float]]


class Accuracy:
    """The share of tiles that are called what they are, at a probability of one half."""

    def __init__(self) -> None:
        self._right: Tensor | int = 0  # stays on the device: reading it would wait for that
        self._total = 0

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch: logits and targets `[n]`."""
        self._right = self._right + ((logits > 0) == (targets > 0)).sum()
        self._total += len(logits)

    def compute(self, total: Total = alone) -> float:
        """Return the share of right tiles; `total` adds up what several processes have counted."""
        right = torch.as_tensor(self._right)
        counts = total(torch.stack([right, right.new_tensor(self._total)]))
        return int(counts[0]) / int(counts[1])


class MeanJaccard:
    """The Jaccard index of pixels, averaged over the classes that are there or were predicted."""

    def __init__(self) -> None:
        self._counts: Tensor | int = 0

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch: logits `[n, classes, h, w]` and classes `[n, h, w]`."""
        classes = logits.shape[1]
        pairs = targets.long() * classes + logits.argmax(1)
        counts = torch.bincount(pairs.flatten(), minlength=classes**2).view(classes, classes)
        self._counts = self._counts + counts

    def compute(self, total: Total = alone) -> float:
        """Return the mean Jaccard index; `total` adds up what several processes have counted."""
        counts = total(torch.as_tensor(self._counts)).cpu()  # not every GPU has doubles
        both = counts.diagonal().double()
        either = counts.sum(0) + counts.sum(1) - counts.diagonal()
        return float((both[either > 0] / either[either > 0]).mean())


class TrainingTask(Protocol):
    """One task: what is learnt, and how well it is.

    Attributes
    ----------
    task
        Its name, which is also the name of its branch of the settings.
    score
        The column of the validation score in `history.csv`.
    """

    task: Task
    score: str

    def settings(self, settings: Settings) -> ClassifierSettings | SegmenterSettings:
        """Return this task's branch of the settings."""

    def spec(self, settings: Settings, colours: Colours) -> ClassifierSpec | SegmenterSpec:
        """Describe the network; `colours` are mean and standard deviation of the training tiles."""

    def targets(self, tiles: TileTable) -> NDArray[np.float32] | NDArray[np.uint8]:
        """Return what is to be learnt, one entry a tile."""

    def augmenter(self, settings: Settings, generator: Generator) -> Augmenter:
        """Return what changes this task's training tiles, and their masks with them where those are learnt."""

    def negatives(
        self, settings: Settings, tiles: int, side_px: int, generator: Generator
    ) -> tuple[Tensor, Tensor] | None:
        """Return images that no tile shows, and their targets, on the CPU, to be learnt beside a batch; or None."""

    def loss(self, settings: Settings, logits: Tensor, targets: Tensor, total: Total = alone) -> Tensor:
        """Return the batch's loss, which `total` adds up; of the settings the task's own branch matters."""

    def metric(self) -> Accuracy | MeanJaccard:
        """Return the score of the validation tiles, before its first batch."""


class Classification:
    """Tumor or not: a loss of tiles, accuracy at a probability of one half."""

    task: Task = "classifier"
    score = "validation_accuracy"

    def settings(self, settings: Settings) -> ClassifierSettings:
        """Return this task's branch of the settings."""
        return settings.classifier

    def spec(self, settings: Settings, colours: Colours) -> ClassifierSpec:
        """Describe the network."""
        head = settings.classifier.model_dump(include={"dense", "dropout", "activation"})
        return ClassifierSpec.model_validate(_shared(settings, colours) | head)

    def targets(self, tiles: TileTable) -> NDArray[np.float32]:
        """Return 1 for tumor tiles, else 0."""
        return np.asarray(tiles.rows["label"] == TissueClass.TUMOR.key, dtype=np.float32)

    def augmenter(self, settings: Settings, generator: Generator) -> Augmenter:
        """Turn, mirror, recolour, blur, and add noise."""
        own = settings.classifier
        return Augmenter(settings.augment, generator, blur_px=own.blur_px, noise=own.noise)

    def negatives(
        self, settings: Settings, tiles: int, side_px: int, generator: Generator
    ) -> tuple[Tensor, Tensor] | None:
        """Return tiles of glass, which are no tumor."""
        share = settings.classifier.glass
        count = glass_count(share, tiles, generator) if share else 0
        return (glass_tiles(count, side_px, generator), torch.zeros(count)) if count else None

    def loss(self, settings: Settings, logits: Tensor, targets: Tensor, total: Total = alone) -> Tensor:
        """Return the loss of logits `[n]`."""
        return tile_loss(settings.classifier, logits, targets, total)

    def metric(self) -> Accuracy:
        """Return the accuracy."""
        return Accuracy()


class Segmentation:
    """The class of every pixel: a loss of pixels, mean Jaccard index."""

    task: Task = "segmenter"
    score = "validation_jaccard"

    def settings(self, settings: Settings) -> SegmenterSettings:
        """Return this task's branch of the settings."""
        return settings.segmenter

    def spec(self, settings: Settings, colours: Colours) -> SegmenterSpec:
        """Describe the network."""
        own, shared = settings.segmenter, _shared(settings, colours)
        source = find_source(settings.encoder.name)
        expands = own.architecture == "unet" and expansions(source.network, source.arguments) is not None
        layout = own.layout if expands else "timm"
        network = {"decoder": own.decoder, "layout": layout, "head_px": 1, "architecture": own.architecture}
        return SegmenterSpec.model_validate(shared | network)

    def targets(self, tiles: TileTable) -> NDArray[np.uint8]:
        """Return the masks."""
        return tiles.masks

    def augmenter(self, settings: Settings, generator: Generator) -> Augmenter:
        """Turn, mirror and recolour; blur and noise only where the settings want them."""
        own = settings.segmenter
        return Augmenter(settings.augment, generator, blur_px=own.blur_px, noise=own.noise)

    def negatives(self, settings: Settings, tiles: int, side_px: int, generator: Generator) -> None:
        """Return none: tiles show enough glass beside their tissue."""

    def loss(self, settings: Settings, logits: Tensor, targets: Tensor, total: Total = alone) -> Tensor:
        """Return the loss of logits `[n, 4, h, w]`."""
        return pixel_loss(settings.segmenter, logits, targets, total)

    def metric(self) -> MeanJaccard:
        """Return the mean Jaccard index."""
        return MeanJaccard()


def _shared(settings: Settings, colours: Colours) -> dict[str, object]:
    """Return what both networks' specifications share.

    An encoder that stays as it is sees images as it was trained with them, and so does one from a hub or a folder;
    others are tuned to the training tiles' own colours, as in the paper.
    """
    tiles, source = settings.tiles, find_source(settings.encoder.name)
    mean, std = source.colours if settings.encoder.frozen or source.own else colours
    outside = settings.annotations
    return {
        "encoder": source.network, "encoder_arguments": source.arguments,
        "encoder_source": describe_source(settings.encoder), "side_um": tiles.side_um, "side_px": tiles.side_px,
        "mean": mean, "std": std,
        "reading": {"mode": settings.slides.reading, "stain": settings.slides.stain},
        "labels": None if outside.unlabelled_tissue == "ignore"
        else {"unlabelled_tissue": outside.unlabelled_tissue, "margin_um": outside.margin_um},
    }  # fmt: skip


TRAINING_TASKS: dict[Task, TrainingTask] = {"classifier": Classification(), "segmenter": Segmentation()}
"""By name."""
