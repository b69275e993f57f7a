"""How far a slide lies from those that networks were trained on."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.geometry import Region
from vitrail.quality.appearance import MOST_TILES, measure, spread_out
from vitrail.slides.stain import read_for_networks

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from numpy.typing import NDArray

    from vitrail.models.spec import ModelSpec
    from vitrail.slides.slide import Slide

_CLEAN = 0.3
"""Share of a tile that is tissue without artefacts, from which it shows what a slide looks like; as in training."""


def slide_distances(slide: Slide, specs: Iterable[ModelSpec], tiles: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Tell how far a slide lies from the training slides of networks.

    Parameters
    ----------
    slide
        The slide.
    specs
        Of the networks.
    tiles
        Its tiles: `x`, `y` and `side` in level-0 pixels, and `clean`, the share of tissue without artefacts.

    Returns
    -------
    dict[str, dict[str, Any]]
        By task of a network that knows what it was trained on: `measured`, what `vitrail.quality.appearance.measure`
        returns; the fields of `vitrail.quality.appearance.Distances`; and how many training `slides` and `patients`
        there were.

    Raises
    ------
    SlideError
        The slide cannot be read.
    """
    enough = tiles[tiles["clean"] >= min(_CLEAN, tiles["clean"].max())]
    chosen = enough.iloc[spread_out(len(enough), MOST_TILES)]
    by_scale: dict[tuple[float, int], dict[str, float]] = {}
    result = dict[str, dict[str, Any]]()
    for spec in specs:
        if spec.training is None or spec.training.appearance is None:
            continue
        scale = spec.side_um, spec.side_px
        if scale not in by_scale:
            by_scale[scale] = measure(_read(slide, chosen, spec))
        own = spec.training.appearance
        distances = own.distances(by_scale[scale])
        result[spec.task] = {
            "measured": by_scale[scale],
            **asdict(distances),
            "slides": own.slides,
            "patients": own.patients,
        }
    return result


def _read(slide: Slide, tiles: pd.DataFrame, spec: ModelSpec) -> NDArray[np.uint8]:
    """Read a square as large as a network's tile in the middle of each tile."""
    side = spec.side_um / slide.mpp
    corners = tiles[["x", "y"]].to_numpy(np.float64) + (tiles[["side"]].to_numpy(np.float64) - side) / 2
    regions = [Region(x=x, y=y, width=side, height=side) for x, y in corners.tolist()]
    return np.stack([read_for_networks(slide, region, (spec.side_px, spec.side_px)) for region in regions])
