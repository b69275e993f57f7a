"""Tiles and nuclei of a mapped slide with all that other programs can show of each, relevance among it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.core.files import read_table
from vitrail.inference.outputs import MapFiles
from vitrail.inference.relevance import relevance_at, relevance_columns, relevance_of_tiles
from vitrail.interop.class_map import read_class_map
from vitrail.nuclei.slide import NucleiFiles
from vitrail.nuclei.store import nuclei_parts, read_header
from vitrail.nuclei.update import PROBABILITY, PROBABILITY_TITLE, probability_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd

    from vitrail.interop.class_map import ClassMap
    from vitrail.nuclei.store import NucleiHeader


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is on disk of a slide, with its measurements.

    Attributes
    ----------
    tiles
        The table of `MapFiles.tiles`, with a column for the relevance by each method; None without one.
    tile_titles
        What other programs call the columns of relevance.
    nuclei
        The table of nuclei; None without one.
    nuclei_titles
        What other programs call the columns that nuclei get beside their features.
    """

    tiles: pd.DataFrame | None
    tile_titles: dict[str, str]
    nuclei: Path | None
    nuclei_titles: dict[str, str]
    _explained: ClassMap | None

    def header(self) -> NucleiHeader:
        """Return what the table of nuclei says of itself; there must be one."""
        if self.nuclei is None:
            raise ValueError("there are no nuclei")
        return read_header(self.nuclei)

    def nuclei_parts(self) -> Iterator[pd.DataFrame]:
        """Yield nuclei, some thousand at once, with their tiles' probability and the relevance at their centres.

        Raises
        ------
        RunError
            The table is damaged.
        ExchangeError
            The map of explanations cannot be read.
        """
        if self.nuclei is None:
            return
        mpp = self.header().mpp
        for rows in nuclei_parts(self.nuclei):
            columns: dict[str, Any] = {}
            if self.tiles is not None:
                columns[PROBABILITY] = probability_at(rows, self.tiles, mpp)
            if self._explained is not None:
                relevance = relevance_at(self._explained, rows[["x_um", "y_um"]].to_numpy(np.float64)).T
                columns |= dict(zip(self.tile_titles, relevance, strict=True))
            yield rows.assign(**columns)


def measured(base: Path) -> Measured:
    """Read what is there of a slide.

    Parameters
    ----------
    base
        Folder and name of its results, without an ending.

    Returns
    -------
    Measured
        Tiles, and nuclei where there are some.

    Raises
    ------
    RunError
        A table is damaged.
    ExchangeError
        The map of explanations cannot be read.
    """
    files, nuclei = MapFiles(base=base), NucleiFiles(base=base, key="")
    tiles = read_table(files.tiles) if files.tiles.is_file() else None
    stored = read_class_map(files.explained) if files.explained.is_file() else None
    titles = relevance_columns(stored)
    if tiles is not None and stored is not None:
        tiles = tiles.assign(**dict(zip(titles, relevance_of_tiles(stored, tiles).T, strict=True)))
    return Measured(
        tiles=tiles,
        tile_titles=titles,
        nuclei=nuclei.table if nuclei.table.is_file() else None,
        nuclei_titles=titles | ({PROBABILITY: PROBABILITY_TITLE} if tiles is not None else {}),
        _explained=stored,
    )
