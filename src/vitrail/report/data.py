"""What a report is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from vitrail.classes import TissueClass

SPLITS = ("train", "validation", "test")
"""The three parts of a cohort, in the order of every figure."""

NETWORKS = {"classifier": "Classification network", "segmenter": "Segmentation network"}
"""The two networks: their column in the predictions, and their name in figures."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SlideMaps:
    """One slide with what was drawn on it and what the networks found.

    Both maps start at the thumbnail's top left corner, cover the same tiles, and may reach beyond its right and bottom
    edge.

    Attributes
    ----------
    slide_id, patient_id
        Names, as the user wrote them.
    accuracy
        Share of the slide's labelled tiles that the classifier gets right, 0 to 1; NaN where it has none.
    thumbnail
        `[h, w, 3]`, RGB.
    width_um
        Width of what the thumbnail shows.
    outlines
        Closed rings by class, float `[k, 2]` each (x, y), in pixels of the thumbnail. Exteriors and holes alike: a
        place is inside where an odd number of a class's rings surround it.
    classifier
        `[rows, columns]`, tumor probability of each tile, NaN where there is none.
    segmenter
        `[H, W]`, values of `TissueClass`, 255 where nothing was predicted; `H / rows` pixels to a tile.
    tile_side
        Side of a tile in pixels of the thumbnail.
    """

    slide_id: str
    patient_id: str
    accuracy: float
    thumbnail: NDArray[np.uint8]
    width_um: float
    outlines: dict[TissueClass, list[NDArray[np.float64]]]
    classifier: NDArray[np.float32]
    segmenter: NDArray[np.uint8]
    tile_side: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReportData:
    """Everything a report shows.

    Attributes
    ----------
    title
        Name of the study.
    settings_toml
        Its settings, as a `study.toml`.
    seed
        What everything random was drawn from.
    threshold
        A tile is called tumor when its tumor probability reaches this.
    slides
        One row a slide of the cohort: `slide_id`, `patient_id`, `split`, `mpp`, `tumor_tiles`, `non_tumor_tiles`; any
        further column is an attribute of the patient, NaN where it is not known.
    skipped
        `slide_id` and `reason` of each slide that was left out.
    warnings
        What a reader has to know before believing the figures.
    history
        By network, one row an epoch: `epoch`, `train_loss`, `validation_loss`, and the classifier's
        `validation_accuracy` or the segmenter's `validation_jaccard`; NaN without validation tiles.
    predictions
        One row a tile of every split: `slide_id`, `patient_id`, `split`, `x`, `y`, `side`, `label` (`tumor` or
        `non_tumor`), `classifier` (tumor probability), `segmenter` (fraction of pixels called tumor), and `pixels`, 16
        counts: the tile's 4 x 4 confusion matrix of pixels, row by row, rows = truth, in the order of `TissueClass`.
    maps
        The slides to show.
    """

    title: str
    settings_toml: str
    seed: int
    threshold: float
    slides: pd.DataFrame
    skipped: pd.DataFrame
    warnings: Sequence[str]
    history: dict[str, pd.DataFrame]
    predictions: pd.DataFrame
    maps: Sequence[SlideMaps]
