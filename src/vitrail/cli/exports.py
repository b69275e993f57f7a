"""`vitrail export`: models, maps and tables for other software."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from vitrail.cli.completion import complete_model
from vitrail.cli.options import Out, finish, finish_file

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
