"""Checks of a trained network on its validation tiles: temperature scaling, and agreement of a 16-bit type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from vitrail.metrics.calibration import fit_temperature
from vitrail.models.batches import Batches, tumor_score
from vitrail.models.device import Precision, half_type, type_name
from vitrail.models.openvino import Compiled, use_openvino
from vitrail.models.preprocessing import FromBytes
from vitrail.models.spec import HalfCheck
from vitrail.models.trial import trials_are_off
from vitrail.training.loader import Loader, cut

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from vitrail.core.progress import Progress
    from vitrail.models.spec import ModelSpec
    from vitrail.training.loader import Rows

PIXELS = 200_000
"""Pixels that a segmenter's temperature is fitted on, where there are as many."""

CHECKED = 256
"""Tiles that are compared in a 16-bit type, where there are as many."""


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

    network: nn.Module
    spec: ModelSpec
    loader: Loader
    rows: Rows
    batch: int
    seed: int

    @torch.inference_mode()  # as a decorator it holds only while the generator runs, so that two can run in turn
    def logits(self, rows: Rows, dtype: torch.dtype = torch.float32) -> Iterator[tuple[Tensor, Tensor]]:
        """Compute logits in a type, batch by batch.

        Parameters
        ----------
        rows
            Of the loader's images.
        dtype
            What convolutions and products are computed in.

        Yields
        ------
        tuple[Tensor, Tensor]
            Logits in float32, and targets.
        """
        precision = Precision(device=self.loader.device, dtype=dtype)
        batches = Batches(self.spec, self.loader.device, self.batch, f"calibration of the {self.spec.task}")

        def compute(_batch: slice, images: Tensor) -> Tensor:
            with precision.autocast():
                logits: Tensor = self.network(images)
            return logits.float()

        self.network.eval()
        for images, targets in self.loader(cut(rows, self.batch) if len(rows) else []):
            yield torch.cat(list(batches.run(images, compute))), targets

    def pixels(self, most: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Compute the logits of all tiles, or of a segmenter those of the same pixels, drawn once, of each tile.

        Parameters
        ----------
        most
            Pixels of all tiles together, about.

        Returns
        -------
        tuple[NDArray[np.float64], NDArray[np.int64]]
            Logits `[n]` of a classifier, `[n, classes]` of a segmenter; and the true classes, `[n]`. None where there
            are no tiles.
        """
        rng = np.random.default_rng([self.seed, *b"temperature"])
        tile_px, each = self.spec.side_px**2, -(-most // max(1, len(self.rows)))
        drawn = torch.from_numpy(np.sort(rng.choice(tile_px, min(tile_px, each), replace=False)))
        shape = (0, len(self.spec.classes)) if self.spec.task == "segmenter" else (0,)
        all_logits, all_targets = [np.empty(shape)], [np.empty(0, np.int64)]
        for logits, targets in self.logits(self.rows):
            if self.spec.task == "segmenter":
                drawn = drawn.to(logits.device)
                logits = logits.flatten(2)[:, :, drawn].movedim(1, 2).flatten(0, 1)  # noqa: PLW2901 - the same, of pixels
                targets = targets.flatten(1)[:, drawn].flatten()  # noqa: PLW2901 - the same
            all_logits.append(logits.cpu().double().numpy())
            all_targets.append(targets.cpu().long().numpy())
        return np.concatenate(all_logits), np.concatenate(all_targets)


def examine(model: TrainedModel, progress: Progress) -> ModelSpec:
    """Fit a network's temperature and compare it with itself in 16 bits.

    Parameters
    ----------
    model
        The network.
    progress
        Told where no temperature can be fitted.

    Returns
    -------
    ModelSpec
        The network's specification, with both.
    """
    temperature = calibrate(model)
    if temperature is None:
        progress.say(f"{model.spec.task}: not calibrated, for its validation tiles do not hold several classes")
    return model.spec.model_copy(update={"temperature": temperature or 1.0} | compare_types(model))


def calibrate(model: TrainedModel) -> float | None:
    """Fit the temperature of a network, see `fit_temperature`.

    A classifier's is fitted on all validation tiles, a segmenter's on the same pixels, drawn once, of each.

    Parameters
    ----------
    model
        The network.

    Returns
    -------
    float | None
        None where the validation tiles hold one class alone, or are none.
    """
    logits, truth = model.pixels(PIXELS)
    return fit_temperature(logits, truth) if len(np.unique(truth)) > 1 else None


def compare_types(model: TrainedModel) -> dict[str, HalfCheck | None]:
    """Return the fields of a specification that say whether 16 bits would do, by torch and by OpenVINO."""
    return {"half": compare_half(model), "half_openvino": compare_openvino(model)}


def compare_half(model: TrainedModel) -> HalfCheck | None:
    """Compare a network's answers in the device's 16-bit type with those in float32, on some of the validation tiles.

    Parameters
    ----------
    model
        The network.

    Returns
    -------
    HalfCheck | None
        None where there are no tiles, or no units for such a type: emulated, a single tile takes half a second.
    """
    dtype = half_type(model.loader.device)
    if dtype is None or not len(model.rows):
        return None
    rows = _checked_rows(model)
    return _compared(model, dtype, (logits for logits, _ in model.logits(rows, dtype)))


def compare_openvino(model: TrainedModel) -> HalfCheck | None:
    """Compare a network's answers by OpenVINO in bfloat16, which rounds other layers than torch, with torch's float32.

    Parameters
    ----------
    model
        The network.

    Returns
    -------
    HalfCheck | None
        None where nobody would use it: not on a CPU that has instructions for it and OpenVINO, or trials are off; and
        where there are no tiles.
    """
    device = model.loader.device
    asked = device.type == "cpu" and not trials_are_off() and use_openvino("auto", device)
    if not asked or half_type(device) != torch.bfloat16 or not len(model.rows):
        return None
    network = FromBytes(model.network.eval(), model.spec).eval()
    compiled, rows = Compiled(network, precision="bf16"), _checked_rows(model)
    answers = (compiled(np.asarray(model.loader.images[part]))[0] for part in cut(rows, model.batch))
    return _compared(model, torch.bfloat16, map(torch.from_numpy, answers))


def _checked_rows(model: TrainedModel) -> Rows:
    rng = np.random.default_rng([model.seed, *b"half"])
    return np.sort(rng.choice(model.rows, min(CHECKED, len(model.rows)), replace=False))


def _compared(model: TrainedModel, dtype: torch.dtype, answers: Iterator[Tensor]) -> HalfCheck:
    """Compare logits of the checked tiles, batch by batch, with those in float32."""
    rows = _checked_rows(model)
    scores, pixels = [], [np.empty(0)]
    for (full, _), half in zip(model.logits(rows), answers, strict=True):
        scores.append(np.stack([tumor_score(full), tumor_score(half)]))
        if model.spec.task == "segmenter":
            pixels.append((full.argmax(1) != half.argmax(1)).double().mean((1, 2)).cpu().numpy())
    first, second = np.concatenate(scores, 1)
    return HalfCheck.model_validate(
        {
            "dtype": type_name(dtype),
            "tiles": len(rows),
            "largest": float(np.abs(first - second).max()),
            "changed": float(((first >= 0.5) != (second >= 0.5)).mean()),
            "pixels": float(np.concatenate(pixels).mean()) if model.spec.task == "segmenter" else None,
        }
    )
