"""What a run, or a folder that `vitrail predict` or `vitrail nuclei` wrote, holds of each slide."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from vitrail.core.files import damaged, read_csv, read_json
from vitrail.errors import RunError, SlideError
from vitrail.inference.outputs import MapFiles
from vitrail.nuclei.slide import NucleiFiles
from vitrail.nuclei.store import read_header
from vitrail.slides.cohort import read_cohort
from vitrail.stage import open_run
from vitrail.tiles.split import split_of

if TYPE_CHECKING:
    from pathlib import Path

    from vitrail.stage import Run

_TILES, _NUCLEI = ".tiles.parquet", ".nuclei.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideResults:
    """A slide, and where lies what was made of it.

    Attributes
    ----------
    name
        Its `slide_id`; in a folder of predictions the name of its file, without ending.
    file_name
        Of its file; empty where it is not known.
    mpp
        Micrometres per level-0 pixel, as it was read.
    path
        Its file; None where results do not say where it is.
    patient, split
        In a run.
    maps
        Of the whole slide; None where it was not mapped.
    facts
        Of the maps.
    nuclei
        The table of all its nuclei; None without one.
    """

    name: str
    mpp: float
    file_name: str = ""
    path: Path | None = None
    patient: str = ""
    split: str = ""
    maps: MapFiles | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    nuclei: Path | None = None

    def file(self, folder: Path | None) -> Path:
        """Say where the slide's file is.

        Parameters
        ----------
        folder
            Where to look for it, by its name; None looks where a run's `slides.csv` says.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        SlideError
            It is not there, or nobody has said where it could be.
        """
        if folder is None and self.path is None:
            raise SlideError(self.name, "its results do not say where its file is", "Add --slides FOLDER")
        file = self.path if folder is None else folder / self.file_name
        if file is None or not file.is_file():
            raise SlideError(file or self.name, "no such file", "Name the folder of the slides: --slides FOLDER")
        return file


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFolder:
    """What a folder holds.

    Attributes
    ----------
    folder
        The run, or the folder of predictions.
    run
        The run; None where it is a folder of predictions.
    slides
        In the order of `slides.csv`, or of their names.
    """

    folder: Path
    run: Run | None
    slides: tuple[SlideResults, ...]


def open_results(folder: Path) -> ResultFolder:
    """Find the slides of a run, or of a folder of predictions, and what was made of each.

    Parameters
    ----------
    folder
        A run; or what `vitrail predict SLIDE --out` or `vitrail nuclei SLIDE --out` was given.

    Returns
    -------
    ResultFolder
        Slides that gave no tiles, or are not finished, are left out.

    Raises
    ------
    RunError
        It is neither, or a file is damaged.
    CohortError, SettingsError
        The run's cohort or settings cannot be read.
    """
    if (folder / "study.toml").is_file():
        run = open_run(folder)
        return ResultFolder(folder=folder, run=run, slides=tuple(_of_run(run)))
    files = [*folder.iterdir()] if folder.is_dir() else []
    mapped = {file.name.removesuffix(_TILES) for file in files if file.name.endswith(_TILES)}
    names = {name for name in mapped if MapFiles(base=folder / name).facts.is_file()}  # else it is not finished
    names |= {file.name.removesuffix(_NUCLEI) for file in files if file.name.endswith(_NUCLEI)}
    if not names:
        cure = "Name a run, or the folder that vitrail predict SLIDE --out wrote"
        raise RunError(folder, "is no run, and holds no predictions", cure)
    return ResultFolder(folder=folder, run=None, slides=tuple(_of_predictions(folder, name) for name in sorted(names)))


def _of_run(run: Run) -> list[SlideResults]:
    folder, slides = run.folder, list[SlideResults]()
    table = folder / "tiles" / "slides.csv"
    if not table.is_file():
        raise RunError(folder, "its slides are not cut into tiles yet", f"Run: vitrail tiles {folder}")
    rows = read_csv(table, ("slide_id", "mpp", "skipped"))
    try:
        cut = rows[rows["skipped"] == ""]
        scales = dict(zip(cut["slide_id"], cut["mpp"].astype(float), strict=True))
    except ValueError as error:
        raise damaged(table, error) from None
    splits = split_of(folder / "split") if (folder / "split" / "patients.csv").is_file() else {}
    for entry in read_cohort(run.cohort):
        if entry.slide_id not in scales:
            continue
        maps, facts = _maps(MapFiles(base=folder / "predictions" / "maps" / entry.slide_id))
        slides.append(
            SlideResults(
                name=entry.slide_id,
                file_name=entry.slide.name,
                mpp=scales[entry.slide_id],
                path=entry.slide,
                patient=entry.patient_id,
                split=splits.get(entry.patient_id, ""),
                maps=maps,
                facts=facts,
            )
        )
    return slides


def _of_predictions(folder: Path, name: str) -> SlideResults:
    nuclei = NucleiFiles(base=folder / name, key="").table
    maps, facts = _maps(MapFiles(base=folder / name))
    has_nuclei = nuclei.is_file()
    return SlideResults(
        name=name,
        file_name=PurePath(str(facts.get("slide", ""))).name,
        mpp=float(facts["mpp"]) if facts else read_header(nuclei).mpp,
        maps=maps,
        facts=facts,
        nuclei=nuclei if has_nuclei else None,
    )


def _maps(files: MapFiles) -> tuple[MapFiles | None, dict[str, Any]]:
    """Return the files of a slide that is mapped, and their facts."""
    if not files.tiles.is_file() or not files.facts.is_file():
        return None, {}
    facts = read_json(files.facts, ("mpp", "map_mpp", "key", "slide", "explained"))
    scales = [facts["mpp"], *([] if facts["map_mpp"] is None else [facts["map_mpp"]])]
    if not all(isinstance(scale, int | float) and 0 < scale < math.inf for scale in scales):
        raise damaged(files.facts, "without um per pixel")
    return files, facts
