"""What a trained network finds out about itself on the validation tiles: how sure it may be, and whether 16 bits do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from vitrail.classes import TissueClass
from vitrail.metrics.calibration import fit_temperature
from vitrail.models.device import Precision, half_type, type_name
from vitrail.models.preprocessing import Normalizer
from vitrail.models.spec import HalfCheck
from vitrail.training.loader import Loader, cut

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from vitrail.core.progress import Progress
    from vitrail.models.classifier import Classifier
    from vitrail.models.segmenter import Segmenter
    from vitrail.models.spec import ModelSpec
    from vitrail.training.loader import Rows

    Floats = NDArray[np.float64]

PIXELS = 200_000
"""Pixels that a segmenter's temperature is fitted on, where there are as many."""

CHECKED = 256
"""Tiles that are compared in a 16-bit type, where there are as many."""

_PIXELWISE = 4  # dimensions of a segmenter's logits


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A trained network on its device, and the tiles to try it on.

    Attributes
    ----------
    network
        With the weights that are kept.
    spec
        What it is.
    loader
        Reads tiles and what they hold.
    rows
        The validation tiles.
    batch
        Tiles at once.
    seed
        Draws pixels and tiles, where there are more than needed.
    """

    network: Classifier | Segmenter
    spec: ModelSpec
    loader: Loader
    rows: Rows
    batch: int
    seed: int

    @torch.inference_mode()  # as a decorator it holds only while the generator runs, so that two can run in turn
    def logits(self, rows: Rows, dtype: torch.dtype = torch.float32) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float32 logits, computed in a type, and targets, batch by batch."""
        device = self.loader.device
        standardise, computed = Normalizer(self.spec, device), Precision(device=device, dtype=dtype)
        self.network.eval()
        for images, targets in self.loader(cut(rows, self.batch) if len(rows) else []):
            with computed.autocast():
                logits = self.network(standardise(images))
            yield logits.float(), targets


def examine(examinee: TrainedModel, progress: Progress) -> ModelSpec:
    """Fit a network's temperature, compare it with itself in 16 bits, and return its specification with both.

    Parameters
    ----------
    examinee
        The network.
    progress
        Told where no temperature can be fitted.
    """
    temperature = calibrate(examinee)
    if temperature is None:
        progress.say(f"{examinee.spec.task}: not calibrated, for its validation tiles do not hold several classes")
    found = {"temperature": temperature or 1.0, "half": compare_half(examinee)}
    return examinee.spec.model_copy(update=found)


def calibrate(examinee: TrainedModel) -> float | None:
    """Return the temperature of a network; None where the validation tiles hold one class alone, or are none.

    See `fit_temperature`. A classifier's is fitted on all tiles, a segmenter's on the same pixels, drawn once, of each.
    """
    kept = _kept_pixels(examinee) if examinee.spec.task == "segmenter" else None
    found = [_flat(logits, targets, kept) for logits, targets in examinee.logits(examinee.rows)]
    truth = np.concatenate([np.empty(0, np.int64), *(true for _, true in found)])
    if len(np.unique(truth)) < 2:
        return None
    return fit_temperature(np.concatenate([logits for logits, _ in found]), truth)


def _kept_pixels(examinee: TrainedModel) -> NDArray[np.int64]:
    """Draw the pixels of a tile that count, `[k]`, numbered row by row."""
    all_px, tiles = examinee.spec.side_px**2, max(1, len(examinee.rows))
    rng = np.random.default_rng([examinee.seed, *b"temperature"])
    return np.sort(rng.choice(all_px, min(all_px, -(-PIXELS // tiles)), replace=False))


def _flat(logits: Tensor, targets: Tensor, kept: NDArray[np.int64] | None) -> tuple[Floats, NDArray[np.int64]]:
    """Return the logits of tiles `[n]`, or of the pixels kept `[n, classes]`, and what is true of them, `[n]`."""
    if kept is None:
        return logits.cpu().double().numpy(), targets.cpu().long().numpy()
    at = torch.from_numpy(kept).to(logits.device)
    pixels = logits.flatten(2)[:, :, at].movedim(1, 2).flatten(0, 1)
    return pixels.cpu().double().numpy(), targets.flatten(1)[:, at].flatten().cpu().long().numpy()


def compare_half(examinee: TrainedModel) -> HalfCheck | None:
    """Compare a network's answers in the device's 16-bit type with those in float32, on some of the validation tiles.

    None where there are no tiles, or no units for such a type: emulated, a single tile takes half a second.
    """
    dtype = half_type(examinee.loader.device)
    if dtype is None or not len(examinee.rows):
        return None
    rng = np.random.default_rng([examinee.seed, *b"half"])
    rows = np.sort(rng.choice(examinee.rows, min(CHECKED, len(examinee.rows)), replace=False))
    pairs = zip(examinee.logits(rows), examinee.logits(rows, dtype), strict=True)
    moved, changed, pixels = zip(*(_compared(full, half) for (full, _), (half, _) in pairs), strict=True)
    return HalfCheck.model_validate(
        {
            "dtype": type_name(dtype),
            "tiles": len(rows),
            "largest": float(np.concatenate(moved).max()),
            "changed": float(np.concatenate(changed).mean()),
            "pixels": float(np.concatenate(pixels).mean()) if examinee.spec.task == "segmenter" else None,
        }
    )


def _compared(full: Tensor, half: Tensor) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """Compare logits of the same tiles: by how much each moves, whether it is called otherwise, its pixels' share."""
    first, second = _tumor_of(full), _tumor_of(half)
    otherwise = (
        (full.argmax(1) != half.argmax(1)).double().mean((1, 2)) if full.ndim == _PIXELWISE else full.new_zeros(0)
    )
    return np.abs(first - second), (first >= _CALLED) != (second >= _CALLED), otherwise.cpu().numpy()


_CALLED = 0.5


def _tumor_of(logits: Tensor) -> Floats:
    """Return the tumor probability of tiles, `[n]`: the segmenter's is its share of tumor pixels."""
    if logits.ndim == _PIXELWISE:
        return np.asarray((logits.argmax(1) == TissueClass.TUMOR).cpu().numpy().mean((1, 2)))
    return torch.sigmoid(logits.cpu().double()).numpy()
