"""The nuclei of a slide, brought up to date: found, measured and handed to QuPath, unless that is done already."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vitrail import __version__
from vitrail.core.digest import json_digest
from vitrail.errors import RunError
from vitrail.nuclei.export import write_detections
from vitrail.nuclei.features import FEATURES
from vitrail.nuclei.slide import NucleiFiles, measure_slide
from vitrail.nuclei.store import NucleiHeader, nuclei_parts, read_header, read_nuclei
from vitrail.quality.tissue import find_tissue
from vitrail.slides.cohort import file_digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.core.progress import Progress
    from vitrail.settings.load import Settings
    from vitrail.slides.slide import Slide

PROBABILITY = "tumor_probability"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredNuclei:
    """The nuclei of a slide on disk.

    Attributes
    ----------
    files
        Where they are.
    is_new
        Whether they were found just now, not by an earlier call.
    """

    files: NucleiFiles
    is_new: bool

    def summary(self) -> dict[str, float]:
        """Return their number, `nuclei`, and the median of each feature; NaN where none has it."""
        table = read_nuclei(self.files.table, [*FEATURES])
        return {"nuclei": len(table), **{name: float(table[name].median()) for name in FEATURES}}


def update_nuclei(
    slide: Slide,
    base: Path,
    settings: Settings,
    progress: Progress,
    *,
    tiles: pd.DataFrame | None = None,
    is_stale: bool = False,
) -> MeasuredNuclei:
    """Find, measure and export the nuclei of a slide, unless an earlier call has, with the same settings.

    Parameters
    ----------
    slide
        The slide.
    base
        Folder and name of its files, without an ending.
    settings
        The branches `nuclei` (engine and model) and `tissue` matter.
    progress
        Told how far the work is.
    tiles
        Tiles of the slide with `x`, `y`, `side` in level-0 pixels and `tumor_probability`, which each detection then
        gets from its tile.
    is_stale
        Whether the detections are to be written again, since the tiles have changed.

    Returns
    -------
    MeasuredNuclei
        Where they are.

    Raises
    ------
    SlideError
        The slide cannot be read, or holds no tissue.
    NucleiError
        It is too coarse, or the engine cannot find them.
    SettingsError
        The engine lacks a model.
    ExchangeError
        A file cannot be written.
    """
    files = NucleiFiles(base=base, key=nuclei_key(slide, settings))
    header = NucleiHeader(slide_id=base.name, mpp=slide.mpp, engine=settings.nuclei.engine, key=files.key)
    try:
        is_new = read_header(files.table) != header
    except RunError:  # not there, or damaged
        is_new = True
    if is_new:
        for old in (files.table, files.geojson):
            old.unlink(missing_ok=True)
        for old in files.partial.parent.glob("*"):
            if old != files.partial:
                shutil.rmtree(old)
        # engines may load networks: not where all is done
        from vitrail.nuclei.engines import engine_of  # noqa: PLC0415
        from vitrail.nuclei.regions import segment_region  # noqa: PLC0415

        segment = partial(segment_region, slide, engine=engine_of(settings.nuclei))
        measure_slide(slide, find_tissue(slide, settings.tissue), segment, files, header, progress)
        with suppress(OSError):  # not empty, or not there
            files.partial.parent.rmdir()
            files.partial.parent.parent.rmdir()
    if is_new or is_stale or not files.geojson.is_file():
        parts = nuclei_parts(files.table)
        if tiles is None:
            write_detections(files.geojson, header, parts)
        else:
            judged = (rows.assign(**{PROBABILITY: _of_tiles(rows, tiles, slide.mpp)}) for rows in parts)
            write_detections(files.geojson, header, judged, {PROBABILITY: "Tumor probability"})
    return MeasuredNuclei(files=files, is_new=is_new)


def nuclei_key(slide: Slide, settings: Settings) -> str:
    """Return the digest of all that decides the nuclei of a slide.

    Parameters
    ----------
    slide
        The slide; its content counts.
    settings
        The branches `nuclei` (engine and model, whose file counts) and `tissue` matter.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    model = Path(settings.nuclei.model or "-").expanduser()
    own = sorted(model.glob(f"{slide.path.stem}.*")) if model.is_dir() else [model]  # of a folder the slide's own file
    digests = [file_digest(path) for path in own]
    engine = [settings.nuclei.engine, settings.nuclei.model, *digests]
    return json_digest(
        [__version__, slide.mpp, slide.reading, file_digest(slide.path), engine, settings.digest_values()["tissue"]]
    )


def _of_tiles(rows: pd.DataFrame, tiles: pd.DataFrame, mpp: float) -> NDArray[np.float64]:
    """Return the tumor probability of the tile that each centre lies in; NaN where there is none."""
    side = tiles["side"].iloc[0]
    places = pd.MultiIndex.from_arrays([(tiles[axis] / side).round().astype(np.int64) for axis in "yx"])
    row, column = (np.floor(rows[f"{axis}_um"].to_numpy() / mpp / side).astype(np.int64) for axis in "yx")
    by_place = pd.Series(tiles[PROBABILITY].to_numpy(np.float64), places)
    return by_place.reindex(pd.MultiIndex.from_arrays([row, column])).to_numpy(np.float64)
