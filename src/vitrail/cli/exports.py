"""`vitrail export`: models, maps and tables for other software."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from vitrail.cli.completion import complete_model
from vitrail.cli.options import Out, finish, finish_file, progress

exports = typer.Typer(help="Hand a run's models and maps to other software.", no_args_is_help=True)
Model = Annotated[Path, typer.Argument(metavar="RUN/NETWORK", help="The model folder.", autocompletion=complete_model)]


@exports.command()
def wsinfer(model: Model, out: Out) -> None:
    """Write a classifier for QuPath's WSInfer extension and the wsinfer command."""
    from vitrail.interop.wsinfer import export_wsinfer

    finish_file(export_wsinfer(model, out))


@exports.command()
def qupath(
    results: Annotated[Path, typer.Argument(metavar="RUN|FOLDER", help="A run, or results of vitrail predict.")],
    out: Out,
    slides: Annotated[
        Optional[list[Path]],  # noqa: UP045 - typer reads this at run time
        typer.Option("--slides", metavar="FOLDER", help="Where the slides of a folder of results lie."),
    ] = None,
) -> None:
    """Write a QuPath project with slides, maps and objects, and a script that imports them into any other."""
    from vitrail.pipeline.export_qupath import export_qupath

    finish(export_qupath(results, out, slides or ()))


@exports.command()
def onnx(model: Model, out: Out) -> None:
    """Write a network as ONNX, its preprocessing inside."""
    from vitrail.interop.onnx import export_onnx

    finish_file(export_onnx(model, out))


@exports.command()
def dicom(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Results of predict or nuclei, or a run.")],
    slide: Annotated[Path, typer.Option("--slide", help="A file of the DICOM slide, or the folder of its series.")],
    out: Out,
    nuclei: Annotated[bool, typer.Option("--nuclei/--no-nuclei", help="Write nuclei, too.")] = True,  # noqa: FBT002 - typer's way
) -> None:
    """Write the maps of a DICOM slide as Segmentation, Parametric Maps and Annotations."""
    from vitrail.pipeline.export_dicom import export_dicom

    finish(export_dicom(folder, slide, out, nuclei=nuclei))


Results = Annotated[
    Path,
    typer.Argument(metavar="RUN | PREDICTIONS", help="A run, or the folder that vitrail predict SLIDE --out wrote."),
]
Folder = Annotated[Path, typer.Option("--out", "-o", help="The folder to write to.")]
Features = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads this at run time
    typer.Option(metavar="RUN/NETWORK", help="Give tiles the features of this model's encoder, not probabilities."),
]
Slides = Annotated[
    Optional[Path],  # noqa: UP045 - the same
    typer.Option(metavar="FOLDER", help="Where the slides' files are, if they are read and results do not say it."),
]


@exports.command()
def geoparquet(what: Results, out: Folder) -> None:
    """Write tiles and regions with their outlines, for geopandas, DuckDB, GDAL and QGIS."""
    from vitrail.pipeline.exports import export_geoparquet

    finish(export_geoparquet(what, out))


@exports.command()
def anndata(
    what: Annotated[
        Path, typer.Argument(metavar="RUN | PREDICTIONS | FILE.h5", help="Results, or features of TRIDENT.")
    ],
    out: Folder,
    features: Features = None,
    slides: Slides = None,
    mpp: Annotated[Optional[float], typer.Option(help="Of FILE.h5: um per level-0 pixel of its slide.")] = None,  # noqa: UP045 - the same
) -> None:
    """Write tiles and nuclei for scanpy and squidpy (needs vitrail[scverse])."""
    from vitrail.pipeline.exports import FeatureSource, export_anndata

    finish(export_anndata(what, out, FeatureSource(model=features, slides=slides), mpp, progress()))


@exports.command()
def spatialdata(what: Results, out: Folder, features: Features = None, slides: Slides = None) -> None:
    """Write tiles, nuclei and maps of each slide as SpatialData (needs vitrail[scverse])."""
    from vitrail.pipeline.exports import FeatureSource, export_spatialdata

    finish(export_spatialdata(what, out, FeatureSource(model=features, slides=slides), progress()))


@exports.command(name="ome-zarr")
def ome_zarr(
    what: Annotated[Path, typer.Argument(metavar="RUN | PREDICTIONS | MAP.ome.tiff", help="Results, or one map.")],
    out: Folder,
) -> None:
    """Write maps of classes and explanations as OME-Zarr, for napari (needs vitrail[zarr])."""
    from vitrail.pipeline.exports import export_ome_zarr

    finish(export_ome_zarr(what, out))


@exports.command()
def h5(
    what: Results,
    out: Folder,
    model: Annotated[Path, typer.Option(metavar="RUN/NETWORK", help="Whose encoder makes the features.")],
    layout: Annotated[Literal["trident", "stamp"], typer.Option("--as", help="Whose files.")] = "trident",
    slides: Slides = None,
) -> None:
    """Write features of tiles as TRIDENT or STAMP do (needs vitrail[hdf5])."""
    from vitrail.pipeline.exports import FeatureSource, export_h5

    finish(export_h5(what, out, FeatureSource(model=model, slides=slides), layout, progress()))


@exports.command()
def outlines(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Outlines, as any program writes them.")],
    out: Out,
    format_: Annotated[str, typer.Option("--as", help="asap, halo, imagescope, dsa, coco, geoparquet or qupath.")],
    slide: Annotated[Optional[Path], typer.Option("--slide", help="The slide that they are of.")] = None,  # noqa: UP045
    mpp: Annotated[Optional[float], typer.Option("--mpp", help="Its um per pixel, if its header lacks them.")] = None,  # noqa: UP045
) -> None:
    """Write the outlines of one program for another, so that a file of ASAP opens in QuPath."""
    from vitrail.pipeline.outlines import export_outlines

    finish(export_outlines(file, out, format_, slide, mpp))
