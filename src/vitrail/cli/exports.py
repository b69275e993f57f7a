"""`vitrail export`: models, maps and tables for other software."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitrail.cli.completion import complete_model
from vitrail.cli.options import Out, RunFolder, finish_file

exports = typer.Typer(help="Hand a run's models and maps to other software.", no_args_is_help=True)
Model = Annotated[Path, typer.Argument(metavar="RUN/NETWORK", help="The model folder.", autocompletion=complete_model)]


@exports.command()
def wsinfer(model: Model, out: Out) -> None:
    """Write a classifier for QuPath's WSInfer extension and the wsinfer command."""
    from vitrail.interop.wsinfer import export_wsinfer

    finish_file(export_wsinfer(model, out))


@exports.command()
def qupath(run: RunFolder, out: Out) -> None:
    """Gather a run's GeoJSON files with a script that imports them into a QuPath project."""
    from vitrail.pipeline.run import gather_qupath

    finish_file(gather_qupath(run, out))


@exports.command()
def onnx(model: Model, out: Out) -> None:
    """Write a network as ONNX, its preprocessing inside."""
    from vitrail.interop.onnx import export_onnx

    finish_file(export_onnx(model, out))
