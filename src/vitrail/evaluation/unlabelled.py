"""Whether the outlines are exhaustive, where tissue outside them counted as non-tumor: what networks make of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.classes import TASKS
from vitrail.evaluation.intervals import with_intervals
from vitrail.metrics.bootstrap import by_patient, ratio, sample
from vitrail.review.labels import unseen

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

COLUMN = "unlabelled"
"""Of tile tables: whether a tile is non-tumor because no outline says anything of it."""


def assumption(margin_um: float) -> str:
    """Say what a study takes for granted whose non-tumor tissue nobody outlined."""
    return (
        f"non-tumor is all tissue outside the outlines, at least {margin_um:g} um away: "
        "this holds only if the outlines are exhaustive"
    )


def outside_tiles(predictions: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Return the tiles without an outline that networks were asked about which had not seen the patient.

    Parameters
    ----------
    predictions
        As in `Evaluation`, with a column `unlabelled`.
    threshold
        From which on a network calls a tile tumor.

    Returns
    -------
    pd.DataFrame
        `row` of the tile table; `slide_id`, `patient_id`, `split`, `x`, `y`, `side`, `classifier` and `segmenter` as
        there; `strength`, the lower of both networks' tumor scores; and `called`, whether that reaches the threshold:
        both call it tumor. The strongest come first.
    """
    (chosen,) = np.nonzero(predictions[COLUMN].to_numpy(bool) & unseen(predictions))
    columns = ["slide_id", "patient_id", "split", "x", "y", "side", *TASKS]
    own = predictions.iloc[chosen][columns].reset_index(drop=True)
    own.insert(0, "row", chosen)
    strength = own[list(TASKS)].to_numpy(np.float64).min(1, initial=np.inf)
    own = own.assign(strength=strength, called=strength >= threshold)
    return own.sort_values("strength", ascending=False, kind="stable", ignore_index=True)


def outside_table(predictions: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Count by slide what networks call tumor of tiles without an outline; where most are, a carcinoma may be missed.

    Parameters
    ----------
    predictions, threshold
        As of `outside_tiles`.

    Returns
    -------
    pd.DataFrame
        `slide_id`, `patient_id`, `split`; how many such `tiles` were cut; of how many networks were `asked` that had
        not seen the patient; how many of these both networks `called` tumor, and their `share`, NaN where none was
        asked about; and the `strongest` score that both give. Slides with most called tiles come first.
    """
    tiles = predictions[predictions[COLUMN].to_numpy(bool)]
    table = tiles.groupby("slide_id", sort=True).agg(
        patient_id=("patient_id", "first"), split=("split", "first"), tiles=("x", "size")
    )
    by_slide = outside_tiles(predictions, threshold).groupby("slide_id")
    table["asked"] = by_slide.size().reindex(table.index, fill_value=0)
    table["called"] = by_slide["called"].sum().reindex(table.index, fill_value=0).astype(int)
    table["share"] = table["called"] / table["asked"].where(table["asked"] > 0)
    table["strongest"] = by_slide["strength"].max().reindex(table.index)
    ranked = table.sort_values(["called", "strongest"], ascending=False, kind="stable", na_position="last")
    return ranked.reset_index()


def outside_metrics(predictions: pd.DataFrame, threshold: float, resamples: int, seed: int) -> dict[str, Any]:
    """Measure what share of the tiles without an outline both networks call tumor.

    Parameters
    ----------
    predictions, threshold
        As of `outside_tiles`.
    resamples, seed
        Of the interval.

    Returns
    -------
    dict[str, Any]
        How many `tiles` there are; of how many in how many `slides` and of how many `patients` networks were `asked`
        that had not seen them; how many they `called` tumor, in how many `slides_called`; and the `share` of those
        asked about with its `interval` over patients.
    """
    table, tiles = outside_table(predictions, threshold), outside_tiles(predictions, threshold)
    weights = sample(tiles["patient_id"].nunique(), resamples, seed)
    counts: NDArray[np.float64] = by_patient(
        tiles["patient_id"], np.column_stack([tiles["called"].to_numpy(bool), np.ones(len(tiles))])
    )
    return {
        "tiles": int(table["tiles"].sum()),
        "asked": len(tiles),
        "slides": int((table["asked"] > 0).sum()),
        "patients": int(tiles["patient_id"].nunique()),
        "called": int(tiles["called"].sum()),
        "slides_called": int((table["called"] > 0).sum()),
        **with_intervals({"share": ratio(counts[:, 0], counts[:, 1], weights)}, weights),
    }
