"""Results of a run, or of `vitrail predict`, in the formats of other programs: what `vitrail export` does."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail import __version__
from vitrail.core.files import not_written
from vitrail.core.optional import import_optional
from vitrail.core.progress import Silent
from vitrail.errors import ExchangeError, RunError, SettingsError, SlideError
from vitrail.interop.class_map import read_class_map
from vitrail.interop.features_h5 import TileFeatures, read_features, write_features
from vitrail.interop.geoparquet import tile_outlines, write_geoparquet
from vitrail.interop.ome_zarr import write_ome_zarr
from vitrail.interop.regions import MapFrame, find_regions
from vitrail.interop.scverse import SPATIALDATA, Observations, Shapes, write_h5ad, write_spatialdata
from vitrail.pipeline.observations import (
    TileEncoder,
    circles,
    map_tiles,
    provenance,
    slide_nuclei,
    study_nuclei,
    study_nuclei_observations,
    study_tiles,
    tile_observations,
)
from vitrail.pipeline.outcome import Outcome
from vitrail.pipeline.result_folder import open_results

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vitrail.core.progress import Progress
    from vitrail.interop.class_map import ClassMap
    from vitrail.interop.features_h5 import Layout
    from vitrail.pipeline.result_folder import ResultFolder, SlideResults

STUDY_TILES, TILES, STUDY_NUCLEI, NUCLEI = "study_tiles", "tiles", "study_nuclei", "nuclei"
"""What files and elements are called: tiles that a run was made with, all tiles of a mapped slide; nuclei on tiles that
the networks were asked about, all nuclei of a slide."""


_EXTRAS = {
    "anndata": ("scverse", ""), "spatialdata": ("scverse", SPATIALDATA), "zarr": ("zarr", ""), "h5py": ("hdf5", "")
}  # fmt: skip
"""What installs a package, and the oldest version of it that will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSource:
    """Where features of tiles come from.

    Attributes
    ----------
    model
        A model folder; None computes none.
    slides
        Folder of the slides' files, for results that do not say where they are.
    """

    model: Path | None = None
    slides: Path | None = None


class _Export:
    """What an export has written, and what it left out."""

    def __init__(self, out: Path, *needs: str) -> None:
        for package in needs:  # before hours of computing features
            extra, least = _EXTRAS[package]
            import_optional(package, extra, "vitrail export", least)
        self.out = out
        self.files: list[Path] = []
        self.skipped: list[str] = []
        self.warnings: list[str] = []

    @contextmanager
    def slide(self, slide: SlideResults) -> Iterator[None]:
        """Go on after a slide that cannot be read; what cannot be written ends the work."""
        maps = () if slide.maps is None else (slide.maps.classes, slide.maps.explained, slide.maps.uncertainty)
        try:
            yield
        except (SlideError, RunError) as error:
            self.skipped.append(str(error))
        except ExchangeError as error:
            if error.where not in map(str, maps):
                raise
            self.skipped.append(str(error))

    def write(self, name: str, writer: Callable[..., None], *content: Any, **options: Any) -> None:
        """Let a writer write a file of a name, and count it."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_written(self.out, error) from error
        writer(self.out / name, *content, **options)
        self.files.append(self.out / name)

    def outcome(self, results: Path, what: str) -> Outcome:
        """Say what came of it; a RunError where there was nothing."""
        if not self.files and not self.skipped:
            raise RunError(results, f"holds no {what}", "Make them with: vitrail predict")
        lines = [f"{len(self.files)} files of {what}", str(self.out)]
        said = {"out": str(self.out), "files": [str(file) for file in self.files]}
        return Outcome(lines=lines, warnings=self.warnings, skipped=self.skipped, results=said)


def export_geoparquet(folder: Path, out: Path) -> Outcome:
    """Write tiles and regions as GeoParquet, outlines in level-0 pixels.

    For each slide that was mapped as a whole `<slide>.tiles.geo.parquet` and, with a segmenter,
    `<slide>.regions.geo.parquet`, connected regions of tumor and non-tumor; of a run also
    `<slide>.study_tiles.geo.parquet`. Nuclei need no export: `<slide>.nuclei.parquet` is a GeoParquet.

    Parameters
    ----------
    folder
        A run, or a folder of predictions.
    out
        Folder for the files; made where it is missing.

    Returns
    -------
    Outcome
        The files; slides whose results cannot be read are in `skipped`.

    Raises
    ------
    VitrailError
        The folder is neither, or a file cannot be written.
    """
    results, export = open_results(folder), _Export(out)
    studied = study_tiles(results) if results.run is not None else None
    for slide in results.slides:
        about = provenance(results, slide)
        with export.slide(slide):
            if slide.maps is not None:
                rows = map_tiles(slide)
                export.write(f"{slide.name}.{TILES}.geo.parquet", write_geoparquet, rows, tile_outlines(rows), about)
                if slide.facts["map_mpp"] is not None:
                    _write_regions(export, slide, about)
            if studied is not None:
                own = studied[studied["slide_id"] == slide.name].reset_index(drop=True)
                export.write(
                    f"{slide.name}.{STUDY_TILES}.geo.parquet", write_geoparquet, own, tile_outlines(own), about
                )
    return export.outcome(folder, "tiles and regions")


def _write_regions(export: _Export, slide: SlideResults, about: dict[str, Any]) -> None:
    """Write the regions of a slide's class map, as QuPath gets them."""
    mpp = slide.facts["map_mpp"]
    maps = MapFrame(scale=mpp / slide.mpp, mpp=mpp)
    regions = find_regions(read_class_map(slide.maps.classes).class_strips(), maps) if slide.maps is not None else []
    rows = pd.DataFrame(
        {
            "region": np.arange(len(regions)),
            "slide_id": pd.Series([slide.name] * len(regions), dtype=object),
            "class": pd.Series([region.label.key for region in regions], dtype=object),
            "area_mm2": np.array([region.area_mm2 for region in regions], np.float64),
        }
    )
    outlines = np.empty(len(regions), np.object_)
    outlines[:] = [region.geometry for region in regions]
    export.write(f"{slide.name}.regions.geo.parquet", write_geoparquet, rows, outlines, about)


