"""Tiles and nuclei with all that is known of each: probabilities, labels, relevances, features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely

from vitrail import __version__
from vitrail.core.files import damaged, read_json, read_table
from vitrail.errors import ExchangeError, RunError
from vitrail.explain.nuclei.results import SUMMARY as NUCLEI_SUMMARY
from vitrail.explain.nuclei.results import open_nuclei
from vitrail.explain.study.store import SUMMARY, open_stored
from vitrail.inference.relevance import relevance_at, relevance_of_tiles
from vitrail.interop.class_map import read_class_map
from vitrail.interop.scverse import Observations, Shapes
from vitrail.nuclei.export import described_features, nuclei_observations
from vitrail.nuclei.features import FEATURES
from vitrail.nuclei.store import outlines_of, read_header, read_nuclei
from vitrail.nuclei.update import PROBABILITY, probability_at
from vitrail.tiles.store import read_tiles

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.core.progress import Progress
    from vitrail.pipeline.result_folder import ResultFolder, SlideResults
    from vitrail.stage import Run

    Floats = NDArray[np.float32]

PROBABILITIES = {
    "tumor_probability": "Tumor probability",
    "classifier": "Tumor probability by the classifier",
    "segmenter": "Share of pixels that the segmenter calls tumor",
}
"""Columns that are the variables of tiles where no features were asked for, and what they are."""

_SIDE_SLACK = 5e-3
"""By so much of its side a tile may differ from those that a model learned from."""

_BLOCK = 512  # tiles of a study that are in memory at once


def study_tiles(results: ResultFolder) -> pd.DataFrame:
    """Return the tiles that a run was made with, of every split.

    Parameters
    ----------
    results
        Of a run.

    Returns
    -------
    pd.DataFrame
        `tile`, its row in the tile table, the columns of `predictions/tiles.parquet`, or as long as there is none those
        of `tiles/tiles.parquet` and `split`; `mpp` of its slide; and for each kind of explanation
        `relevance_<network>_<method>`, the mean of the tile's map, NaN where it was not explained.

    Raises
    ------
    RunError
        A file is missing or damaged.
    """
    folder = results.folder
    predicted = folder / "predictions" / "tiles.parquet"
    rows = _tiles_of(predicted if predicted.is_file() else folder / "tiles" / "tiles.parquet", "slide_id", "label")
    slides = pd.DataFrame(
        [(each.name, each.split, each.mpp) for each in results.slides], columns=["slide_id", "split", "mpp"]
    ).set_index("slide_id")
    rows.insert(0, "tile", np.arange(len(rows)))
    for name in ("split", "mpp"):
        if name not in rows:
            rows[name] = rows["slide_id"].map(slides[name])
    if (folder / "explanations" / SUMMARY).is_file():
        stored = open_stored(folder / "explanations")
        for key in stored.keys:
            means = np.full(len(rows), np.nan)
            means[stored.rows["tile"].to_numpy(np.int64)] = np.mean(stored.maps(key), (1, 2), dtype=np.float64)
            rows[f"relevance_{key}"] = means
    return rows


def map_tiles(slide: SlideResults) -> pd.DataFrame:
    """Return the tiles of a slide that was mapped as a whole.

    Parameters
    ----------
    slide
        With `maps`.

    Returns
    -------
    pd.DataFrame
        `tile`, counted from 0; `slide_id`; the columns of `MapFiles.tiles`; and for each method that explains the slide
        `relevance_classifier_<method>`, the mean of its map over the tile.

    Raises
    ------
    RunError, ExchangeError
        A file is missing or damaged.
    """
    if slide.maps is None:
        raise RunError(slide.name, "was not mapped as a whole", "Map it with: vitrail predict")
    rows = _tiles_of(slide.maps.tiles, "background", PROBABILITY)
    rows.insert(0, "tile", np.arange(len(rows)))
    rows.insert(1, "slide_id", slide.name)
    for column, values in _relevances(slide, rows).items():
        rows[column] = values
    return rows


def _tiles_of(path: Path, *more: str) -> pd.DataFrame:
    """Read a table of tiles; a RunError where a column is missing."""
    rows = read_table(path)
    if missing := [name for name in ("x", "y", "side", *more) if name not in rows]:
        raise damaged(path, f"without a column {missing[0]}")
    return rows.reset_index(drop=True)


def _relevances(slide: SlideResults, tiles: pd.DataFrame | None, points_um: Any = None) -> Mapping[str, Any]:
    """Return what a slide's explanations come to over tiles, or at points, by the names of columns."""
    if slide.maps is None or not slide.maps.explained.is_file() or not slide.facts.get("explained"):
        return {}
    stored = read_class_map(slide.maps.explained)
    values = relevance_at(stored, points_um) if tiles is None else relevance_of_tiles(stored, tiles)
    names = slide.facts["explained"].get("methods", ())
    if len(names) != values.shape[1]:
        raise damaged(slide.maps.facts, "with other methods than its explanations have")
    return {f"relevance_classifier_{name}": own for name, own in zip(names, values.T, strict=True)}


