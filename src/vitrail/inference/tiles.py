"""Both networks on every tile of a study.

Columns added to the rows of the tile table: `classifier`, the probability of tumor, calibrated where the predictor is;
`classifier_logit`, the logit that it comes from, as the network gives it; `segmenter`, the fraction of
predicted tumor pixels, which the paper takes for the segmenter's tumor probability; and `pixels`, the tile's own
confusion matrix of 16 pixel counts, truth in rows.

And how sure that is: `classifier_spread`, the standard deviation of the probability over members of an ensemble and
symmetries, and `segmenter_spread`, the mean over the pixels of theirs, NaN where a network looks but once; and
`confidence`, 40 counts: of pixels by the probability of the class that they are called, in `CONFIDENCE_BINS` bins of
equal width from 0 to 1, then of those among them that are called rightly.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from vitrail.classes import CLASSES, TASKS
from vitrail.core.resume import Parts
from vitrail.metrics.scores import confusion
from vitrail.models.batches import tumor_score

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from vitrail.classes import Task
    from vitrail.core.progress import Progress
    from vitrail.inference.predictor import Predictor
    from vitrail.tiles.store import TileTable

BLOCK = 512
"""Tiles in one block: what a killed run loses at most."""

CONFIDENCE_BINS = 20


def predict_tiles(
    tiles: TileTable,
    predictors: Mapping[Task, Predictor],
    unseen_by: Mapping[Task, NDArray[np.int64]],
    blocks: Path,
    progress: Progress,
) -> pd.DataFrame:
    """Apply the classifier and the segmenter to every tile.

    Parameters
    ----------
    tiles
        The tile table.
    predictors
        The networks.
    unseen_by
        For each tile the member of an ensemble that was not trained on its patient and is asked alone, `[n]`; -1 where
        the whole network is asked.
    blocks
        A folder for finished blocks; those that are there already are not predicted again.
    progress
        Told after every block.

    Returns
    -------
    pd.DataFrame
        The table's rows with the columns above.
    """
    parts, tables = Parts(blocks), []
    by_member = {
        (task, number): predictors[task] if number < 0 else predictors[task].member(number)
        for task in predictors
        for number in np.unique(unseen_by[task]).tolist()
    }
    with progress.task("predict", len(tiles)) as step:
        for start in range(0, len(tiles), BLOCK):
            rows = slice(start, start + BLOCK)
            images, masks = (values[rows] for values in (tiles.images, tiles.masks))
            members = {task: unseen_by[task][rows] for task in unseen_by}
            predict = partial(_predict_block, images, masks, by_member, members)
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
        A row a tile: the columns that this module adds to the tile table, but for `out_of_fold`.
    """
    return pd.concat([_classified(images, masks, classifier), _segmented(images, masks, segmenter)], axis=1)


def _predict_block(
    images: NDArray[np.uint8],
    masks: NDArray[np.uint8],
    by_member: Mapping[tuple[Task, int], Predictor],
    members: Mapping[Task, NDArray[np.int64]],
) -> pd.DataFrame:
    """Predict some tiles, each by the member that it is for."""
    blocks = []
    for task, predict in zip(TASKS, (_classified, _segmented), strict=True):
        tables = []
        for number in np.unique(members[task]).tolist():
            own = np.flatnonzero(members[task] == number)
            tables.append(predict(images[own], masks[own], by_member[task, number]).set_index(own))
        blocks.append(pd.concat(tables).sort_index())
    return pd.concat(blocks, axis=1)


def _classified(images: NDArray[np.uint8], _masks: NDArray[np.uint8], classifier: Predictor) -> pd.DataFrame:
    answers = list(classifier.answers(images))
    logits = torch.cat([each.logits for each in answers]).cpu().double().numpy()
    spread = torch.cat([each.spread for each in answers]).cpu().double().numpy()
    return pd.DataFrame(
        {"classifier": classifier.probability(logits), "classifier_logit": logits, "classifier_spread": spread}
    )


def _segmented(images: NDArray[np.uint8], masks: NDArray[np.uint8], segmenter: Predictor) -> pd.DataFrame:
    columns: dict[str, list[object]] = {"segmenter": [], "pixels": [], "segmenter_spread": [], "confidence": []}
    for answers in segmenter.answers(images):
        columns["segmenter"] += tumor_score(answers.logits).tolist()
        columns["segmenter_spread"] += answers.spread.double().mean((1, 2)).cpu().tolist()
        for truth, called, sure in _called(masks[len(columns["pixels"]) :], answers.probabilities, answers.logits):
            columns["pixels"].append(confusion(truth, called, len(CLASSES)).ravel())
            columns["confidence"].append(confidence(sure, called == truth))
    return pd.DataFrame(columns)


def _called(
    masks: NDArray[np.uint8], probabilities: Tensor, logits: Tensor
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]]:
    """Yield for each tile its pixels' true classes, those that they are called, and how probable these are."""
    called, sure = logits.argmax(1).byte().cpu().numpy(), probabilities.amax(1).cpu().numpy()
    for truth, own, probability in zip(masks, called, sure, strict=False):
        yield truth.ravel(), own.ravel(), probability.ravel()


def confidence(probability: NDArray[np.floating], right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count pixels by how probable the class is that they are called.

    Parameters
    ----------
    probability
        Of the class, `[n]`, 0 to 1.
    right
        Whether it is the true one, `[n]`.

    Returns
    -------
    NDArray[np.int64]
        Pixels in each of `CONFIDENCE_BINS` bins of equal width from 0 to 1, then those of them that are right.
    """
    bins = np.minimum((probability * CONFIDENCE_BINS).astype(np.int64), CONFIDENCE_BINS - 1)
    counts = [np.bincount(chosen, minlength=CONFIDENCE_BINS) for chosen in (bins, bins[right])]
    return np.concatenate(counts)
