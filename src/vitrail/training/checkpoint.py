"""Checkpoints: a killed training goes on where its last finished epoch ended, with the same numbers to the last bit."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from vitrail.models.store import save_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn


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


def best_epoch(history: list[EpochScores]) -> int:
    """Return the number, from 1, of the epoch with the lowest validation loss; of equal ones the first."""
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
    """

    module: nn.Module
    optimizer: torch.optim.Adam
    scaler: torch.amp.GradScaler

    def tensors(self) -> dict[str, Tensor]:
        """Return the network's weights and Adam's moments and step counts by name."""
        tensors = {f"model/{key}": value for key, value in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"adam/{name}/{key}"] = value
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        weights: dict[str, Tensor] = {}
        moments: dict[str, dict[str, Tensor]] = {}
        for path, value in tensors.items():
            kind, _, name = path.partition("/")
            if kind == "model":
                weights[name] = value
            elif kind == "adam":
                parameter_name, _, key = name.rpartition("/")
                moments.setdefault(parameter_name, {})[key] = value
        self.module.load_state_dict(weights)
        state: dict[int, dict[str, Tensor]] = {}
        for number, (name, parameter) in enumerate(self.module.named_parameters()):
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
    """

    folder: Path
    fingerprint: str

    @property
    def path(self) -> Path:
        """The file of weights, moments and history."""
        return self.folder / "checkpoint.safetensors"

    def best_path(self, history: list[EpochScores]) -> Path:
        """Return the file of the best weights."""
        return self.folder / f"best-{best_epoch(history)}.safetensors"

    def save(self, state: TrainState, history: list[EpochScores]) -> None:
        """Keep the state behind the last epoch of `history`."""
        best = self.best_path(history)
        if best_epoch(history) == len(history):
            save_tensors(best, state.module.state_dict())
        metadata = {
            "fingerprint": self.fingerprint,
            "history": [asdict(epoch) for epoch in history],
            "scaler": state.scaler.state_dict(),
        }
        save_tensors(self.path, state.tensors(), {"state": json.dumps(metadata)})
        for old in set(self.folder.glob("best-*.safetensors*")) - {best}:
            old.unlink()

    def resume(self, state: TrainState) -> list[EpochScores]:
        """Put back the saved state, if there is one of this very training.

        Parameters
        ----------
        state
            Changed in place.

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
        if metadata["fingerprint"] != self.fingerprint:
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