def tile_observations(
    rows: pd.DataFrame, mpp: NDArray[np.float64] | float, about: Mapping[str, Any], features: Floats | None = None
) -> Observations:
    """Return tiles as observations.

    Parameters
    ----------
    rows
        Of `study_tiles` or `map_tiles`.
    mpp
        Micrometres per level-0 pixel, of each row or of all.
    about
        What all have in common.
    features
        `[n, channels]`, the variables; None takes the probabilities instead.

    Returns
    -------
    Observations
        A row a tile, called `<slide>:<tile>`; columns of lists are left out.
    """
    middles = rows[["x", "y"]].to_numpy(np.float64) + rows[["side"]].to_numpy(np.float64) / 2
    values: NDArray[np.floating[Any]]
    if features is None:
        names = [name for name in PROBABILITIES if name in rows]
        values = rows[names].to_numpy(np.float64)
        variables = pd.DataFrame({"title": [PROBABILITIES[name] for name in names]}, index=pd.Index(names))
    else:
        values = features
        numbers = np.arange(features.shape[1])
        variables = pd.DataFrame({"channel": numbers}, index=[f"feature_{number}" for number in numbers])
    flat = [name for name, column in rows.items() if not _holds_lists(column)]
    return Observations(
        values=values,
        variables=variables,
        rows=rows[flat].set_axis(_names(rows, "tile"), axis="index"),
        centres_um=middles * np.reshape(np.asarray(mpp, np.float64), (-1, 1)),
        about={"version": __version__, **about},
    )


def _names(rows: pd.DataFrame, *numbers: str) -> list[str]:
    """Name rows by their slide and numbers."""
    columns = [rows[name].astype(str).tolist() for name in ("slide_id", *numbers)]
    return [":".join(each) for each in zip(*columns, strict=True)]


def _holds_lists(column: pd.Series[Any]) -> bool:
    return column.dtype == object and len(column) > 0 and isinstance(column.iloc[0], np.ndarray | list)


def study_nuclei(run: Run) -> pd.DataFrame | None:
    """Return the nuclei that a run's networks were asked about.

    Parameters
    ----------
    run
        The run.

    Returns
    -------
    pd.DataFrame | None
        The columns of `nuclei/nuclei.parquet`; `label` of its tile; for each map `relevance_<network>_<method>`, its
        mean over the nucleus, and `mass_<network>_<method>`, the share of the map's positive part on it; and for each
        network `effect_<network>`, what the logit lost without it, NaN where nobody removed it. None without nuclei.

    Raises
    ------
    RunError
        A file is missing or damaged.
    """
    if not (run.folder / "nuclei" / NUCLEI_SUMMARY).is_file():
        return None
    study, keys = open_nuclei(run.folder / "nuclei"), ["tile", "nucleus"]
    if not len(study.nuclei):
        return None
    rows = study.nuclei.merge(study.tiles[["tile", "label"]], on="tile", how="left")
    for (network, method), own in study.relevance.groupby(["network", "method"], sort=True):
        names = {"mean": f"relevance_{network!s}_{method!s}", "mass": f"mass_{network!s}_{method!s}"}
        rows = rows.merge(own[[*keys, *names]].rename(columns=names), on=keys, how="left")
    trained = study.effects[study.effects["draw"] == -1]
    for network, own in trained.groupby("network", sort=True):
        names = {"effect_logit": f"effect_{network!s}"}
        rows = rows.merge(own[[*keys, *names]].rename(columns=names), on=keys, how="left")
    return rows


def study_nuclei_observations(rows: pd.DataFrame, mpp: Mapping[str, float], about: Mapping[str, Any]) -> Observations:
    """Return the nuclei of `study_nuclei` as observations; `mpp` is that of each slide."""
    names = [name for name in FEATURES if name in rows]
    scale = rows["slide_id"].map(mpp).to_numpy(np.float64)[:, None]
    return Observations(
        values=rows[names].to_numpy(np.float32),
        variables=described_features(names),
        rows=rows.drop(columns=names).set_axis(_names(rows, "tile", "nucleus"), axis="index"),
        centres_um=rows[["x", "y"]].to_numpy(np.float64) * scale,
        about={"version": __version__, **about},
    )


def slide_nuclei(slide: SlideResults) -> Shapes | None:
    """Return all nuclei of a slide, with their outlines.

    Parameters
    ----------
    slide
        The slide.

    Returns
    -------
    Shapes | None
        Features as variables; where the slide was mapped, also `tumor_probability` of the tile that a nucleus lies in,
        and `relevance_classifier_<method>`, what the slide's map of explanations holds at its centre. None without
        nuclei.

    Raises
    ------
    RunError, ExchangeError
        A file is missing or damaged.
    """
    if slide.nuclei is None:
        return None
    header, rows = read_header(slide.nuclei), read_nuclei(slide.nuclei)
    if slide.maps is not None and len(rows):
        rows[PROBABILITY] = probability_at(rows, read_table(slide.maps.tiles), header.mpp)
        for column, values in _relevances(slide, None, rows[["x_um", "y_um"]].to_numpy(np.float64)).items():
            rows[column] = values
    return Shapes(outlines=outlines_of(rows), table=nuclei_observations(rows, header))


