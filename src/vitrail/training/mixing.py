"""Tiles of a batch mixed in pairs: mixup and CutMix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from vitrail.settings.schema import TrainingSettings

    Targets = tuple[tuple[float, Tensor], ...]
    """Targets of a batch, and how much the loss against each counts; the weights add up to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixing:
    """Mixes each image with another one of its batch.

    Attributes
    ----------
    mixup, cutmix
        Their alpha: what is left of an image is drawn from a beta distribution with both parameters alpha; 0: none.
    """

    mixup: float
    cutmix: float

    @classmethod
    def of(cls, own: TrainingSettings) -> Mixing:
        """Mix as a task's branch of the settings says."""
        return cls(mixup=own.mixup, cutmix=own.cutmix)

    @property
    def mixes(self) -> bool:
        """Whether there is anything to mix by."""
        return bool(self.mixup or self.cutmix)

    def __call__(self, images: Tensor, targets: Tensor, generator: Generator) -> tuple[Tensor, Targets]:
        """Mix a batch.

        Parameters
        ----------
        images
            `[n, 3, h, w]`.
        targets
            Labels `[n]`, or masks `[n, h, w]`, of which CutMix takes the same rectangle.
        generator
            Of the CPU; where nothing is mixed, nothing is drawn.

        Returns
        -------
        tuple[Tensor, tuple[tuple[float, Tensor], ...]]
            Images, and the targets that the loss is taken against, with their weights.
        """
        if not self.mixes or len(images) < 2:
            return images, ((1.0, targets),)
        draws = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        cuts = bool(self.cutmix) and (not self.mixup or draws.random() < 0.5)
        alpha = self.cutmix if cuts else self.mixup
        left, partners = float(draws.beta(alpha, alpha)), torch.from_numpy(draws.permutation(len(images)))
        if cuts:
            height, width = images.shape[2:]
            side = np.sqrt(1 - left)
            (top, bottom), (west, east) = (_span(length, side, draws.random()) for length in (height, width))
            images[:, :, top:bottom, west:east] = images[partners, :, top:bottom, west:east]
            if targets.ndim == 3:
                targets[:, top:bottom, west:east] = targets[partners, top:bottom, west:east]
                return images, ((1.0, targets),)
            left = 1 - (bottom - top) * (east - west) / (height * width)
        else:
            images = left * images + (1 - left) * images[partners]
        return images, ((left, targets), (1 - left, targets[partners]))


def _span(length: int, share: float, middle: float) -> tuple[int, int]:
    """Return begin and end of a part of a side, cut off where it reaches beyond."""
    half = share * length / 2
    begin, end = (round(middle * length + sign * half) for sign in (-1, 1))
    return max(begin, 0), min(end, length)
