"""What the slides of a tile table look like, measured from their tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vitrail.quality.appearance import MEASURES, MOST_TILES, fit_training, measure, spread_out

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.quality.appearance import TrainingAppearance
    from vitrail.tiles.store import TileTable


def slides_appearance(tiles: TileTable, rows: NDArray[np.int64]) -> pd.DataFrame:
    """Measure what slides look like.

    Parameters
    ----------
    tiles
        The tile table.
    rows
        Which of its tiles belong to the slides.

    Returns
    -------
    pd.DataFrame
        A row a slide, in the order of their first tiles: `slide_id`, `patient_id`, `tiles`, and the columns of
        `vitrail.quality.appearance.MEASURES`.
    """
    found = []
    own = tiles.rows.iloc[rows].reset_index(drop=True)
    for name, numbers in own.groupby("slide_id", sort=False).indices.items():
        chosen = rows[numbers][spread_out(len(numbers), MOST_TILES)]
        measured = measure(np.asarray(tiles.images[chosen]))
        patient = own["patient_id"].iloc[numbers[0]]
        found.append({"slide_id": name, "patient_id": patient, "tiles": len(numbers), **measured})
    return pd.DataFrame(found)


def appearance_of(tiles: TileTable, rows: NDArray[np.int64]) -> TrainingAppearance | None:
    """Learn what the slides of training tiles look like; None of too few, see `fit_training`, or of unnamed ones.

    Parameters
    ----------
    tiles
        The tile table.
    rows
        Which of its tiles are trained on.
    """
    if not {"slide_id", "patient_id"} <= set(tiles.rows):
        return None
    slides = slides_appearance(tiles, rows)
    return fit_training(slides[list(MEASURES)].to_numpy(np.float64), slides["patient_id"].to_numpy(str))
