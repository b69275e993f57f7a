"""The networks of a study made ready to be explained: layers chosen, and what methods need fitted on them."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vitrail.classes import LABELS, TissueClass
from vitrail.core.resume import Parts
from vitrail.errors import ModelError, SettingsError, TileError
from vitrail.explain.explainer import Explainer
from vitrail.explain.hooks import record_activations
from vitrail.explain.layers import find_layers
from vitrail.explain.methods.base import HeadTiles, methods_named
from vitrail.models.store import load_explained, model_digest
from vitrail.tiles.split import read_split
from vitrail.tiles.store import read_tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Generator, Tensor, nn

    from vitrail.classes import Task
    from vitrail.core.progress import Progress
    from vitrail.explain.layers import Layers
    from vitrail.explain.methods.base import ExplanationMethod, Head
    from vitrail.settings.load import Settings
    from vitrail.settings.schema import ExplainSettings
    from vitrail.stage import Run
    from vitrail.tiles.store import TileTable

    Rows = NDArray[np.int64]
    Augmentation = Callable[[Task, Generator], Callable[[Tensor], Tensor]]
    """Makes what changes the training tiles of a task."""

FEWEST = 10
"""Tiles of a class that heads learn from, at least, where none is as clear as wished."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sources:
    """What the explanations of a study are made from, and where.

    Attributes
    ----------
    run
        The run; its tiles, split and networks are finished.
    methods
        Those of `explain.methods`.
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
    methods: tuple[ExplanationMethod, ...]
    tiles: TileTable
    split: NDArray[np.str_]
    device: torch.device
    folder: Path
    unfinished: Path
    progress: Progress

    @classmethod
    def open(cls, run: Run, folder: Path, unfinished: Path, progress: Progress, device: str) -> Sources:
        """Read what a run holds; the device, of which the type is given, need not be there before it computes."""
        tiles = read_tiles(run.folder / "tiles")
        return cls(
            run=run,
            methods=methods_named(run.settings.explain.methods),
            tiles=tiles,
            split=read_split(run.folder / "split", tiles.rows),
            device=torch.device(device),
            folder=folder,
            unfinished=unfinished,
            progress=progress,
        )

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
        with few such tiles still gets its maps, and its report says from what heads have learnt.
        """
        rows, least = self.tiles.rows.iloc[self.rows("train")], self.settings.explain.min_share
        each = [np.sort(rows.loc[rows["label"] == label.key, label.key].to_numpy(np.float64))[::-1] for label in LABELS]
        if any(len(shares) and shares[0] < least for shares in each):
            return float(min(shares[:FEWEST][-1] for shares in each if len(shares)))
        return least

    def clear(self, part: str) -> Rows:
        """Return the tiles of which one label has at least `min_share` of all pixels."""
        rows, shares = self.rows(part), self.tiles.rows[[label.key for label in LABELS]].to_numpy()
        return np.asarray(rows[shares[rows].max(1) >= self.min_share])

    def tumor(self, rows: Rows) -> NDArray[np.bool_]:
        """Tell which tiles, of those that `clear` returns, are tumor, `[n]`."""
        return np.asarray(self.tiles.rows["label"].to_numpy()[rows] == TissueClass.TUMOR.key)

    def check(self) -> None:
        """Make sure that heads have something to learn from, and say where they have to make do.

        Raises
        ------
        TileError
            A label has no training tile.
        """
        titles = " and ".join(method.title for method in self.methods if method.needs_head)
        if not titles:
            return
        tumor = self.tumor(self.rows("train"))
        for label, count in zip(LABELS, (tumor.sum(), (~tumor).sum()), strict=True):
            if not count:
                cure = "Annotate such tissue on more slides, or split the patients differently"
                raise TileError("training tiles", f"none of them is {label.key}, and {titles} needs some", cure)
        share, least = self.min_share, self.settings.explain.min_share
        if share < least:
            problem = f"{titles} learns from tiles with {share:.0%} of a class: of one class none has {least:.0%}"
            self.progress.say(f"warning: {problem}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network:
    """A network ready to be explained.

    Attributes
    ----------
    task
        Which one.
    explainer
        It, on its device.
    methods
        Names of those that explain it.
    heads, fits
        By the method's name: what was fitted for it, and what the summary says of that.
    """

    task: Task
    explainer: Explainer
    methods: tuple[str, ...]
    heads: Mapping[str, Head]
    fits: Mapping[str, Mapping[str, Any]]

    def layers(self, image: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Describe the layers that heads look at; `size_px` is the side of their maps of an image `[h, w, 3]`."""
        layers = self.explainer.layers
        with record_activations(self.explainer.network, layers.names, lambda _, maps: maps.shape[2]) as sides:
            self.explainer.pool(image[None])
        parts = zip(layers.names, layers.strides, layers.channels, strict=True)
        return [
            {"name": name, "stride": stride, "channels": channels, "size_px": sides[name]}
            for name, stride, channels in parts
        ]


def fitted_network(task: Task, sources: Sources, augmentation: Augmentation | None) -> Network:
    """Load a network and fit on it what methods need, unless an interrupted run has done so.

    Parameters
    ----------
    task
        Which network.
    sources
        The files of heads go to `<folder>/<task>`.
    augmentation
        For `explain.training = "epochs"`; None leaves the tiles as they are.

    Returns
    -------
    Network
        Ready to be explained.

    Raises
    ------
    SettingsError
        The settings name a layer that cannot be used.
    ModelError
        The model cannot be read, its feature maps are not finite, or the device's memory is too small.
    """
    explainer, methods = _explainer(task, sources)
    settings, folder, fits = sources.settings, sources.folder / task, {}
    for method in methods:
        if not method.needs_head:
            continue

        def fit(method: ExplanationMethod = method) -> dict[str, Any]:
            rows = sources.clear("train")
            tiles = HeadTiles(
                task=task,
                network=explainer,
                images=sources.tiles.images,
                rows=rows,
                tumor=sources.tumor(rows),
                settings=settings,
                unfinished=sources.unfinished,
                augmenter=(lambda generator: augmentation(task, generator)) if augmentation else None,
                progress=sources.progress,
            )
            head, record = method.fit(tiles)
            _save(method, folder, replace(head, fitted_on=model_digest(sources.run.folder / task)))
            return record

        fits[method.name] = Parts(sources.unfinished).record(f"{task}-{method.name}", fit)
    return _with_heads(task, sources, explainer, methods, fits)


def loaded_network(task: Task, sources: Sources, fits: Mapping[str, Mapping[str, Any]]) -> Network:
    """Load a network and what was fitted on it.

    Parameters
    ----------
    task
        Which network.
    sources
        Where.
    fits
        What the summary says of what was fitted.

    Returns
    -------
    Network
        Ready to be explained.

    Raises
    ------
    SettingsError, ModelError
        As `fitted_network`.
    """
    return _with_heads(task, sources, *_explainer(task, sources), fits)


def _explainer(task: Task, sources: Sources) -> tuple[Explainer, list[ExplanationMethod]]:
    """Load a network, and return the methods that explain it."""
    model, settings = load_explained(sources.run.folder / task), sources.settings
    methods = [method for method in sources.methods if method.explains(model.module)]
    needs_layers = any(method.needs_head for method in methods)
    explainer = Explainer(
        model,
        sources.device,
        layers=chosen_layers(model.module, task, settings.explain) if needs_layers else None,
        engine=settings.compute.engine,
        stride=settings.explain.stride,
        margin_px=settings.explain.margin_px,
    )
    return explainer, methods


def _with_heads(
    task: Task,
    sources: Sources,
    explainer: Explainer,
    methods: list[ExplanationMethod],
    fits: Mapping[str, Mapping[str, Any]],
) -> Network:
    return Network(
        task=task,
        explainer=explainer,
        methods=tuple(method.name for method in methods),
        heads={method.name: method.load(sources.folder / task) for method in methods if method.needs_head},
        fits=fits,
    )


def _save(method: ExplanationMethod, folder: Path, head: Head) -> None:
    """Save a head, each file whole or absent: another process, which was taken for dead, may save the same."""
    own = folder.with_name(f".{folder.name}-{socket.gethostname()}-{os.getpid()}")
    method.save(own, head)
    folder.mkdir(exist_ok=True)
    for path in sorted(own.iterdir(), key=lambda path: (path.suffix == ".json", path.name)):  # descriptions last
        path.replace(folder / path.name)
    own.rmdir()


def chosen_layers(network: nn.Module, task: Task, settings: ExplainSettings) -> Layers:
    """Find the layers that the settings name, or the default ones where they name none.

    Parameters
    ----------
    network
        The network.
    task
        Which one it is.
    settings
        The branch `explain`.

    Returns
    -------
    Layers
        Finest first.

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
        there = [name for name, _ in network.named_modules()]
        wrong = next((name for name in names if name not in there), None)
        near = get_close_matches(wrong, there, n=3) if wrong else []
        cure = f"Did you mean {', '.join(near)}?" if near else 'Name layers such as "encoder.blocks.2", or none'
        raise SettingsError(where, f"{error.where} {error.problem}", cure) from None
