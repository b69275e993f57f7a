"""The files of one slide's maps, and the small map among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vitrail.core.files import write_arrays

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

NOT_PREDICTED = 255
"""Value of a pixel of the segmentation map where there is no tissue."""

LEFT_OUT = "left_out.json"
"""Beside a run's maps: the slides that could not be mapped, each with its reason."""

MAP_PX = 32
"""Pixels of the segmentation map along one tile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapFiles:
    """The files of one slide's maps.

    Attributes
    ----------
    base
        Folder and name, without an ending.
    key
        Of what made them: work in progress is only taken up where it is the same.
    """

    base: Path
    key: str = "run"

    @property
    def tiles(self) -> Path:
        """One row a tile, in level-0 pixels and shares.

        `x`, `y`, `side`; `tissue`, `artefact`, `clean` (tissue without artefacts); the artefacts by kind, `pen`,
        `fold`, `blur`, `blood`, `debris` and `bubble`, which may overlap; `background` (too little tissue);
        `tumor_probability`; and with a segmenter `segmenter`, the share of pixels called tumor, which is also the
        `tumor_probability` where there is no classifier. With `predict.uncertainty`, of a network that looks more than
        once, `classifier_spread`, the standard deviation of the probability over all looks, and `segmenter_spread`, the
        mean over the pixels of theirs.
        """
        return self._path("tiles.parquet")

    @property
    def classes(self) -> Path:
        """Probabilities of the classes, an OME-TIFF; missing without a segmenter."""
        return self._path("classes.ome.tiff")

    @property
    def uncertainty(self) -> Path:
        """How far the segmenter's answers about each pixel differ, an OME-TIFF; only where it was asked for."""
        return self._path("uncertainty.ome.tiff")

    @property
    def explained(self) -> Path:
        """Why the classifier says so: a signed map for each method, an OME-TIFF; only where it was asked for."""
        return self._path("explanations.ome.tiff")

    @property
    def explained_picture(self) -> Path:
        """The same over the slide, a PNG."""
        return self._path("explanations.png")

    @property
    def small(self) -> Path:
        """A small map, for figures."""
        return self._path("npz")

    @property
    def facts(self) -> Path:
        """Areas, seams and times (all attempts together); written last."""
        return self._path("json")

    @property
    def partial(self) -> Path:
        """Where unfinished work is."""
        return self.base.parent / ".partial" / self.base.name / self.key

    def _path(self, ending: str) -> Path:
        return self.base.with_name(f"{self.base.name}.{ending}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideMap:
    """What the networks see on one slide; all maps begin at its top left corner and may reach beyond its end.

    Attributes
    ----------
    side
        Side of a tile in level-0 pixels.
    classifier
        `[rows, columns]`, probability of tumor; NaN where it was not asked for.
    segmenter
        `[rows * MAP_PX, columns * MAP_PX]`: `TissueClass`, the next number for an artefact, or `NOT_PREDICTED`.
    artefacts
        `[rows, columns]`, the share of each tile that an artefact spoils.
    background
        `[rows, columns]`, whether a tile holds too little tissue to count.
    """

    side: float
    classifier: NDArray[np.float32]
    segmenter: NDArray[np.uint8]
    artefacts: NDArray[np.float32]
    background: NDArray[np.bool_]


_ARRAYS = ("classifier", "segmenter", "artefacts", "background")


def save_map(path: Path, result: SlideMap) -> None:
    """Write a slide's maps as `.npz`, whole or not at all."""
    write_arrays(path, side=result.side, **{name: getattr(result, name) for name in _ARRAYS})


def load_map(path: Path) -> SlideMap:
    """Read what `save_map` wrote."""
    with np.load(path) as stored:
        return SlideMap(side=float(stored["side"]), **{name: stored[name] for name in _ARRAYS})


def tile_positions(tiles: pd.DataFrame) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return row and column of each tile `[n]` in the grid of its slide, from `x`, `y` and `side`."""
    rows, columns = ((tiles[axis] / tiles["side"]).round().to_numpy(np.intp) for axis in ("y", "x"))
    return rows, columns
