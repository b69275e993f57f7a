"""What the commands do, for programs: tiles of a cohort, models on any slides."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.core.files import read_csv
from vitrail.core.progress import Silent
from vitrail.settings.load import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from vitrail.core.progress import Progress
    from vitrail.tiles.store import TileTable


def cut_tiles(
    slides: str | Path, folder: str | Path, settings: Settings | None = None, progress: Progress | None = None
) -> TileTable:
    """Cut the slides of a cohort into tiles, masks and labels, by the paper's rules.

    Tiles that an earlier call left in the folder are kept, where slide, outlines and settings are as they were.

    Parameters
    ----------
    slides
        The cohort: `slides.csv`.
    folder
        Where to write `tiles.parquet`, `images.npy`, `masks.npy`, and `slides.csv`, which says what became of each.
    settings
        The branches `slides`, `annotations` and `tiles`, and the seed, matter; None takes the paper's.
    progress
        Told after every slide; None says nothing.

    Returns
    -------
    TileTable
        The tiles, read as memory maps: `images` `[n, side_px, side_px, 3]`, `masks` `[n, side_px, side_px]`, `rows`.

    Raises
    ------
    CohortError
        `slides.csv` is wrong.
    AnnotationError
        Outlines have names that the settings do not know.
    TileError
        No slide gave tiles, or a class has none.
    """
    from vitrail.slides.cohort import read_cohort
    from vitrail.tiles.cohort import Folders, cut_cohort
    from vitrail.tiles.store import read_tiles

    target = Path(folder)
    folders = Folders(result=target, parts=target / ".parts", earlier=target)
    folders.parts.mkdir(parents=True, exist_ok=True)
    cut_cohort(read_cohort(Path(slides)), settings or Settings(), folders, progress or Silent())
    shutil.rmtree(folders.parts, ignore_errors=True)
    return read_tiles(target)


def predict_slides(
    slides: Iterable[str | Path],
    out: str | Path,
    *,
    classifier: str | Path | None = None,
    segmenter: str | Path | None = None,
    nuclei: bool = False,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Map slides that nobody annotated, as `vitrail predict` does; slides that are finished are not done again.

    Parameters
    ----------
    slides
        Their files.
    out
        Folder for each slide's maps, GeoJSON and picture.
    classifier, segmenter
        Model folders; one of them may be missing.
    nuclei
        Whether each nucleus is measured, too: `<name>.nuclei.parquet`, see `vitrail.nuclei.store`.
    settings
        None takes those of the command: blended windows, artefacts left out, calibrated probabilities.
    progress
        Told how far the work is; None says nothing.

    Returns
    -------
    pd.DataFrame
        A row for each slide of the folder, see `summary.csv`: areas in square millimetres, `tumor_share`, and `reason`
        where a slide could not be mapped.

    Raises
    ------
    SettingsError
        No slide or no model is given, or two slides share a name.
    ModelError
        A model cannot be used.
    ExchangeError
        A result cannot be written.
    RunError
        Another call writes into the same folder.
    """
    import pandas as pd

    from vitrail.pipeline.predict_slides import SUMMARY_CSV, Application, apply_models, settings_from

    job = Application(
        classifier=None if classifier is None else Path(classifier),
        segmenter=None if segmenter is None else Path(segmenter),
        out=Path(out),
        nuclei=nuclei,
        settings=settings or settings_from(),
    )
    apply_models([Path(slide) for slide in slides], job, progress)
    table = read_csv(job.out / SUMMARY_CSV, ("slide_id", "reason"))
    numbers = [name for name in table if name not in {"slide_id", "reason"}]
    return table.assign(**{str(name): pd.to_numeric(table[name]) for name in numbers})


def measure_nuclei(
    slides: Iterable[str | Path],
    out: str | Path,
    *,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Find and measure every nucleus of slides, as `vitrail nuclei` does; finished slides are not done again.

    Parameters
    ----------
    slides
        Their files.
    out
        Folder for each slide's `<name>.nuclei.parquet`, one row a nucleus, and `<name>.nuclei.geojson`.
    settings
        The branches `nuclei`, `slides` and `tissue` matter; None takes those of the command.
    progress
        Told how far the work is; None says nothing.

    Returns
    -------
    pd.DataFrame
        A row for each slide of the folder, see `nuclei.csv`: number of `nuclei`, the median of each feature, and
        `reason` where they could not be found.

    Raises
    ------
    SettingsError
        No slide is given, two share a name, or the engine lacks a model.
    ExchangeError
        A result cannot be written.
    RunError
        Another call writes into the same folder.
    """
    import pandas as pd

    from vitrail.pipeline.nuclei_of_slides import SUMMARY_CSV, NucleiJob, find_nuclei
    from vitrail.pipeline.predict_slides import settings_from

    job = NucleiJob(out=Path(out), settings=settings or settings_from())
    find_nuclei([Path(slide) for slide in slides], job, progress)
    table = read_csv(job.out / SUMMARY_CSV, ("slide_id", "reason"))
    numbers = [name for name in table if name not in {"slide_id", "reason"}]
    return table.assign(**{str(name): pd.to_numeric(table[name]) for name in numbers})
