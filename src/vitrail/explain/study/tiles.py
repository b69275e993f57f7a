"""Every test tile through both networks, both methods in one pass, straight into the file of the maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from vitrail.classes import TissueClass
from vitrail.core.files import read_table, write_table
from vitrail.errors import ModelError
from vitrail.explain.study.store import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from vitrail.classes import Task
    from vitrail.core.progress import Step
    from vitrail.explain.saliency import Maps
    from vitrail.explain.study.networks import Network, Sources
    from vitrail.explain.study.store import SaliencyFile

    Images = NDArray[np.uint8]

BLOCK = 256
"""Tiles in one block: what a killed run loses at most. A multiple of the batch, so that batches are the same ever."""


def kinds_of(networks: Sequence[Network], image: Images) -> dict[str, Kind]:
    """Find the shape and the frame of all maps by explaining one tile, `[h, w, 3]`."""
    kinds = {}
    for network in networks:
        for maps in next(network.explainer.both(image[None], network.hrcam_head)):
            kinds[f"{network.task}_{maps.method}"] = _kind(maps)
    return kinds


def _kind(maps: Maps) -> Kind:
    _, height, width = maps.values.shape  # noqa: PD011 - no data frame
    return Kind(
        method=maps.method,
        layers=maps.layers,
        target=maps.target,
        frame=maps.frame,
        size=(height, width),
        signed=maps.signed,
    )


def blocks_of(sources: Sources) -> Path:
    """Return the folder of the marks of finished blocks."""
    return sources.unfinished / "blocks"


def explain_tiles(networks: Sequence[Network], sources: Sources, file: SaliencyFile) -> pd.DataFrame:
    """Explain all test tiles; blocks that an interrupted run has finished are not explained again.

    Returns
    -------
    One row a test tile: by task what the network said (see `vitrail.explain.study.store`), and as `<task>_hrcam` the
    logit of HR-CAM's dense layer.

    Raises
    ------
    ModelError
        A map is not finite, or the device's memory is too small.
    """
    rows, folder = sources.rows("test"), blocks_of(sources)
    folder.mkdir(exist_ok=True)
    parts = [slice(start, min(start + BLOCK, len(rows))) for start in range(0, len(rows), BLOCK)]
    paths = [folder / f"{part.start:09d}.parquet" for part in parts]
    with sources.progress.task("explain", len(rows) * len(networks)) as step:
        for part, path in zip(parts, paths, strict=True):
            if path.is_file():
                step((part.stop - part.start) * len(networks))
                continue
            images, maps = sources.tiles.images[rows[part]], {key: file.maps(key)[part] for key in file.kinds}
            told = [_explain(network, images, maps, step) for network in networks]
            file.flush()
            write_table(path, pd.concat(told, axis=1))
    return pd.concat([read_table(path) for path in paths], ignore_index=True)


def _explain(network: Network, images: Images, into: Mapping[str, NDArray[np.float32]], step: Step) -> pd.DataFrame:
    """Explain a block with one network and write its maps; returns what network and dense layer said."""
    told, at = [], 0
    for gradcam, hrcam in network.explainer.both(images, network.hrcam_head):
        part = slice(at, at + len(gradcam.values))
        for maps in (gradcam, hrcam):
            into[f"{network.task}_{maps.method}"][part] = _finite(maps, network.task)
        said = {network.task: _said(network.task, gradcam.output), f"{network.task}_hrcam": hrcam.output.cpu().numpy()}
        told.append(pd.DataFrame(said))
        at = part.stop
        step(part.stop - part.start)
    return pd.concat(told, ignore_index=True)


def _finite(maps: Maps, task: Task) -> NDArray[np.float32]:
    values: NDArray[np.float32] = maps.values.cpu().numpy()  # noqa: PD011 - no data frame
    if not np.isfinite(values).all():
        raise ModelError(
            task, f"its {maps.method} maps are not finite", f"Train it again, with {task}.learning_rate lower"
        )
    return values


def _said(task: Task, output: Tensor) -> NDArray[np.float64]:
    """Return the tumor probability of each tile, or its fraction of pixels called tumor, `[n]`."""
    if task == "classifier":
        return torch.sigmoid(output.cpu().double()).numpy()
    return np.asarray((output.argmax(1) == TissueClass.TUMOR).cpu().numpy().mean((1, 2)))
