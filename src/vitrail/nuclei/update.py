"""The nuclei of a slide, brought up to date: found, measured and handed to QuPath, unless that is done already."""

from __future__ import annotations

import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vitrail import __version__
from vitrail.core.digest import json_digest
from vitrail.core.files import remove_temporary
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

PROBABILITY, PROBABILITY_TITLE = "tumor_probability", "Tumor probability"


def update_nuclei(
    slide: Slide,
    base: Path,
    settings: Settings,
    progress: Progress,
    *,
    tiles: pd.DataFrame | None = None,
    is_stale: bool = False,
) -> None:
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
    files, header = _described(slide, base, settings)
    is_new = not _is_measured(files, header)
    if is_new:
        for old in (files.table, files.geojson):
            old.unlink(missing_ok=True)
            remove_temporary(old)
        for old in files.partial.parent.glob("*"):
            if old != files.partial:
                shutil.rmtree(old, ignore_errors=True)
        # engines may load networks: not where all is done
        from vitrail.nuclei.engines import engine_of  # noqa: PLC0415
        from vitrail.nuclei.regions import segment_region  # noqa: PLC0415

        segment = partial(segment_region, slide, engine=engine_of(settings.nuclei))
        try:
            measure_slide(slide, find_tissue(slide, settings.tissue), segment, files, header, progress)
        finally:
            for folder in (files.partial, files.partial.parent, files.partial.parent.parent):
                with suppress(OSError):  # not empty, or not there
                    folder.rmdir()
    if is_new or is_stale or not files.geojson.is_file():
        parts = nuclei_parts(files.table)
        if tiles is None:
            write_detections(files.geojson, header, parts)
        else:
            judged = (rows.assign(**{PROBABILITY: probability_at(rows, tiles, slide.mpp)}) for rows in parts)
            write_detections(files.geojson, header, judged, {PROBABILITY: PROBABILITY_TITLE})


def nuclei_summary(base: Path) -> dict[str, float]:
    """Return the number of a slide's nuclei, `nuclei`, and the median of each feature; NaN where none has it.

    Parameters
    ----------
    base
        Folder and name of its files, without an ending.

    Returns
    -------
    dict[str, float]
        The figures.
    """
    table = read_nuclei(NucleiFiles(base=base, key="").table, [*FEATURES])
    return {"nuclei": len(table), **{name: float(table[name].dropna().median()) for name in FEATURES}}


def nuclei_are_measured(slide: Slide, base: Path, settings: Settings) -> bool:
    """Tell whether the table of a slide's nuclei is there.

    Parameters
    ----------
    slide, base, settings
        As of `update_nuclei`.

    Returns
    -------
    bool
        Whether it is of this slide and these settings.
    """
    return _is_measured(*_described(slide, base, settings))


def nuclei_are_current(slide: Slide, base: Path, settings: Settings) -> bool:
    """Tell whether `update_nuclei` would find all done.

    Parameters
    ----------
    slide, base, settings
        As of `update_nuclei`.

    Returns
    -------
    bool
        Whether table and detections are there, of this slide and these settings.
    """
    files, header = _described(slide, base, settings)
    return _is_measured(files, header) and files.geojson.is_file()


def _described(slide: Slide, base: Path, settings: Settings) -> tuple[NucleiFiles, NucleiHeader]:
    """Return the files of a slide's nuclei, and what the table is to say of itself."""
    files = NucleiFiles(base=base, key=nuclei_key(slide, settings))
    return files, NucleiHeader(slide_id=base.name, mpp=slide.mpp, engine=settings.nuclei.engine, key=files.key)


def _is_measured(files: NucleiFiles, header: NucleiHeader) -> bool:
    try:
        return read_header(files.table) == header
    except RunError:  # not there, or damaged
        return False


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
    # of a folder the slide's own file counts
    own = sorted(path for path in model.iterdir() if path.stem == slide.path.stem) if model.is_dir() else [model]
    digests = [file_digest(path) for path in own]
    engine = [settings.nuclei.engine, settings.nuclei.model, *digests]
    return json_digest(
        [__version__, slide.mpp, slide.reading, file_digest(slide.path), engine, settings.digest_values()["tissue"]]
    )


def probability_at(rows: pd.DataFrame, tiles: pd.DataFrame, mpp: float) -> NDArray[np.float64]:
    """Look up the tumor probability of the tile that each nucleus lies in.

    Parameters
    ----------
    rows
        Nuclei, with `x_um` and `y_um`.
    tiles
        With `x`, `y`, `side` in level-0 pixels and `tumor_probability`.
    mpp
        Micrometres per level-0 pixel.

    Returns
    -------
    NDArray[np.float64]
        `[nuclei]`; NaN where there is no tile.
    """
    side = tiles["side"].iloc[0]
    places = pd.MultiIndex.from_arrays([(tiles[axis] / side).round().astype(np.int64) for axis in "yx"])
    row, column = (np.floor(rows[f"{axis}_um"].to_numpy() / mpp / side).astype(np.int64) for axis in "yx")
    by_place = pd.Series(tiles[PROBABILITY].to_numpy(np.float64), places)
    return by_place.reindex(pd.MultiIndex.from_arrays([row, column])).to_numpy(np.float64)
