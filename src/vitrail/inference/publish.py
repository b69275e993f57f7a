"""A mapped slide made public: the class of its tiles, its GeoJSON for QuPath and its row of the summary.

Here the threshold enters. A tile that holds too little tissue is background; one that an artefact spoils to a half or
more has no class; neither counts in the statistics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.classes import ARTEFACT_CLASS, TissueClass
from vitrail.core.files import read_json, read_table
from vitrail.interop.class_map import read_class_map
from vitrail.interop.qupath import MEASUREMENTS, SlideObjects, write_geojson
from vitrail.interop.regions import ClassRegion, MapFrame, find_regions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from vitrail.inference.outputs import MapFiles

SPOILT = 0.5
"""A tile is an artefact when at least this share of it is."""

SUMMARY = (
    "slide_id", "tissue_mm2", "tumor_mm2", "tumor_share", "mean_probability", "artefact_share", "tiles", "seam_index",
    "seconds",
)  # fmt: skip
"""What `publish` says of a slide."""

SPREADS = {"classifier_spread": "Spread of the tumor probability", "segmenter_spread": "Mean spread of pixels"}
"""Columns that say how far answers differ, and what QuPath calls them."""

MEASURED = {**MEASUREMENTS, "segmenter": "Tumor share of pixels", **SPREADS}
"""All columns of a mapped slide's tiles that are measurements, and what other programs call them."""

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
    pd.Series[str]
        `tumor`, `non_tumor`, `background` or `artefact`, by the index of `tiles`.
    """
    tumor = tiles["tumor_probability"] >= threshold
    names = np.where(tumor, TissueClass.TUMOR.key, TissueClass.NON_TUMOR.key).astype(object)
    names[(tiles["artefact"] >= SPOILT).to_numpy()] = ARTEFACT_CLASS.key
    names[tiles["background"].to_numpy(dtype=bool)] = TissueClass.BACKGROUND.key
    return pd.Series(names, index=tiles.index, name="class")


def publish(files: MapFiles, out: Path, threshold: float) -> dict[str, Any]:
    """Write a mapped slide's `<out>.geojson` for QuPath, and sum the slide up.

    Tiles become detections with their class and measurements; connected regions of tumor and of non-tumor on the class
    map become annotations, drawn to within 4 um.

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
    dict[str, Any]
        By the names of `SUMMARY`: areas of tissue and of tumor, the latter without artefacts (pixels of the class map,
        or without one the tissue of tumor tiles); `tumor_share`, of the tissue without artefacts; the mean probability
        of the tiles that are tumor or non-tumor, and their number; `artefact_share`, of the tissue; and the `seconds`
        of `map_slide`. NaN where there is nothing to measure.

    Raises
    ------
    ExchangeError
        The GeoJSON cannot be written, or the class map cannot be read.
    """
    facts, tiles = read_json(files.facts), read_table(files.tiles)
    names = name_tiles(tiles, threshold)
    write_geojson(out.with_name(f"{out.name}.geojson"), slide_objects(files, facts, tiles, names))
    return {"slide_id": files.base.name, **_summary(facts, tiles, names)}


def slide_objects(
    files: MapFiles,
    facts: Mapping[str, Any],
    tiles: pd.DataFrame,
    names: pd.Series[str],
    more: Mapping[str, str] | None = None,
) -> SlideObjects:
    """Return what QuPath shows of a mapped slide: its tiles with their measurements, and regions of its class map.

    Parameters
    ----------
    files
        What `map_slide` wrote.
    facts, tiles
        Content of `files.facts` and `files.tiles`; there may be further columns.
    names
        As of `name_tiles`.
    more
        Further columns of numbers, and what QuPath is to call them.

    Returns
    -------
    SlideObjects
        Identities are by the name of the files.

    Raises
    ------
    ExchangeError
        The class map cannot be read.
    """
    measurements, regions = dict(MEASUREMENTS), list[ClassRegion]()
    if facts["map_mpp"] is not None:
        frame = MapFrame(scale=facts["map_mpp"] / facts["mpp"], mpp=facts["map_mpp"])
        regions = find_regions(read_class_map(files.classes).class_strips(), frame)
    # with one network alone its only measurement of tumor is the tumor probability
    if "segmenter" in tiles and not tiles["segmenter"].equals(tiles["tumor_probability"].rename("segmenter")):
        measurements["segmenter"] = MEASURED["segmenter"]
    measurements |= {name: title for name, title in SPREADS.items() if name in tiles}
    return SlideObjects(
        slide_id=files.base.name,
        side=float(tiles["side"].iloc[0]),
        tiles=[tiles.assign(label=names.where(names != ARTEFACT_CLASS.key, None))],
        regions=regions,
        measurements=measurements | dict(more or {}),
    )


def publish_all(mapped: Sequence[MapFiles], folder: Path, threshold: float) -> pd.DataFrame:
    """Publish the mapped slides of a run into a folder, whose other GeoJSON files are removed.

    Parameters
    ----------
    mapped
        What `map_slide` wrote of each slide.
    folder
        Where to; made when missing.
    threshold
        A tile is tumor when its tumor probability reaches this.

    Returns
    -------
    pd.DataFrame
        A row for each slide, by the names of `SUMMARY` without `seconds`: two runs alike make the same report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.geojson"):
        stale.unlink()
    rows = [publish(files, folder / files.base.name, threshold) for files in mapped]
    return pd.DataFrame(rows, columns=SUMMARY[:-1])


def _summary(facts: dict[str, Any], tiles: pd.DataFrame, names: pd.Series[str]) -> dict[str, Any]:
    """Return areas, shares and numbers; tumor and tissue without artefacts are both counted by tiles, or by pixels."""
    tumor = tiles[names == TissueClass.TUMOR.key]
    if facts["pixels"] is None:
        areas_um2 = tumor["clean"] * (tumor["side"] * facts["mpp"]) ** 2
        tumor_mm2, clean_mm2 = float(areas_um2.sum()) / _UM2_PER_MM2, facts["clean_mm2"]
    else:
        pixels, pixel_mm2 = facts["pixels"][: len(TissueClass)], facts["map_mpp"] ** 2 / _UM2_PER_MM2
        tumor_mm2, clean_mm2 = pixels[TissueClass.TUMOR] * pixel_mm2, sum(pixels) * pixel_mm2
    counted = names.isin([TissueClass.TUMOR.key, TissueClass.NON_TUMOR.key])
    return {
        "tissue_mm2": facts["tissue_mm2"],
        "tumor_mm2": tumor_mm2,
        "tumor_share": min(tumor_mm2 / clean_mm2, 1.0) if clean_mm2 else float("nan"),
        "mean_probability": float(tiles.loc[counted, "tumor_probability"].mean()),
        "artefact_share": 1 - facts["clean_mm2"] / facts["tissue_mm2"],
        "tiles": int(counted.sum()),
        "seam_index": float("nan") if facts["seam_index"] is None else facts["seam_index"],
        "seconds": round(sum(value for name, value in facts.items() if name.startswith("seconds_")), 2),
    }
