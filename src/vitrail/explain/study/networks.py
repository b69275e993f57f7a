"""The networks of a study made ready to be explained: HR-CAM's layers chosen, its dense layer trained."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vitrail.classes import LABELS, TissueClass
from vitrail.core.files import read_json, write_array, write_text
from vitrail.errors import ModelError, SettingsError, TileError
from vitrail.explain.explainer import Explainer
from vitrail.explain.hooks import record_activations
from vitrail.explain.layers import find_layers
from vitrail.explain.methods.hrcam import fit, load_head, save_auxiliary
from vitrail.explain.methods.hrcam_training import Course, Examples, retrain
from vitrail.models.store import load_model, model_digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Generator, nn

    from vitrail.classes import Task
    from vitrail.core.progress import Progress
    from vitrail.explain.layers import Layers
    from vitrail.explain.methods.hrcam import HRCamHead
    from vitrail.explain.methods.hrcam_training import Augment
    from vitrail.settings.load import Settings
    from vitrail.settings.schema import ExplainSettings
    from vitrail.stage import Run
    from vitrail.tiles.store import TileTable

    Rows = NDArray[np.int64]
    Augmentation = Callable[[Task, Generator], Augment]
    """Makes what changes the training tiles of a task."""

FEWEST = 10
"""Tiles of a class that HR-CAM learns from, at least, where none is as clear as wished."""

BLOCK = 512
"""Tiles that are pooled in one go: what a killed run loses at most."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sources:
    """What the explanations of a study are made from, and where.

    Attributes
    ----------
    run
        The run; its tiles, split and networks are finished.
    tiles, split
        The tile table, and the split of each of its rows.
    device
        Where to compute.
    folder, unfinished
        Where to write results, and what is needed only until they are whole.
    progress
        To be told how far the work is.
    """

    run: Run
    tiles: TileTable
    split: NDArray[np.str_]
    device: torch.device
    folder: Path
    unfinished: Path
    progress: Progress

    @property
    def settings(self) -> Settings:
        """The study's settings."""
        return self.run.settings

    def rows(self, part: str) -> Rows:
        """Return the numbers of the rows of one part of the split."""
        return np.flatnonzero(self.split == part)

    @property
    def min_share(self) -> float:
        """The share of pixels from which a tile is clear: `explain.min_share`.

        Or less, where a label would have no clear training tile: then as much as its clearest tiles have. A study
        with few such tiles still gets its maps, and its report says from what HR-CAM has learnt.
        """
        rows, wanted = self.tiles.rows.iloc[self.rows("train")], self.settings.explain.min_share
        each = [np.sort(rows.loc[rows["label"] == label.key, label.key].to_numpy(np.float64))[::-1] for label in LABELS]
        if any(len(shares) and shares[0] < wanted for shares in each):
            return float(min(shares[:FEWEST][-1] for shares in each if len(shares)))
        return wanted

    def clear(self, part: str) -> Rows:
        """Return the tiles of which one label has at least `min_share` of all pixels."""
        rows, shares = self.rows(part), self.tiles.rows[[label.key for label in LABELS]].to_numpy()
        return np.asarray(rows[shares[rows].max(1) >= self.min_share])

    def tumor(self, rows: Rows) -> NDArray[np.bool_]:
        """Tell which tiles, of those that `clear` returns, are tumor, `[n]`."""
        return np.asarray(self.tiles.rows["label"].to_numpy()[rows] == TissueClass.TUMOR.key)

    def check(self) -> None:
        """Make sure that HR-CAM has something to learn from, and say where it has to make do.

        Raises
        ------
        TileError
            A label has no training tile.
        """
        tumor = self.tumor(self.rows("train"))
        for label, count in zip(LABELS, (tumor.sum(), (~tumor).sum()), strict=True):
            if not count:
                cure = "Annotate such tissue on more slides, or split the patients differently"
                raise TileError("training tiles", f"none of them is {label.key}, and HR-CAM needs some", cure)
        share, wanted = self.min_share, self.settings.explain.min_share
        if share < wanted:
            said = f"HR-CAM learns from tiles with {share:.0%} of a class: of one class none has {wanted:.0%}"
            self.progress.say(f"warning: {said}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network:
    """A network ready to be explained.

    Attributes
    ----------
    task
        Which one.
    explainer
        It, on its device.
    auxiliary
        HR-CAM's dense layer.
    train_accuracy, train_tiles
        The layer's accuracy on the tiles that it was trained on, and how many these are.
    """

    task: Task
    explainer: Explainer
    hrcam_head: HRCamHead
    train_accuracy: float
    train_tiles: int

    def layers(self, image: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Describe HR-CAM's layers; `size_px` is the side of their maps of an image like this one, `[h, w, 3]`."""
        layers = self.explainer.layers
        with record_activations(self.explainer.network, layers.names, lambda _, maps: maps.shape[2]) as sides:
            self.explainer.pool(image[None])
        parts = zip(layers.names, layers.strides, layers.channels, strict=True)
        return [
            {"name": name, "stride": stride, "channels": channels, "size_px": sides[name]}
            for name, stride, channels in parts
        ]


def fitted_network(task: Task, sources: Sources, augmentation: Augmentation | None) -> Network:
    """Load a network and train HR-CAM's dense layer on it, unless an interrupted run has done so.

    Parameters
    ----------
    task
        Which network.
    sources
        The layer's files go to `<folder>/<task>`.
    augmentation
        For `explain.training = "epochs"`; None leaves the tiles as they are.

    Raises
    ------
    SettingsError
        The settings name a layer that cannot be used.
    ModelError
        The model cannot be read, its feature maps are not finite, or the device's memory is too small.
    """
    model = load_model(sources.run.folder / task)
    layers = chosen_layers(model.module, task, sources.settings.explain)
    engine = sources.settings.compute.engine
    explainer, folder = Explainer(model, sources.device, layers=layers, engine=engine), sources.folder / task
    record = sources.unfinished / f"{task}.json"
    if not record.is_file():
        hrcam_head, examples = _trained(explainer, task, sources, augmentation)
        save_auxiliary(folder, replace(hrcam_head, fitted_on=model_digest(sources.run.folder / task)))
        accuracy = hrcam_head.accuracy(examples.pooled, examples.tumor)
        write_text(record, json.dumps({"train_accuracy": accuracy, "train_tiles": len(examples.rows)}))
    return Network(task=task, explainer=explainer, hrcam_head=load_head(folder), **read_json(record))


def chosen_layers(network: nn.Module, task: Task, settings: ExplainSettings) -> Layers:
    """Find the layers that the settings name, or the default ones where they name none.

    Raises
    ------
    SettingsError
        The network has no layer of a name, or it gives no feature maps.
    ModelError
        None is named, and the encoder does not say where its stages end.
    """
    names = settings.classifier_layers if task == "classifier" else settings.segmenter_layers
    where = f"explain.{task}_layers"
    if not names:
        return find_layers(network)
    if len(set(names)) < len(names):
        raise SettingsError(where, "a layer is named twice", "Name each once")
    try:
        return find_layers(network, names)
    except ModelError as error:
        raise SettingsError(where, f"{error.where} {error.problem}", _cure(network, names)) from None


def _cure(network: nn.Module, names: tuple[str, ...]) -> str:
    known = [name for name, _ in network.named_modules()]
    wrong = next((name for name in names if name not in known), None)
    near = get_close_matches(wrong, known, n=3) if wrong else []
    return f"Did you mean {', '.join(near)}?" if near else 'Name layers such as "encoder.blocks.2", or none'


def _trained(
    explainer: Explainer, task: Task, sources: Sources, augmentation: Augmentation | None
) -> tuple[HRCamHead, Examples]:
    examples, settings = _examples(explainer, task, sources), sources.settings
    if settings.explain.training == "exact":
        return fit(explainer.layers, examples.pooled, examples.tumor, settings.explain.l2), examples
    course, checkpoint = _course(task, settings, augmentation), sources.unfinished / f"{task}-epochs.safetensors"
    return retrain(explainer, examples, course, checkpoint=checkpoint, progress=sources.progress), examples


def _examples(explainer: Explainer, task: Task, sources: Sources) -> Examples:
    """Pool the clear training tiles, in blocks that stay on disk."""
    rows, images = sources.clear("train"), sources.tiles.images
    starts, folder = range(0, len(rows), BLOCK), sources.unfinished / "pooled"
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{task}-{start:09d}.npy" for start in starts]
    with sources.progress.task("pool", len(rows)) as step:
        for start, path in zip(starts, paths, strict=True):
            part = rows[start : start + BLOCK]
            if not path.is_file():
                write_array(path, explainer.pool(images[part]).numpy())
            step(len(part), task)
    pooled = torch.cat([torch.from_numpy(np.load(path)) for path in paths])
    return Examples(images=images, rows=rows, tumor=sources.tumor(rows), pooled=pooled)


def _course(task: Task, settings: Settings, augmentation: Augmentation | None) -> Course:
    explain, own = settings.explain, settings.classifier if task == "classifier" else settings.segmenter
    return Course(
        epochs=explain.epochs,
        learning_rate=explain.learning_rate,
        batch=own.batch,
        l2=explain.l2,
        seed=(settings.seed, *task.encode()),
        augmenter=(lambda generator: augmentation(task, generator)) if augmentation else None,
    )
