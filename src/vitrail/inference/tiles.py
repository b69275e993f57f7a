"""Both networks on every tile of a study.

Columns added to the rows of the tile table: `classifier`, the probability of tumor, calibrated where the predictor is;
`classifier_logit`, the logit that it comes from, as the network gives it; `segmenter`, the fraction of
predicted tumor pixels, which the paper takes for the segmenter's tumor probability; and `pixels`, the tile's own
confusion matrix of 16 pixel counts, truth in rows.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vitrail.classes import CLASSES
from vitrail.core.resume import Parts
from vitrail.metrics.scores import confusion
from vitrail.models.batches import tumor_score

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.core.progress import Progress
    from vitrail.inference.predictor import Predictor
    from vitrail.tiles.store import TileTable

BLOCK = 512
"""Tiles in one block: what a killed run loses at most."""


def predict_tiles(
    tiles: TileTable, classifier: Predictor, segmenter: Predictor, blocks: Path, progress: Progress
) -> pd.DataFrame:
    """Apply the classifier and the segmenter to every tile.

    Parameters
    ----------
    tiles
        The tile table.
    classifier, segmenter
        The networks.
    blocks
        A folder for finished blocks; those that are there already are not predicted again.
    progress
        Told after every block.

    Returns
    -------
    pd.DataFrame
        The table's rows with `classifier`, `classifier_logit`, `segmenter` and `pixels`.
    """
    parts, tables = Parts(blocks), []
    with progress.task("predict", len(tiles)) as step:
        for start in range(0, len(tiles), BLOCK):
            images, masks = (values[start : start + BLOCK] for values in (tiles.images, tiles.masks))
            predict = partial(predict_block, images, masks, classifier, segmenter)
            tables.append(parts.table(f"{start:09d}", predict))
            step(len(images))
    return pd.concat([tiles.rows.reset_index(drop=True), pd.concat(tables, ignore_index=True)], axis=1)


def predict_block(
    images: NDArray[np.uint8], masks: NDArray[np.uint8], classifier: Predictor, segmenter: Predictor
) -> pd.DataFrame:
    """Apply both networks to some tiles.

    Parameters
    ----------
    images
        `[n, h, w, 3]`, RGB.
    masks
        `[n, h, w]`, values of `TissueClass`.
    classifier, segmenter
        The networks.

    Returns
    -------
    pd.DataFrame
        A row a tile: the columns that this module adds to the tile table.
    """
    shares: list[NDArray[np.float64]] = []
    confusions: list[NDArray[np.int64]] = []
    for logits in segmenter.outputs(images):
        shares.append(tumor_score(logits))
        for predicted in logits.argmax(1).byte().cpu().numpy():
            confusions.append(confusion(masks[len(confusions)].ravel(), predicted.ravel(), len(CLASSES)).ravel())
    logits_of_tumor = classifier.tumor_logits(images)
    return pd.DataFrame(
        {
            "classifier": classifier.probability(logits_of_tumor),
            "classifier_logit": logits_of_tumor,
            "segmenter": np.concatenate(shares),
            "pixels": confusions,
        }
    )
