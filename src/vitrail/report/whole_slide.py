"""A mapped slide made public: its tiles named, its GeoJSON for QuPath, its figure and its row of the summary.

Here the threshold enters. A tile that holds too little tissue is background; one that an artefact spoils to a half or
more has no class; neither counts in the statistics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.classes import ARTEFACT_CLASS, TissueClass
from vitrail.core.files import exporting, read_json, read_table
from vitrail.inference.outputs import load_map
from vitrail.interop.class_map import read_class_map
from vitrail.interop.qupath import MEASUREMENTS, SlideObjects, write_geojson
from vitrail.interop.regions import MapFrame, find_regions
from vitrail.report.data import SlideMaps
from vitrail.report.figures.slide_maps import SPOILT, map_figure
from vitrail.report.style import save_png, style
from vitrail.slides.slide import read_thumbnail

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vitrail.inference.outputs import MapFiles
    from vitrail.interop.regions import ClassRegion
    from vitrail.slides.slide import Slide

SUMMARY = (
    "slide_id", "tissue_mm2", "tumor_mm2", "tumor_share", "mean_probability", "artefact_share", "tiles", "seam_index",
    "seconds",
)  # fmt: skip
"""What `publish` says of a slide."""

THUMBNAIL_PX = 1024
"""Longer side of the slides' pictures."""

_UM2_PER_MM2 = 1e6


def name_tiles(tiles: pd.DataFrame, threshold: float) -> pd.Series[str]:
    """Name what each tile of a mapped slide is.

    Parameters
    ----------
    tiles
        The table of `MapFiles.tiles`.
    threshold
        A tile is tumor when its tumor probability reaches this.

    Returns
    -------
    `tumor`, `non_tumor`, `background` or `artefact`.
    """
    tumor = tiles["tumor_probability"] >= threshold
    names = np.where(tumor, TissueClass.TUMOR.key, TissueClass.NON_TUMOR.key).astype(object)
    names[(tiles["artefact"] >= SPOILT).to_numpy()] = ARTEFACT_CLASS.key
    names[tiles["background"].to_numpy(dtype=bool)] = TissueClass.BACKGROUND.key
    return pd.Series(names, index=tiles.index, name="class")


def publish(files: MapFiles, out: Path, threshold: float) -> dict[str, Any]:
    """Write a mapped slide's `<out>.geojson` for QuPath, and sum the slide up.

    Tiles become detections with their class and measurements; connected regions of tumor and of non-tumor on the class
    map become annotations, drawn to within 4 um (see `find_regions`).

    Parameters
    ----------
    files
        What `map_slide` wrote.
    out
        Folder and name of the GeoJSON, without its ending.
    threshold
        A tile is tumor when its tumor probability reaches this.

    Returns
    -------
    By the names of `SUMMARY`: areas of tissue and of tumor, the latter without artefacts (pixels of the class map, or
    without one the tissue of tumor tiles); `tumor_share`, of the tissue without artefacts; the mean probability of the
    tiles that are tumor or non-tumor, and their number; `artefact_share`, of the tissue; and the `seconds` of
    `map_slide`. NaN where there is nothing to measure.

    Raises
    ------
    ExchangeError
        The GeoJSON cannot be written, or the class map cannot be read.
    """
    facts, tiles = read_json(files.facts), read_table(files.tiles)
    names = name_tiles(tiles, threshold)
    objects = SlideObjects(
        slide_id=files.base.name,
        side=float(tiles["side"].iloc[0]),
        tiles=[tiles.assign(label=names.where(names != ARTEFACT_CLASS.key, None))],
        regions=_regions(files, facts),
        measurements=_measurements(tiles),
    )
    write_geojson(out.with_name(f"{out.name}.geojson"), objects)
    return {"slide_id": files.base.name, **_summary(facts, tiles, names)}


def publish_all(mapped: Sequence[MapFiles], folder: Path, threshold: float) -> pd.DataFrame:
    """Publish the mapped slides of a run into a folder, whose other GeoJSON files are removed.

    Returns
    -------
    A row for each slide, by the names of `SUMMARY` without `seconds`: two runs alike make the same report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.geojson"):
        stale.unlink()
    rows = [publish(files, folder / files.base.name, threshold) for files in mapped]
    return pd.DataFrame(rows, columns=SUMMARY[:-1])


def read_slide_maps(slide: Slide, files: MapFiles) -> SlideMaps:
    """Read what a figure of a mapped slide shows.

    Raises
    ------
    SlideError
        The slide cannot be read.
    """
    found = load_map(files.small)
    scale = THUMBNAIL_PX / max(slide.region.width, slide.region.height)
    return SlideMaps(
        slide_id=files.base.name,
        thumbnail=read_thumbnail(slide, THUMBNAIL_PX),
        width_um=slide.region.width * slide.mpp,
        classifier=found.classifier,
        segmenter=found.segmenter,
        artefacts=found.artefacts,
        background=found.background,
        tile_side=found.side * scale,
    )


def save_map_figure(path: Path, maps: SlideMaps, threshold: float) -> None:
    """Write the figure of a slide that nobody annotated as a PNG.

    Raises
    ------
    ExchangeError
        The file cannot be written.
    """
    with style(), exporting(path) as temporary:
        save_png(map_figure(maps, threshold), temporary)


def _measurements(tiles: pd.DataFrame) -> dict[str, str]:
    """Name the measurements; with one network alone there is only one of tumor."""
    both = "segmenter" in tiles and not tiles["segmenter"].equals(tiles["tumor_probability"].rename("segmenter"))
    return {**MEASUREMENTS, **({"segmenter": "Tumor share of pixels"} if both else {})}


def _regions(files: MapFiles, facts: dict[str, Any]) -> list[ClassRegion]:
    if facts["map_mpp"] is None:
        return []
    frame = MapFrame(scale=facts["map_mpp"] / facts["mpp"], mpp=facts["map_mpp"])
    return find_regions(read_class_map(files.classes).class_strips(), frame)


def _summary(facts: dict[str, Any], tiles: pd.DataFrame, names: pd.Series[str]) -> dict[str, Any]:
    tumor, clean = _areas(facts, tiles[names == TissueClass.TUMOR.key])
    counted = names.isin([TissueClass.TUMOR.key, TissueClass.NON_TUMOR.key])
    return {
        "tissue_mm2": facts["tissue_mm2"],
        "tumor_mm2": tumor,
        "tumor_share": min(tumor / clean, 1.0) if clean else float("nan"),
        "mean_probability": float(tiles.loc[counted, "tumor_probability"].mean()),
        "artefact_share": 1 - facts["clean_mm2"] / facts["tissue_mm2"],
        "tiles": int(counted.sum()),
        "seam_index": float("nan") if facts["seam_index"] is None else facts["seam_index"],
        "seconds": round(sum(value for name, value in facts.items() if name.startswith("seconds_")), 2),
    }


def _areas(facts: dict[str, Any], tumor: pd.DataFrame) -> tuple[float, float]:
    """Return mm2 of tumor and of tissue without artefacts, both counted alike."""
    if facts["pixels"] is None:
        um2 = tumor["clean"] * (tumor["side"] * facts["mpp"]) ** 2
        return float(um2.sum()) / _UM2_PER_MM2, facts["clean_mm2"]
    pixels = facts["pixels"][: len(TissueClass)]
    pixel_mm2 = facts["map_mpp"] ** 2 / _UM2_PER_MM2
    return pixels[TissueClass.TUMOR] * pixel_mm2, sum(pixels) * pixel_mm2
