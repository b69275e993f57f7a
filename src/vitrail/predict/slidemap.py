"""What two networks see on one slide, and its file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

NOT_PREDICTED = 255
"""Value of a pixel of the segmentation map where there is no tissue."""

MAP_PX = 32
"""Pixels of the segmentation map along one tile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideMap:
    """What two networks see on one slide; both maps begin at its top left corner and may reach beyond its end.

    Attributes
    ----------
    side
        Side of a tile in level-0 pixels.
    classifier
        `[rows, columns]`, probability of tumor; NaN on glass.
    segmenter
        `[rows * MAP_PX, columns * MAP_PX]`, `TissueClass` or `NOT_PREDICTED`.
    """

    side: float
    classifier: NDArray[np.float32]
    segmenter: NDArray[np.uint8]


def save_map(path: Path, result: SlideMap) -> None:
    """Write a slide's maps as `.npz`, whole or not at all."""
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(temporary, side=result.side, classifier=result.classifier, segmenter=result.segmenter)
    temporary.replace(path)


def load_map(path: Path) -> SlideMap:
    """Read what `save_map` wrote."""
    with np.load(path) as stored:
        return SlideMap(side=float(stored["side"]), classifier=stored["classifier"], segmenter=stored["segmenter"])
