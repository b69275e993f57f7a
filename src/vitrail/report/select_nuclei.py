"""Which nuclei a report shows: by what their removal does, and by area; never by how they look."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vitrail.classes import TASKS

if TYPE_CHECKING:
    from vitrail.explain.nuclei.results import NucleiStudy

COLUMNS = 8
"""Nuclei in a row of a gallery, at most."""

SAME_SIZE = 1.15
"""Nuclei of one tile are equally large where their areas differ by this factor at most."""

FIRST, MATCHED, AGAINST = "Matter most", "As large, matter least", "Speak most against"
"""Titles of a gallery's rows."""


def single_effects(study: NucleiStudy, network: str) -> pd.DataFrame:
    """Return the nuclei that were removed one by one: the columns of `nuclei`, and `effect` on the logit.

    Parameters
    ----------
    study
        What was measured.
    network
        Whose score.
    """
    effects = study.effects
    own = effects[(effects["network"] == network) & (effects["draw"] < 0)]
    renamed = own[["tile", "nucleus", "effect_logit"]].rename(columns={"effect_logit": "effect"})
    return study.nuclei.merge(renamed, on=["tile", "nucleus"])


def choose_nuclei(study: NucleiStudy, network: str, count: int = COLUMNS) -> dict[str, pd.DataFrame]:
    """Choose the nuclei of a network's gallery, on tiles that it rightly calls tumor.

    Those whose removal lowers the logit most; below each the one of the same tile and size (`SAME_SIZE`) whose
    removal changes least; and those whose removal raises them most. Each tile gives one before any gives a second.

    Parameters
    ----------
    study
        What was measured.
    network
        Whose.
    count
        Of each row, at most.

    Returns
    -------
    dict[str, pd.DataFrame]
        By title rows of `single_effects`; empty where the network calls no such tile tumor.
    """
    tumor = study.tiles.loc[study.tiles[f"{network}_group"] == "tumor", "tile"]
    nuclei = single_effects(study, network)
    nuclei = nuclei[nuclei["tile"].isin(tumor)]
    pairs: list[tuple[pd.Series[float], pd.Series[float]]] = []
    for _, nucleus in _in_turn(nuclei.sort_values("effect", ascending=False, kind="stable")).iterrows():
        ratio = nuclei["area_um2"] / nucleus["area_um2"]
        same = (nuclei["tile"] == nucleus["tile"]) & (nuclei["nucleus"] != nucleus["nucleus"])
        like = nuclei[same & ratio.between(1 / SAME_SIZE, SAME_SIZE)]
        if len(like) and len(pairs) < count and nucleus["effect"] > 0:
            pairs.append((nucleus, like.loc[like["effect"].abs().idxmin()]))
    pairs.sort(key=lambda pair: -pair[0]["effect"])
    most, matched = (pd.DataFrame([pair[at] for pair in pairs]) for at in (0, 1))
    against = _in_turn(nuclei[nuclei["effect"] < 0].sort_values("effect", kind="stable")).head(count)
    rows = {FIRST: most, MATCHED: matched, AGAINST: against.sort_values("effect", kind="stable")}
    return {title: row for title, row in rows.items() if len(row)}


def _in_turn(nuclei: pd.DataFrame) -> pd.DataFrame:
    """Let each tile give one nucleus before any gives a second."""
    turn = nuclei.groupby("tile", sort=False).cumcount().to_numpy()
    return nuclei.iloc[np.argsort(turn, kind="stable")]


def choose_whole_tiles(study: NucleiStudy) -> list[int]:
    """Choose the tiles that are shown as a whole: of those that both networks rightly call tumor, and not, one each.

    It is the one with the median number of nuclei.

    Parameters
    ----------
    study
        What was measured.

    Returns
    -------
    list[int]
        Their numbers, tumor first.
    """
    chosen = []
    for group in ("tumor", "non_tumor"):
        both = (study.tiles[[f"{network}_group" for network in TASKS]] == group).all(axis=1)
        rows = study.tiles[both & (study.tiles["nuclei"] > 0)].sort_values("nuclei", kind="stable")
        chosen += rows["tile"].iloc[len(rows) // 2 : len(rows) // 2 + 1].tolist()
    return chosen
