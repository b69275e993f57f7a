"""What tells the two trainings apart: labels or masks, the loss, and the score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from vitrail.models.encoder import expansions
from vitrail.models.spec import ClassifierSpec, SegmenterSpec
from vitrail.training.augment import Augmenter
from vitrail.training.glass import glass_count, glass_tiles
from vitrail.training.loader import tumor_labels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Generator, Tensor

    from vitrail.classes import Task
    from vitrail.settings.load import Settings
    from vitrail.settings.schema import ClassifierSettings, SegmenterSettings
    from vitrail.tiles.store import TileTable

    Colours = tuple[list[float], list[float]]


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
        """Return what changes this task's training tiles."""

    def augment(self, augmenter: Augmenter, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Change images, and the targets with them."""

    def negatives(self, settings: Settings, images: Tensor, generator: Generator) -> tuple[Tensor, Tensor] | None:
        """Return images that no tile shows, and their targets, to be learnt beside a batch; or None."""

    def loss(self, settings: Settings, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the batch's loss; of the settings the task's own branch matters."""

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

    def negatives(self, settings: Settings, images: Tensor, generator: Generator) -> tuple[Tensor, Tensor] | None:
        """Return tiles of glass, which are no tumor."""
        share = settings.classifier.glass
        count = glass_count(share, len(images), generator) if share else 0
        if not count:
            return None
        glass = glass_tiles(count, images.shape[-1], generator).to(images.device)
        return glass, torch.zeros(count, device=images.device)

    def loss(self, settings: Settings, logits: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002 - the protocol's
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

    def settings(self, settings: Settings) -> SegmenterSettings:
        """Return this task's branch of the settings."""
        return settings.segmenter

    def spec(self, settings: Settings, colours: Colours) -> SegmenterSpec:
        """Describe the network."""
        own, expands = settings.segmenter, expansions(settings.encoder.name) is not None
        layout = own.layout if expands else "timm"
        network = {"decoder": own.decoder, "layout": layout, "head_px": 1}
        return SegmenterSpec.model_validate(_shared(settings, colours) | network)

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

    def negatives(self, settings: Settings, images: Tensor, generator: Generator) -> None:
        """Return none: tiles show enough glass beside their tissue."""

    def loss(self, settings: Settings, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the Jaccard loss of logits `[n, 4, h, w]`."""
        loss = jaccard_losses(logits, targets)
        if settings.segmenter.loss == "jaccard_present":
            present = torch.bincount(targets.flatten().long(), minlength=len(loss)) > 0
            loss = torch.where(present, loss, 0)
        return loss.mean()

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


_SMOOTH = 1e-5  # as in the paper's library, which divides no 0 by 0 with it


def jaccard_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the Jaccard loss of each class: 1 less shared over joint probability, summed over all pixels of a batch.

    As the library that the paper names computes it. A class that the batch lacks comes out as nearly 1, whatever is
    predicted, and hardly has a gradient.

    Parameters
    ----------
    logits
        `[n, classes, h, w]`.
    targets
        The true class of each pixel, `[n, h, w]`.

    Returns
    -------
    Tensor
        `[classes]`.
    """
    probability = logits.softmax(1)
    truth = one_hot(targets.long(), logits.shape[1]).movedim(3, 1)
    shared = (probability * truth).sum((0, 2, 3))
    joint = probability.sum((0, 2, 3)) + truth.sum((0, 2, 3)) - shared
    return 1 - (shared + _SMOOTH) / (joint + _SMOOTH)


def _shared(settings: Settings, colours: Colours) -> dict[str, object]:
    tiles = settings.tiles
    return {
        "encoder": settings.encoder.name, "side_um": tiles.side_um, "side_px": tiles.side_px,
        "mean": colours[0], "std": colours[1], "reading": {"mode": settings.slides.reading},
    }  # fmt: skip


TRAINING_TASKS: dict[Task, TrainingTask] = {"classifier": Classification(), "segmenter": Segmentation()}
"""The objective of each task."""
