"""Checkpoints: a killed training goes on where its last finished epoch ended, with the same numbers to the last bit."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from vitrail.models.store import save_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from vitrail.models.classifier import Classifier
    from vitrail.models.segmenter import Segmenter


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochScores:
    """The figures of one epoch.

    Attributes
    ----------
    train_loss, validation_loss
        Means over the tiles.
    score
        The task's validation score.
    """

    train_loss: float
    validation_loss: float
    score: float


def kept_epoch(history: list[EpochScores], keep: Literal["best", "last"] = "best") -> int:
    """Return the number, from 1, of the epoch whose weights are kept.

    Parameters
    ----------
    history
        Of all epochs so far.
    keep
        The last, or the best: that with the lowest validation loss, of equal ones the first.

    Returns
    -------
    int
        Its number.
    """
    if keep == "last":
        return len(history)
    losses = [epoch.validation_loss for epoch in history]
    return losses.index(min(losses)) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainState:
    """The parts of a training that change from step to step.

    Attributes
    ----------
    module
        The network.
    optimizer
        Its Adam.
    scaler
        Its scaler of float16 losses, idle for other types.
    average
        The same network with the moving average of its weights; None where there is none.
    """

    module: Classifier | Segmenter
    optimizer: torch.optim.Adam
    scaler: torch.amp.GradScaler
    average: Classifier | Segmenter | None = None

    @property
    def judged(self) -> Classifier | Segmenter:
        """What is validated and kept: the average where there is one."""
        return self.average or self.module

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Let the average follow the weights, and the statistics of normalisation layers with them."""
        if self.average is None:
            return
        for mean, value in zip(self.average.state_dict().values(), self.module.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """Return the network's weights, their average, and Adam's moments and step counts by name."""
        tensors = {f"model/{key}": value for key, value in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"adam/{name}/{key}"] = value
        if self.average is not None:
            tensors |= {f"average/{key}": value for key, value in self.average.state_dict().items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        weights: dict[str, Tensor] = {}
        average: dict[str, Tensor] = {}
        moments: dict[str, dict[str, Tensor]] = {}
        for path, value in tensors.items():
            kind, _, name = path.partition("/")
            if kind == "model":
                weights[name] = value
            elif kind == "average":
                average[name] = value
            elif kind == "adam":
                parameter_name, _, key = name.rpartition("/")
                moments.setdefault(parameter_name, {})[key] = value
        self.module.load_state_dict(weights)
        if self.average is not None:
            self.average.load_state_dict(average)
        groups = self.optimizer.param_groups
        numbers = {id(parameter): number for number, parameter in enumerate(p for g in groups for p in g["params"])}
        state: dict[int, dict[str, Tensor]] = {}
        for name, parameter in self.module.named_parameters():
            number = numbers.get(id(parameter), -1)  # frozen weights have no moments
            for key, value in moments.get(name, {}).items():
                # the fused Adam takes for granted that moments lie in memory as their parameter does
                like = parameter if value.shape == parameter.shape else value
                own = torch.empty_like(like, requires_grad=False, dtype=value.dtype).copy_(value)
                state.setdefault(number, {})[key] = own
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The files of an unfinished training: `checkpoint.safetensors` and `best-<epoch>.safetensors`.

    The checkpoint names the epoch of its best weights, so that a kill between the two files leaves a pair that fits.

    Attributes
    ----------
    folder
        The model folder.
    fingerprint
        Of everything that the training follows from, device and precision among it; a checkpoint of another one is not
        taken up.
    keep
        Which epoch's weights are kept, see `kept_epoch`.
    """

    folder: Path
    fingerprint: str
    keep: Literal["best", "last"] = "best"

    @property
    def path(self) -> Path:
        """The file of weights, moments and history."""
        return self.folder / "checkpoint.safetensors"

    def best_path(self, history: list[EpochScores]) -> Path:
        """Return the file of the weights that are kept."""
        return self.folder / f"best-{kept_epoch(history, self.keep)}.safetensors"

    def save(self, state: TrainState, history: list[EpochScores], ranks: int = 1) -> None:
        """Keep the state behind the last epoch of `history`, to which so many processes have come."""
        best = self.best_path(history)
        if kept_epoch(history, self.keep) == len(history):
            save_tensors(best, state.judged.state_dict())
        metadata: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "history": [asdict(epoch) for epoch in history],
            "scaler": state.scaler.state_dict(),
        }
        if ranks > 1:
            metadata["ranks"] = ranks
        save_tensors(self.path, state.tensors(), {"state": json.dumps(metadata)})
        for old in set(self.folder.glob("best-*.safetensors*")) - {best}:
            old.unlink()

    def resume(self, state: TrainState, ranks: int = 1) -> list[EpochScores]:
        """Put back the saved state, if there is one of this very training.

        Parameters
        ----------
        state
            Changed in place.
        ranks
            How many processes share the training: sums over another number are rounded differently, so that a
            checkpoint of that is not taken up.

        Returns
        -------
        list[EpochScores]
            Of the finished epochs; empty where the training begins anew.
        """
        try:
            with safe_open(self.path, "pt") as file:
                metadata: dict[str, Any] = json.loads(file.metadata()["state"])
        except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
            return []  # there is none, or none of ours
        if metadata["fingerprint"] != self.fingerprint or metadata.get("ranks", 1) != ranks:
            return []
        history = [EpochScores(**epoch) for epoch in metadata["history"]]
        if not self.best_path(history).is_file():
            return []
        state.restore(load_file(self.path))
        state.scaler.load_state_dict(metadata["scaler"])
        return history

    def remove(self) -> None:
        """Remove the files; only once the model is whole, for without either of them a training is lost."""
        for path in (*self.folder.glob("best-*.safetensors*"), *self.folder.glob("checkpoint.safetensors*")):
            path.unlink()
