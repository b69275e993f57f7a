"""The maps, tiles, regions and nuclei of a DICOM slide as DICOM objects, for the archive that the slide came from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from vitrail.classes import LABELS
from vitrail.core.digest import file_digest, json_digest
from vitrail.core.files import not_written, read_json
from vitrail.errors import ExchangeError
from vitrail.inference.outputs import MapFiles
from vitrail.inference.publish import MEASURED, name_tiles
from vitrail.interop.class_map import read_class_map
from vitrail.interop.dicom_annotations import (
    NUCLEUS,
    OutlineGroup,
    check_coordinates,
    rings_of,
    write_annotations,
)
from vitrail.interop.dicom_maps import CLASS_CODES, Placed, write_parametric_maps, write_segmentation
from vitrail.interop.dicom_objects import ObjectSource
from vitrail.interop.dicom_source import read_dicom_slide
from vitrail.interop.regions import MapFrame, find_regions
from vitrail.nuclei.features import FEATURES
from vitrail.nuclei.slide import NucleiFiles
from vitrail.nuclei.store import outlines_of
from vitrail.pipeline.measured import measured
from vitrail.pipeline.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import NDArray

    from vitrail.interop.class_map import ClassMap
    from vitrail.interop.dicom_source import DicomSlide
    from vitrail.pipeline.measured import Measured

_THRESHOLD = 0.5
"""Where tiles that have no class yet are called tumor, as `evaluation.threshold`."""

_NUCLEUS_RGB = (70, 70, 200)


def export_dicom(folder: Path, slide: Path, out: Path, *, nuclei: bool = True) -> Outcome:
    """Write what is there of a DICOM slide as DICOM objects.

    Parameters
    ----------
    folder
        Results of `vitrail predict` or `vitrail nuclei`, or a run with maps.
    slide
        An instance of the slide, or the folder of its series.
    out
        Where to write; made where it is missing.
    nuclei
        Whether nuclei are written, where there are some.

    Returns
    -------
    Outcome
        What was written.

    Raises
    ------
    ExchangeError
        The slide is no DICOM slide, there are no results of it, or a file cannot be written.
    RunError
        A file of the results is damaged.
    """
    source = read_dicom_slide(slide)
    base = _results(folder, source)
    files, own = MapFiles(base=base), measured(base)
    nuclei_table = own.nuclei if nuclei else None
    facts = read_json(files.facts, ("mpp", "map_mpp")) if files.facts.is_file() else {}
    maps = [path for path in (files.classes, files.explained, files.tiles) if facts and path.is_file()]
    made = [*maps, *([nuclei_table] if nuclei_table else [])]
    digest = json_digest([facts.get("key"), *(file_digest(path) for path in made)])
    about = ObjectSource(slide=source, digest=digest)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(out, error) from error
    written, warnings, groups = list[Path](), list[str](), dict[str, list[OutlineGroup]]()
    if files.classes in maps:
        placed = _placed(files.classes, facts, source)
        written += write_segmentation(out, base.name, placed, about)
        groups["regions"] = _regions(placed.stored, facts)
    if files.explained in maps:
        placed = _placed(files.explained, facts, source)
        saliency = write_parametric_maps(out, base.name, placed, about)
        left_out = len(placed.stored.header.levels) * len(placed.stored.header.channels) - len(saliency)
        if left_out:
            warnings.append(f"{left_out} levels of saliency are larger than a file can hold (4 GiB), and left out")
        written += saliency
    if files.tiles in maps and own.tiles is not None:
        groups["tiles"] = _tiles(own.tiles, facts, own.tile_titles)
    if nuclei_table:
        groups["nuclei"] = [_nuclei(own)]
    counts = {
        what: write_annotations(out / f"{base.name}.{what}.dcm", outlines, about, what)
        for what, outlines in groups.items()
    }
    written += [out / f"{base.name}.{what}.dcm" for what, count in counts.items() if count]
    said = ", ".join(f"{count} {what}" for what, count in counts.items())
    return Outcome(
        lines=[f"{len(written)} DICOM objects" + (f"; {said}" if said else ""), str(out)],
        warnings=warnings,
        results={"files": [str(path) for path in written], **counts},
    )


def _results(folder: Path, source: DicomSlide) -> Path:
    """Return folder and name of a slide's results, whichever of its instances they are called by."""
    names = {path.stem for path in source.instances}
    if (folder / "study.toml").is_file():
        from vitrail.slides.cohort import read_cohort
        from vitrail.stage import open_run

        instances = {path.resolve() for path in source.instances}
        cohort = read_cohort(open_run(folder).cohort)
        names = {entry.slide_id for entry in cohort if entry.slide.resolve() in instances}
        folder = folder / "predictions" / "maps"
    results = [
        name
        for name in sorted(names)
        if MapFiles(base=folder / name).facts.is_file() or NucleiFiles(base=folder / name, key="").table.is_file()
    ]
    if len(results) != 1:
        problem = f"has results of {len(results)} instances of the slide" if results else "has no results of the slide"
        cure = f"Make them with: vitrail predict {source.path}, and give their folder"
        raise ExchangeError(folder, problem, cure)
    return folder / results[0]


