"""An encoder that keeps its weights: what it gives for the tiles is computed once, and heads are trained on that.

Of a classifier, means over the tile are kept, of training tiles in the eight symmetries of a square: a fraction of a
percent of what the maps would take. Of a segmenter on one feature map (a vision transformer's, or the architecture
`linear`), the maps are kept as 16-bit floats, and of tiles as they are, because eight times as many would seldom fit a
disk. Changes of colour, blur and noise do not reach what was computed before. A U-Net needs maps of five sizes, 4 MB a
tile: nothing is kept, the frozen encoder sees every batch anew, with all augmentation.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from vitrail.core.ahead import work_ahead
from vitrail.core.digest import json_digest
from vitrail.core.resume import Parts
from vitrail.models.classifier import Classifier
from vitrail.models.preprocessing import intensities
from vitrail.models.segmenter import FinalEncoder
from vitrail.training.loader import Share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Generator, Tensor

    from vitrail.core.progress import Progress
    from vitrail.models.device import Precision
    from vitrail.models.preprocessing import Normalizer
    from vitrail.models.segmenter import Segmenter
    from vitrail.settings.load import Settings
    from vitrail.training.checkpoint import Checkpoint
    from vitrail.training.loader import Loader, Rows, TrainingTiles
    from vitrail.training.ranks import Ranks
    from vitrail.training.tasks import TrainingTask

FOLDER = "features"
"""Within a model folder, while it is trained."""

BLOCK = 64
"""Tiles whose features are computed in one go: what a killed run loses at most."""

_BATCH = 16
_SYMMETRIES = 8


class Training(Protocol):
    """What is needed of a training: what a `Trainer` has."""

    network: Classifier | Segmenter
    parts: TrainingTiles
    settings: Settings
    precision: Precision
    standardise: Normalizer
    loader: Loader
    objective: TrainingTask
    ranks: Ranks


def freeze(network: Classifier | Segmenter) -> None:
    """Let an encoder keep its weights: no gradients, and in eval mode."""
    network.backbone.requires_grad_(requires_grad=False)
    hold(network)


def hold(network: Classifier | Segmenter) -> None:
    """Put a frozen encoder back into eval mode, which `train` of the whole network has switched off."""
    network.backbone.eval()


def remove_features(folder: Path) -> None:
    """Remove what is kept in a model folder until its training ends."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def symmetry(images: Tensor, number: int) -> Tensor:
    """Turn images `[n, c, h, w]` by `number % 4` quarters, and mirror them from 4 on."""
    turned = images.rot90(number % 4, (2, 3))
    return turned.flip(3) if number >= _SYMMETRIES // 2 else turned


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CachedFeatures:
    """Reads batches of a frozen encoder's features from memory maps, as a `Loader` reads batches of images.

    Attributes
    ----------
    network
        The classifier or segmenter.
    blocks
        Features of `BLOCK` tiles each: of a classifier `[n, symmetries, c]`, of a segmenter `[n, 1, c, h, w]`.
    places
        By the number of a tile's row its block, and its place there; -1 where it has none.
    targets
        One entry a tile.
    side_px
        Of a tile.
    """

    network: Classifier | Segmenter
    blocks: tuple[NDArray[np.floating], ...]
    places: NDArray[np.int64]
    targets: NDArray[np.float32] | NDArray[np.uint8]
    side_px: int

    @classmethod
    def of(cls, trainer: Training, checkpoint: Checkpoint, progress: Progress) -> CachedFeatures | None:
        """Compute the features of all tiles that a training sees, or what an earlier attempt has left of them.

        Parameters
        ----------
        trainer
            With the network, whose encoder is frozen, on its device.
        checkpoint
            Where it stands, and for what.
        progress
            Told of every block.

        Returns
        -------
        CachedFeatures | None
            None where the network needs maps of several sizes.
        """
        network, parts = trainer.network, trainer.parts
        if not isinstance(network, Classifier) and not isinstance(network.body.encoder, FinalEncoder):
            return None
        augment = trainer.settings.augment
        turned = isinstance(network, Classifier) and augment.mirror > 0 and augment.rotation_step_deg > 0
        kept = Parts(checkpoint.folder / FOLDER / json_digest(checkpoint.fingerprint)[:32])
        places = np.full((len(parts.tiles.images), 2), -1, np.int64)
        jobs: list[tuple[Rows, int]] = []
        for rows, symmetries in ((parts.train, _SYMMETRIES if turned else 1), (parts.validation, 1)):
            for begin in range(0, len(rows), BLOCK):
                block = rows[begin : begin + BLOCK]
                places[block] = np.stack([np.full(len(block), len(jobs)), np.arange(len(block))], 1)
                jobs.append((block, symmetries))
        compute, ranks = _encoder_of(trainer), trainer.ranks

        def feature_block(number: int) -> NDArray[np.floating]:
            block, symmetries = jobs[number]
            return kept.mapped(f"{number:06d}", lambda: compute(np.asarray(parts.tiles.images[block]), symmetries))

        own = range(ranks.rank, len(jobs), ranks.size)  # several processes share the blocks, and each writes its own
        with progress.task(f"{trainer.objective.task} features", len(own)) as step:
            for number in own:
                feature_block(number)
                step(1, "")
        ranks.wait()
        blocks = [feature_block(number) for number in range(len(jobs))]
        side_px = parts.tiles.images.shape[1]
        targets = trainer.loader.targets
        return cls(network=network, blocks=tuple(blocks), places=places, targets=targets, side_px=side_px)

    def __call__(self, batches: list[Rows]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features `[b, symmetries, ...]` and targets, in the order given."""
        device = next(self.network.parameters()).device
        for features, targets in work_ahead(self._read, batches):
            yield features.to(device).float(), targets.to(device)

    def turned(self, features: Tensor, generator: Generator, share: Share | None = None) -> Tensor:
        """Draw one of the symmetries for each tile of `[b, symmetries, ...]`, a share of a batch; `[b, 1, ...]`."""
        share = share or Share.of(len(features))
        whole = torch.randint(features.shape[1], (share.total,), generator=generator)
        drawn = share.take(whole).to(features.device)
        return features[torch.arange(len(features), device=features.device), drawn].unsqueeze(1)

    def logits(self, network: Classifier | Segmenter, features: Tensor) -> Tensor:
        """Map features `[b, symmetries, ...]`, of which the first counts, to a network's logits."""
        if isinstance(network, Classifier):
            return network.head(features[:, 0, :, None, None])
        return network.decode([features[:, 0]], (self.side_px, self.side_px))

    def _read(self, rows: Rows) -> tuple[Tensor, Tensor]:
        features = np.stack([self.blocks[block][place] for block, place in self.places[rows]])
        return torch.from_numpy(features), torch.from_numpy(np.asarray(self.targets[rows]))


def _encoder_of(trainer: Training) -> Callable[[NDArray[np.uint8], int], NDArray[np.floating]]:
    """Return what computes the features of tiles `[n, h, w, 3]` in so many symmetries."""
    network, precision = trainer.network, trainer.precision

    def features(images: Tensor) -> Tensor:
        with precision.autocast():
            if isinstance(network, Classifier):
                maps: Tensor = network.features(trainer.standardise(images))
                return maps.float().mean((2, 3))
            last: Tensor = network.encode(trainer.standardise(images))[-1]
            return last.half()

    @torch.inference_mode()
    def compute(images: NDArray[np.uint8], symmetries: int) -> NDArray[np.floating]:
        parts = []
        for begin in range(0, len(images), _BATCH):
            batch = intensities(torch.from_numpy(images[begin : begin + _BATCH]).to(precision.device))
            seen = [features(symmetry(batch, number)) for number in range(symmetries)]
            parts.append(torch.stack(seen, 1).cpu().numpy())
        result: NDArray[np.floating] = np.concatenate(parts)
        return result

    return compute
