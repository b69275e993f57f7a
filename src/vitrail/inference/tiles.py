"""Both networks on every tile of a study.

Columns added to the rows of the tile table: `classifier`, the probability of tumor, calibrated where the engine is;
`classifier_logit`, the logit that it comes from, as the network gives it; `segmenter`, the fraction of
predicted tumor pixels, which the paper takes for the segmenter's tumor probability; and `pixels`, the tile's own
confusion matrix of 16 pixel counts, truth in rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from vitrail.classes import CLASSES, TissueClass
from vitrail.core.files import read_table, write_table
from vitrail.metrics.scores import confusion

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from vitrail.core.progress import Progress
    from vitrail.inference.predictor import Predictor
    from vitrail.tiles.store import TileTable

BLOCK = 512
"""Tiles in one block: what a killed run loses at most."""


def predict_tiles(
    tiles: TileTable, engines: tuple[Predictor, Predictor], blocks: Path, progress: Progress
) -> pd.DataFrame:
    """Apply the classifier and the segmenter to every tile.

    Parameters
    ----------
    tiles
        The tile table.
    engines
        The classifier and the segmenter.
    blocks
        A folder for finished blocks; those that are there already are not predicted again.
    progress
        Told after every block.

    Returns
    -------
    The table's rows with `classifier`, `classifier_logit`, `segmenter` and `pixels`.
    """
    blocks.mkdir(exist_ok=True)
    starts = range(0, len(tiles), BLOCK)
    with progress.task("predict", len(tiles)) as step:
        for start in starts:
            path = blocks / f"{start:09d}.parquet"
            stop = min(start + BLOCK, len(tiles))
            if not path.is_file():
                write_table(path, _predict_block(tiles.images[start:stop], tiles.masks[start:stop], engines))
            step(stop - start)
    predictions = pd.concat([read_table(blocks / f"{start:09d}.parquet") for start in starts], ignore_index=True)
    return pd.concat([tiles.rows.reset_index(drop=True), predictions], axis=1)


def pixel_confusion(truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count pixels by true and predicted class.

    Parameters
    ----------
    truth, predicted
        `[h, w]` of `TissueClass`.

    Returns
    -------
    `[4, 4]`, truth in rows.
    """
    return confusion(truth.ravel(), predicted.ravel(), len(CLASSES))


def _predict_block(
    images: NDArray[np.uint8], masks: NDArray[np.uint8], engines: tuple[Predictor, Predictor]
) -> pd.DataFrame:
    classifier, segmenter = engines
    classes, logits = segmenter.pixel_classes(images), classifier.tumor_logits(images)
    return pd.DataFrame(
        {
            "classifier": classifier.probability(logits),
            "classifier_logit": logits,
            "segmenter": (classes == TissueClass.TUMOR).mean(axis=(1, 2)),
            "pixels": [pixel_confusion(t, p).ravel() for t, p in zip(masks, classes, strict=True)],
        }
    )