def _placed(path: Path, facts: Mapping[str, Any], source: DicomSlide) -> Placed:
    """Open a map, and say how it lies on the slide; an ExchangeError where it is another slide's."""
    stored = read_class_map(path)
    placed = Placed(stored=stored, scale=stored.header.mpp / facts["mpp"])
    for pixels, side in zip(stored.header.size, source.size, strict=True):
        if abs(pixels * placed.scale - side) > max(placed.scale, 1):
            problem = f"is a map of {pixels * placed.scale:.0f} pixels of the slide, which has {side}"
            raise ExchangeError(path, problem, "Give the slide that it was made of")
    return placed


def _tiles(tiles: pd.DataFrame, facts: Mapping[str, Any], more: Mapping[str, str]) -> list[OutlineGroup]:
    """Return the tiles that are tumor, and those that are non-tumor."""
    names = tiles["class"] if "class" in tiles else name_tiles(tiles, facts.get("threshold", _THRESHOLD))
    titles, groups = {**MEASURED, **more}, []
    for label in LABELS:
        own = tiles[(names == label.key).to_numpy()]
        left, top = (own[axis].to_numpy(np.float64) for axis in "xy")
        right, bottom = left + own["side"].to_numpy(np.float64), top + own["side"].to_numpy(np.float64)
        corners = np.stack([left, top, right, top, right, bottom, left, bottom], 1).reshape(-1, 4, 2)
        groups.append(
            OutlineGroup(
                label=f"{label.title} tiles",
                codes=CLASS_CODES[label.title],
                rgb=label.rgb,
                rings=[*corners.astype(np.float32)],
                measurements={
                    (title, ""): own[name].to_numpy(np.float64) for name, title in titles.items() if name in own
                },
                rectangles=True,
            )
        )
    return groups


def _regions(stored: ClassMap, facts: Mapping[str, Any]) -> list[OutlineGroup]:
    """Return the connected regions of tumor and of non-tumor, as in the GeoJSON; those with holes in pieces."""
    frame = MapFrame(scale=facts["map_mpp"] / facts["mpp"], mpp=facts["map_mpp"])
    regions = find_regions(stored.class_strips(), frame)
    return [
        OutlineGroup(
            label=f"{label.title} regions",
            codes=CLASS_CODES[label.title],
            rgb=label.rgb,
            rings=[ring for region in regions if region.label is label for ring in rings_of(region.geometry)],
        )
        for label in LABELS
    ]


def _nuclei(own: Measured) -> OutlineGroup:
    """Return the nuclei of a slide with their features, the probability of their tiles, and relevance."""
    rings: list[NDArray[np.float32]] = []
    columns: dict[str, list[Any]] = {}
    numbers = 0
    titles = {name: (feature.title, feature.unit) for name, feature in FEATURES.items()}
    titles |= {name: (title, "") for name, title in own.nuclei_titles.items()}
    for rows in own.nuclei_parts():
        outlines = shapely.get_exterior_ring(outlines_of(rows))
        coordinates, of = shapely.get_coordinates(outlines, return_index=True)
        numbers += coordinates.size
        check_coordinates("nuclei", numbers)
        parts = np.split(coordinates.astype(np.float32), np.flatnonzero(np.diff(of)) + 1)
        rings += [ring[:-1] for ring in parts]  # the last point is the first
        for name in titles:
            if name in rows:
                columns.setdefault(name, []).append(rows[name].to_numpy())
    values = {titles[name]: np.concatenate(parts) for name, parts in columns.items()}
    return OutlineGroup(label="Nuclei", codes=NUCLEUS, rgb=_NUCLEUS_RGB, rings=rings, measurements=values)
