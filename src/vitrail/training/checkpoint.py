"""What lets a killed training go on where its last finished epoch ended, with the same numbers to the last bit."""

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
        found = {f"model/{key}": value for key, value in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                found[f"adam/{name}/{key}"] = value
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        groups: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            groups.setdefault(kind, {})[name] = value
        self.module.load_state_dict(groups["model"])
        self._restore_adam(groups.get("adam", {}))

    def _restore_adam(self, moments: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for number, (name, parameter) in enumerate(self.module.named_parameters()):
            own = {key.rpartition("/")[2]: value for key, value in moments.items() if key.rpartition("/")[0] == name}
            if own:
                state[number] = {key: _laid_out_as(parameter, value) for key, value in own.items()}
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """Copy a moment into its parameter's order in memory, which the fused Adam takes for granted."""
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, requires_grad=False, dtype=value.dtype).copy_(value)


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

    def save(self, trainee: TrainState, history: list[EpochScores]) -> None:
        """Keep the state behind the last epoch of `history`."""
        best = self.best_path(history)
        if best_epoch(history) == len(history):
            save_tensors(best, trainee.module.state_dict())
        state = {
            "fingerprint": self.fingerprint,
            "history": [asdict(epoch) for epoch in history],
            "scaler": trainee.scaler.state_dict(),
        }
        save_tensors(self.path, trainee.tensors(), {"state": json.dumps(state)})
        for old in set(self.folder.glob("best-*.safetensors*")) - {best}:
            old.unlink()

    def resume(self, trainee: TrainState) -> list[EpochScores]:
        """Put the trainee back into the state kept, if there is one of this very training, and return its history."""
        state = self._read_state()
        if state is None or state["fingerprint"] != self.fingerprint:
            return []
        history = [EpochScores(**epoch) for epoch in state["history"]]
        if not self.best_path(history).is_file():
            return []
        trainee.restore(load_file(self.path))
        trainee.scaler.load_state_dict(state["scaler"])
        return history

    def _read_state(self) -> dict[str, Any] | None:
        try:
            with safe_open(self.path, "pt") as file:
                state: dict[str, Any] = json.loads(file.metadata()["state"])
        except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
            return None  # there is none, or none of ours: the training begins anew
        return state

    def remove(self) -> None:
        """Remove the files; only once the model is whole, for without either of them a training is lost."""
        for path in (*self.folder.glob("best-*.safetensors*"), *self.folder.glob("checkpoint.safetensors*")):
            path.unlink()
