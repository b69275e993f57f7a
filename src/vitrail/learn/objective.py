"""What tells the two trainings apart: labels or masks, the loss, and the score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from segmentation_models_pytorch.losses import JaccardLoss
from torch.nn.functional import binary_cross_entropy_with_logits

from vitrail.learn.augment import Augmenter
from vitrail.learn.data import tumor_labels
from vitrail.models.spec import ClassifierSpec, SegmenterSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Generator, Tensor

    from vitrail.branches import ClassifierSettings, SegmenterSettings
    from vitrail.config import Settings
    from vitrail.models.spec import Task
    from vitrail.tiles.table import TileTable

    Colours = tuple[list[float], list[float]]


class Objective(Protocol):
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
        """Return what changes this task's training tiles."""

    def augment(self, augmenter: Augmenter, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Change images, and the targets with them."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the batch's mean loss."""

    def tally(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Count what the score needs; tallies of batches add up."""

    def rate(self, tally: Tensor) -> float:
        """Turn the sum of all tallies into the score, 0 to 1."""


class Classification:
    """Tumor or not: binary cross-entropy, accuracy at a probability of one half."""

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
        return tumor_labels(tiles)

    def augmenter(self, settings: Settings, generator: Generator) -> Augmenter:
        """Turn, mirror, recolour, blur, and add noise."""
        own = settings.classifier
        return Augmenter(settings.augment, generator, blur_px=own.blur_px, noise=own.noise)

    def augment(self, augmenter: Augmenter, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Change the images; labels stay."""
        return augmenter(images)[0], targets

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the binary cross-entropy of logits `[n]`."""
        return binary_cross_entropy_with_logits(logits, targets)

    def tally(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Count right and all tiles, `[2]`."""
        right = (logits > 0) == (targets > 0)
        return torch.stack([right.sum(), torch.full_like(right, 1, dtype=torch.int64).sum()])

    def rate(self, tally: Tensor) -> float:
        """Return the share of right tiles."""
        right, total = tally.tolist()
        return float(right / total)


class Segmentation:
    """The class of every pixel: Jaccard loss on the softmax, mean Jaccard index."""

    task: Task = "segmenter"
    score = "validation_jaccard"

    def __init__(self) -> None:
        self._jaccard = JaccardLoss(mode="multiclass")

    def settings(self, settings: Settings) -> SegmenterSettings:
        """Return this task's branch of the settings."""
        return settings.segmenter

    def spec(self, settings: Settings, colours: Colours) -> SegmenterSpec:
        """Describe the network."""
        return SegmenterSpec.model_validate(_shared(settings, colours) | {"decoder": settings.segmenter.decoder})

    def targets(self, tiles: TileTable) -> NDArray[np.uint8]:
        """Return the masks."""
        return tiles.masks

    def augmenter(self, settings: Settings, generator: Generator) -> Augmenter:
        """Turn, mirror and recolour."""
        return Augmenter(settings.augment, generator)

    def augment(self, augmenter: Augmenter, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Change images and masks together."""
        images, masks = augmenter(images, targets)
        return images, targets if masks is None else masks

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the Jaccard loss of logits `[n, 4, h, w]`; a class that the batch lacks counts as 0."""
        loss: Tensor = self._jaccard(logits, targets.long())
        return loss

    def tally(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Count pixels by true and predicted class, `[4, 4]`."""
        classes = logits.shape[1]
        pairs = targets.long() * classes + logits.argmax(1)
        return torch.bincount(pairs.flatten(), minlength=classes**2).view(classes, classes)

    def rate(self, tally: Tensor) -> float:
        """Return the Jaccard index, averaged over the classes that are there or were predicted."""
        tally = tally.cpu()  # not every GPU has doubles
        both = tally.diagonal().double()
        either = tally.sum(0) + tally.sum(1) - tally.diagonal()
        return float((both[either > 0] / either[either > 0]).mean())


def _shared(settings: Settings, colours: Colours) -> dict[str, object]:
    tiles = settings.tiles
    return {
        "encoder": settings.encoder.name, "side_um": tiles.side_um, "side_px": tiles.side_px,
        "mean": colours[0], "std": colours[1], "reading": {"mode": settings.slides.reading},
    }  # fmt: skip


OBJECTIVES: dict[Task, Objective] = {"classifier": Classification(), "segmenter": Segmentation()}
"""The objective of each task."""
