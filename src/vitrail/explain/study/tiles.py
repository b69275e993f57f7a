"""Every test tile through both networks, methods sharing passes, straight into the file of the maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from vitrail.errors import ModelError
from vitrail.explain.study.store import Kind
from vitrail.models.batches import tumor_score

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from vitrail.core.progress import Step
    from vitrail.core.resume import Parts
    from vitrail.explain.study.networks import Network, Sources
    from vitrail.explain.study.store import SaliencyFile

    Images = NDArray[np.uint8]

BLOCK = 256
"""Tiles in one block: what a killed run loses at most. A multiple of the batch, so that batches are the same ever."""


def kinds_of(networks: Sequence[Network], image: Images) -> dict[str, Kind]:
    """Find the shape and the frame of all maps by explaining one tile.

    Parameters
    ----------
    networks
        The networks.
    image
        `[h, w, 3]`.

    Returns
    -------
    dict[str, Kind]
        By key, `<network>_<method>`.
    """
    return {
        f"{network.task}_{maps.method}": Kind(
            method=maps.method,
            layers=maps.layers,
            target=maps.target,
            frame=maps.frame,
            size=(maps.values.shape[1], maps.values.shape[2]),  # noqa: PD011 - no data frame
            signed=maps.signed,
        )
        for network in networks
        for maps in next(network.explainer.maps(image[None], network.methods, network.heads))
    }


def explain_tiles(networks: Sequence[Network], sources: Sources, file: SaliencyFile, blocks: Parts) -> pd.DataFrame:
    """Explain all test tiles; blocks that an interrupted run has finished are not explained again.

    Parameters
    ----------
    networks
        The networks.
    sources
        Whose test tiles are explained.
    file
        Where the maps go.
    blocks
        What is not maps, block by block.

    Returns
    -------
    pd.DataFrame
        One row a test tile: by task the network's tumor score, see `vitrail.explain.study.store`, and as
        `<task>_<method>` the logit of the method's head.

    Raises
    ------
    ModelError
        A map is not finite, or the device's memory is too small.
    """
    rows, tables = sources.rows("test"), []
    parts = [slice(start, min(start + BLOCK, len(rows))) for start in range(0, len(rows), BLOCK)]
    done = sum(p.stop - p.start for p in parts if (blocks.folder / f"{p.start:09d}.parquet").is_file())
    with sources.progress.task("explain", len(rows) * len(networks), done * len(networks)) as step:
        for part in parts:

            def explain(part: slice = part) -> pd.DataFrame:
                images, maps = sources.tiles.images[rows[part]], {key: file.maps(key)[part] for key in file.kinds}
                scores = [_explain_block(network, images, maps, step) for network in networks]
                file.flush()  # before the block counts as finished
                return pd.concat(scores, axis=1)

            tables.append(blocks.table(f"{part.start:09d}", explain))
    return pd.concat(tables, ignore_index=True)


def _explain_block(
    network: Network, images: Images, into: Mapping[str, NDArray[np.float32]], step: Step
) -> pd.DataFrame:
    """Explain a block with one network and write its maps; returns the scores of network and heads."""
    tables, start = [], 0
    for batch in network.explainer.maps(images, network.methods, network.heads):
        part = slice(start, start + len(batch[0].values))
        outputs = [maps.output for maps in batch if maps.output is not None]
        # where no method has run the network to its end
        output = outputs[0] if outputs else torch.cat(list(network.explainer.outputs(images[part])))
        scores: dict[str, NDArray[np.floating]] = {network.task: tumor_score(output)}
        for maps in batch:
            values = maps.values.cpu().numpy()  # noqa: PD011 - no data frame
            if not np.isfinite(values).all():
                cure = f"Train it again, with {network.task}.learning_rate lower"
                raise ModelError(network.task, f"its {maps.method} maps are not finite", cure)
            into[f"{network.task}_{maps.method}"][part] = values
            if maps.head_logits is not None:
                scores[f"{network.task}_{maps.method}"] = maps.head_logits.cpu().numpy()
        tables.append(pd.DataFrame(scores))
        start = part.stop
        step(part.stop - part.start)
    return pd.concat(tables, ignore_index=True)
