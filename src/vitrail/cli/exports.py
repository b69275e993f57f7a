"""`vitrail export`: models, maps and tables for other software."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from vitrail.cli.options import Out, RunFolder, finish

exports = typer.Typer(help="Hand a run's models and maps to other software.", no_args_is_help=True)
Model = Annotated[Path, typer.Argument(metavar="RUN/NETWORK", help="The model folder.")]


@exports.command()
def wsinfer(model: Model, out: Out) -> None:
    """Write a classifier for QuPath's WSInfer extension and the wsinfer command."""
    from vitrail.interop.wsinfer import export_wsinfer

    typer.echo(export_wsinfer(model, out))


@exports.command()
def qupath(run: RunFolder, out: Out) -> None:
    """Gather a run's GeoJSON files with a script that imports them into a QuPath project."""
    from vitrail.pipeline.run import gather_qupath

    typer.echo(gather_qupath(run, out))


@exports.command()
def onnx(model: Model, out: Out) -> None:
    """Write a network as ONNX, its preprocessing inside."""
    from vitrail.interop.onnx import export_onnx

    typer.echo(export_onnx(model, out))


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
