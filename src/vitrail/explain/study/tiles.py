"""Test tiles through both networks, methods sharing passes."""

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
    from vitrail.explain.study.networks import Network

    Images = NDArray[np.uint8]


def kinds_of(network: Network, image: Images) -> dict[str, Kind]:
    """Find the shape and the frame of a network's maps by explaining one tile.

    Parameters
    ----------
    network
        The network.
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
        for maps in next(network.explainer.maps(image[None], network.methods, network.heads))
    }


def explain_tiles(
    networks: Sequence[Network], images: Images, into: Mapping[str, NDArray[np.float32]], step: Step
) -> pd.DataFrame:
    """Explain tiles.

    Parameters
    ----------
    networks
        The networks.
    images
        `[n, h, w, 3]`.
    into
        By kind of maps an array for them, `[n, ...]`.
    step
        Told after every batch of each network.

    Returns
    -------
    pd.DataFrame
        One row a tile: by task the network's tumor score, see `vitrail.explain.study.store`, and as
        `<task>_<method>` the logit of the method's head.

    Raises
    ------
    ModelError
        A map is not finite, or the device's memory is too small.
    """
    return pd.concat([_explain(network, images, into, step) for network in networks], axis=1)


def _explain(network: Network, images: Images, into: Mapping[str, NDArray[np.float32]], step: Step) -> pd.DataFrame:
    """Explain tiles with one network and put its maps into arrays; returns the scores of network and heads."""
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
