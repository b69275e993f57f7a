"""`vitrail import`: a cohort that lies in a folder becomes a checked slides.csv."""

from __future__ import annotations

import typer

imports = typer.Typer(help="Write the slides.csv of a cohort that lies in folders.", no_args_is_help=True)