def export_anndata(
    what: Path,
    out: Path,
    source: FeatureSource | None = None,
    mpp: float | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Write tiles and nuclei as AnnData.

    Of a run `study_tiles.h5ad` and, where nuclei were looked at, `study_nuclei.h5ad`; for each slide that was mapped as
    a whole `<slide>.tiles.h5ad`, and for each with a table of nuclei `<slide>.nuclei.h5ad`. Of a file of TRIDENT or
    STAMP `<slide>.tiles.h5ad`.

    Parameters
    ----------
    what
        A run, a folder of predictions, or an HDF5 file of features.
    out
        Folder for the files; made where it is missing.
    source
        Where features of tiles come from; without a model, probabilities take their place.
    mpp
        Of an HDF5 file's slide, um per level-0 pixel; None takes what the file says, if it does.
    progress
        Told how far the work is.

    Returns
    -------
    Outcome
        The files; slides whose results cannot be read are in `skipped`.

    Raises
    ------
    VitrailError
        There is nothing to export, a file cannot be written, or the package anndata is not installed.
    """
    source, progress, export = source or FeatureSource(), progress or Silent(), _Export(out, "anndata")
    if what.is_file():
        _write_features_as_anndata(export, what, mpp)
        return export.outcome(what, "tiles")
    if mpp is not None:
        raise SettingsError("--mpp", "is of HDF5 files; results have a pixel size of their own", "Leave it out")
    results = open_results(what)
    encoder = None if source.model is None else TileEncoder(source.model, _device(results))
    features = {} if encoder is None else encoder.about
    if results.run is not None:
        rows = study_tiles(results)
        values = None if encoder is None else encoder.of_study(results, rows, progress)
        about = provenance(results) | features
        export.write(f"{STUDY_TILES}.h5ad", write_h5ad, tile_observations(rows, rows["mpp"].to_numpy(), about, values))
        if (nuclei := study_nuclei(results.run)) is not None:
            scales = {slide.name: slide.mpp for slide in results.slides}
            export.write(
                f"{STUDY_NUCLEI}.h5ad", write_h5ad, study_nuclei_observations(nuclei, scales, provenance(results))
            )
    for slide in results.slides:
        about = provenance(results, slide)
        with export.slide(slide):
            if slide.maps is not None:
                rows = map_tiles(slide)
                values = None if encoder is None else encoder.of_slide(slide, rows, source.slides, progress)
                data = tile_observations(rows, slide.mpp, about | features, values)
                export.write(f"{slide.name}.{TILES}.h5ad", write_h5ad, data)
            if (shapes := slide_nuclei(slide)) is not None:
                export.write(f"{slide.name}.{NUCLEI}.h5ad", write_h5ad, shapes.table)
    return export.outcome(what, "tiles and nuclei")


def _write_features_as_anndata(export: _Export, file: Path, mpp: float | None) -> None:
    """Write what an HDF5 file holds, counted from the corner of the slide's file."""
    data = read_features(file)
    scale = mpp or data.nominal_mpp
    if mpp is None and data.side_um is None:
        if scale is None:
            raise SettingsError("--mpp", f"is missing, and {file} does not say it", "Add --mpp, um per level-0 pixel")
        export.warnings.append(
            f"{file}: {scale:g} um per level-0 pixel are taken from its magnification of {data.magnification:g}; "
            "add --mpp for the slide's own"
        )
    if scale is None:  # of STAMP: all in um
        corners, side = data.corners, data.side_um
        rows = pd.DataFrame({"slide_id": data.name, "x_um": corners[:, 0], "y_um": corners[:, 1], "side_um": side})
        centres = corners + float(side or 0) / 2
    else:
        rows = data.tiles(scale)
        centres = (rows[["x", "y"]].to_numpy(np.float64) + rows[["side"]].to_numpy(np.float64) / 2) * scale
    rows.insert(0, "tile", np.arange(len(rows)))
    names = [f"feature_{number}" for number in range(data.features.shape[1])]
    about = {"version": __version__, "slide_id": data.name, "encoder": data.encoder, "corner": "file"}
    observations = Observations(
        values=data.features,
        variables=pd.DataFrame({"channel": np.arange(len(names))}, index=pd.Index(names)),
        rows=rows.set_axis([f"{data.name}:{number}" for number in range(len(rows))], axis="index"),
        centres_um=centres,
        about=about | ({} if scale is None else {"mpp": scale}),
    )
    export.write(f"{data.name}.{TILES}.h5ad", write_h5ad, observations)


def export_spatialdata(
    folder: Path, out: Path, source: FeatureSource | None = None, progress: Progress | None = None
) -> Outcome:
    """Write `<slide>.zarr`, a SpatialData, for each slide.

    Shapes `tiles` and, of a run, `study_tiles`; `nuclei`, or `study_nuclei` as circles of their areas; a table for each
    of them; images `classes`, `explanations` and `uncertainty`, where there are such maps. The coordinate system
    `global` is in um from the top left corner of the slide's bounds.

    Parameters
    ----------
    folder
        A run, or a folder of predictions.
    out
        Folder for the files; made where it is missing.
    source
        Where features of tiles come from; without a model, probabilities take their place.
    progress
        Told how far the work is.

    Returns
    -------
    Outcome
        The files; slides whose results cannot be read are in `skipped`.

    Raises
    ------
    VitrailError
        The folder is neither, a file cannot be written, or the package spatialdata is not installed.
    """
    source, progress, export, results = (
        source or FeatureSource(),
        progress or Silent(),
        _Export(out, "spatialdata"),
        open_results(folder),
    )
    encoder = None if source.model is None else TileEncoder(source.model, _device(results))
    features = {} if encoder is None else encoder.about
    studied = study_tiles(results) if results.run is not None else None
    nuclei = study_nuclei(results.run) if results.run is not None else None
    for slide in results.slides:
        about, shapes = provenance(results, slide), dict[str, Shapes]()
        with export.slide(slide):
            if slide.maps is not None:
                rows = map_tiles(slide)
                values = None if encoder is None else encoder.of_slide(slide, rows, source.slides, progress)
                table = tile_observations(rows, slide.mpp, about | features, values)
                shapes[TILES] = Shapes(outlines=tile_outlines(rows), table=table)
            if studied is not None:
                rows = studied[studied["slide_id"] == slide.name].reset_index(drop=True)
                values = None if encoder is None else encoder.of_study(results, rows, progress)
                table = tile_observations(rows, slide.mpp, about | features, values)
                shapes[STUDY_TILES] = Shapes(outlines=tile_outlines(rows), table=table)
            if nuclei is not None:
                rows = nuclei[nuclei["slide_id"] == slide.name].reset_index(drop=True)
                table = study_nuclei_observations(rows, {slide.name: slide.mpp}, about)
                shapes[STUDY_NUCLEI] = circles(rows, table, slide.mpp)
            if (all_nuclei := slide_nuclei(slide)) is not None:
                shapes[NUCLEI] = all_nuclei
            export.write(f"{slide.name}.zarr", write_spatialdata, slide.mpp, shapes, _maps(slide), about)
    return export.outcome(folder, "slides")


def export_ome_zarr(what: Path, out: Path) -> Outcome:
    """Write maps of classes, explanations and uncertainty as OME-Zarr, `<slide>.classes.ome.zarr` and so on.

    Parameters
    ----------
    what
        A run, a folder of predictions, or one map as OME-TIFF.
    out
        Folder for the files; made where it is missing.

    Returns
    -------
    Outcome
        The files; maps that cannot be read are in `skipped`.

    Raises
    ------
    VitrailError
        There is nothing to export, a file cannot be written, or the package zarr is not installed.
    """
    export = _Export(out, "zarr")
    if what.is_file():
        stored = read_class_map(what)
        name = what.name.removesuffix(".tiff").removesuffix(".tif").removesuffix(".ome")
        export.write(f"{name}.ome.zarr", write_ome_zarr, stored, {"version": __version__})
        return export.outcome(what, "maps")
    results = open_results(what)
    for slide in results.slides:
        with export.slide(slide):
            for name, stored in _maps(slide).items():
                export.write(f"{slide.name}.{name}.ome.zarr", write_ome_zarr, stored, provenance(results, slide))
    return export.outcome(what, "maps of whole slides")


def _maps(slide: SlideResults) -> dict[str, ClassMap]:
    """Open the maps of a slide by what they show."""
    if slide.maps is None:
        return {}
    files = {"classes": slide.maps.classes, "explanations": slide.maps.explained, "uncertainty": slide.maps.uncertainty}
    return {name: read_class_map(file) for name, file in files.items() if file.is_file()}


def export_h5(
    folder: Path, out: Path, source: FeatureSource, layout: Layout, progress: Progress | None = None
) -> Outcome:
    """Write features of tiles as TRIDENT or STAMP do, `<name of the slide's file>.h5` for each slide.

    Of a run these are the tiles that it was made with; of predictions all tiles that hold tissue. A run's slides that
    have no file any more are skipped, because tiles count from the slide's bounds, and these programs from its corner.

    Parameters
    ----------
    folder
        A run, or a folder of predictions.
    out
        Folder for the files; made where it is missing.
    source
        The model, and where slides are.
    layout
        Whose files.
    progress
        Told how far the work is.

    Returns
    -------
    Outcome
        The files; slides that cannot be read are in `skipped`.

    Raises
    ------
    VitrailError
        The folder is neither, no model is given, a file cannot be written, or the package h5py is not installed.
    """
    from pathlib import PurePath

    from vitrail.slides.slide import open_slide

    if source.model is None:
        raise SettingsError("--model", "is missing", "Name what makes features: --model RUN/classifier")
    progress, export, results = progress or Silent(), _Export(out, "h5py"), open_results(folder)
    encoder = TileEncoder(source.model, _device(results))
    studied = study_tiles(results) if results.run is not None else None
    stems = [PurePath(slide.file_name).stem for slide in results.slides]
    for slide, stem in zip(results.slides, stems, strict=True):
        if studied is None and slide.maps is None:
            continue
        with export.slide(slide):
            opened = open_slide(slide.file(source.slides), mpp=slide.mpp)
            if studied is None:
                rows = map_tiles(slide)
                rows = rows[~rows["background"].to_numpy(bool)].reset_index(drop=True)
                values = encoder.of_slide(slide, rows, source.slides, progress)
            else:
                rows = studied[studied["slide_id"] == slide.name].reset_index(drop=True)
                values = encoder.of_study(results, rows, progress)
            data = TileFeatures(
                name=stem if stems.count(stem) == 1 else slide.name,
                corners=rows[["x", "y"]].to_numpy(np.float64),
                features=values,
                side_px=float(rows["side"].iloc[0]),
                encoder=f"vitrail-{encoder.about['encoder']}",
                seen_px=encoder.side_px,
            )
            origin = opened.bounds.x, opened.bounds.y
            export.write(f"{data.name}.h5", write_features, data, layout, mpp=slide.mpp, origin=origin)
    return export.outcome(folder, "features")


def _device(results: ResultFolder) -> str:
    return "auto" if results.run is None else results.run.settings.compute.device