def circles(rows: pd.DataFrame, table: Observations, mpp: float) -> Shapes:
    """Return the nuclei of `study_nuclei` of one slide as circles of their areas."""
    radius = np.sqrt(rows["area_um2"].to_numpy(np.float64) / np.pi) / mpp
    return Shapes(
        outlines=np.asarray(shapely.points(rows[["x", "y"]].to_numpy(np.float64))), radius=radius, table=table
    )


def provenance(results: ResultFolder, slide: SlideResults | None = None) -> dict[str, Any]:
    """Return what is said of where results come from: version, slide, scale, and digests of what made them."""
    said: dict[str, Any] = {"version": __version__}
    if slide is not None:
        said |= {"slide_id": slide.name, "slide": slide.file_name, "mpp": slide.mpp}
        said |= {"maps": str(slide.facts["key"])} if slide.facts else {}
    if results.run is not None:
        for stage in ("tiles", "classifier", "segmenter", "predictions", "explanations", "nuclei"):
            record = results.folder / stage / "stage.json"
            if record.is_file():
                said[f"{stage}_digest"] = str(read_json(record, ("digest",))["digest"])
    return said


class TileEncoder:
    """The encoder of a model, for tiles of results.

    Parameters
    ----------
    folder
        Of the model.
    device
        As `compute.device`.

    Attributes
    ----------
    about
        What is said of its features: the encoder's name, and the digest of the model.

    Raises
    ------
    ModelError
        It cannot be read.
    """

    def __init__(self, folder: Path, device: str = "auto") -> None:
        # torch takes seconds to import, and most exports need none
        from vitrail.models.device import keep_memory, pick_device
        from vitrail.models.features import PooledFeatures
        from vitrail.models.store import load_explained, model_digest

        keep_memory()
        self.folder, self._pooled = folder, PooledFeatures(load_explained(folder), pick_device(device))
        self.about = {"encoder": self._pooled.spec.encoder, "model_digest": model_digest(folder)}

    @property
    def side_px(self) -> int:
        """Pixels of a tile's side as the encoder sees it."""
        return int(self._pooled.spec.side_px)

    def of_study(self, results: ResultFolder, rows: pd.DataFrame, progress: Progress) -> Floats:
        """Return the features of a run's tiles, `[n, channels]`.

        Parameters
        ----------
        results
            Of the run.
        rows
            Of `study_tiles`, or some of them.
        progress
            Told how far the work is.

        Raises
        ------
        RunError
            The tiles cannot be read.
        ExchangeError
            The model learned from other tiles.
        """
        from vitrail.models.device import reproducible

        tiles = read_tiles(results.folder / "tiles")
        self._check(rows, rows["mpp"].to_numpy(np.float64))
        if tiles.images.shape[1] != self.side_px:
            problem = f"learned from tiles of {self.side_px} pixels, and these have {tiles.images.shape[1]}"
            raise ExchangeError(self.folder, problem, "Give a model of this run")
        numbers, parts = rows["tile"].to_numpy(np.int64), list[Any]()
        with reproducible(self._pooled.device, 0), progress.task("features", len(numbers)) as step:
            for at in range(0, max(len(numbers), 1), _BLOCK):
                block = numbers[at : at + _BLOCK]
                parts.append(self._pooled(np.asarray(tiles.images[block])))
                step(len(block))
        return np.concatenate(parts)

    def of_slide(self, slide: SlideResults, rows: pd.DataFrame, slides: Path | None, progress: Progress) -> Floats:
        """Return the features of the tiles of a mapped slide, `[n, channels]`.

        Parameters
        ----------
        slide
            The slide; its pixels are read.
        rows
            Of `map_tiles`.
        slides
            Folder of its file; None where a run says where it is.
        progress
            Told how far the work is.

        Raises
        ------
        SlideError
            The slide cannot be read.
        ExchangeError
            The model learned from other tiles.
        """
        from vitrail.inference.sliding import tile_features
        from vitrail.models.device import reproducible
        from vitrail.slides.slide import open_slide

        self._check(rows, np.full(len(rows), slide.mpp))
        reading = self._pooled.spec.reading
        opened = open_slide(slide.file(slides), mpp=slide.mpp, reading=reading.mode, stain=reading.stain)
        boxes = rows[["x", "y", "side", "side"]].to_numpy(np.float64)
        with reproducible(self._pooled.device, 0), progress.task("features", len(boxes)) as step:
            return tile_features(opened, self._pooled, boxes, step)

    def _check(self, rows: pd.DataFrame, mpp: NDArray[np.float64]) -> None:
        """Make sure that tiles are as large as those that the model learned from."""
        wished = self._pooled.spec.side_um
        sides = np.unique(rows["side"].to_numpy(np.float64) * mpp)
        if len(sides) and np.abs(sides / wished - 1).max() > _SIDE_SLACK:
            problem = f"learned from tiles of {wished:g} um, and these have {sides[0]:g}"
            raise ExchangeError(self.folder, problem, "Give the model that these tiles were made for")
