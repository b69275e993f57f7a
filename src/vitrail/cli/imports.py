"""`vitrail import`: a cohort that lies in a folder becomes a checked slides.csv."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from vitrail.cli.options import finish, progress
from vitrail.errors import SettingsError

imports = typer.Typer(help="Write the slides.csv of a cohort that lies in folders.", no_args_is_help=True)

Cohort = Annotated[
    Path, typer.Option("--out", "-o", help="The slides.csv to write; what did not match lies beside it.")
]
Check = Annotated[bool, typer.Option("--check", help="Open every slide and all outlines, and leave out broken ones.")]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the slides are, at any depth.")]
Outlines = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads this at run time
    typer.Option("--annotations", metavar="FOLDER", help="Where the outlines are; among the slides by default."),
]
Metadata = Annotated[
    Optional[Path],  # noqa: UP045 - the same
    typer.Option(metavar="TABLE.csv", help="Columns to add, by its column slide_id, file_name or patient_id."),
]
Classes = Annotated[
    Optional[str],  # noqa: UP045 - the same
    typer.Option(metavar="TABLE", help="What masks' values mean: orca, ocdc, bcss, or 1=Tumor,2=Non-tumor,0=none."),
]
Tolerance = Annotated[
    float,
    typer.Option(min=0, metavar="PX", help="Leave corners of masks out that no outline misses by more than this."),
]
_OUT = Path("slides.csv")


@imports.command()
def hancock(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="The folder that its archives were unpacked in.")],
    out: Cohort = _OUT,
    split: Annotated[
        Optional[Literal["in", "out", "oropharynx", "treatment"]],  # noqa: UP045 - the same
        typer.Option(help="An official split; without one, vitrail draws it."),
    ] = None,
    validation: Annotated[
        float, typer.Option(help="Share of the official training patients that validation gets: they have none.")
    ] = 0.125,
    seed: Annotated[int, typer.Option(help="Draws them.")] = 0,
    check: Check = False,  # noqa: FBT002 - a flag
) -> None:
    """HANCOCK: slides of primary tumors, with outlines, sites, clinical and pathological data."""
    from vitrail.pipeline.import_cohort import Destination, import_hancock

    to = Destination(out=out, check=check, progress=progress())
    finish(import_hancock(root, to, split, validation, seed))


@imports.command()
def tcga(
    folder: Folder,
    out: Cohort = _OUT,
    annotations: Outlines = None,
    slides: Annotated[
        Literal["all", "diagnostic", "frozen"],
        typer.Option(help="Paraffin (DX), frozen sections (TS, MS, BS), or both."),
    ] = "all",
    metadata: Metadata = None,
    check: Check = False,  # noqa: FBT002 - a flag
) -> None:
    """TCGA as the GDC gives it away: patients and sites from the barcodes."""
    from vitrail.pipeline.import_cohort import Destination, import_tcga

    to = Destination(out=out, check=check, progress=progress())
    finish(import_tcga(folder, to, annotations, slides, metadata))


@imports.command()
def folder(  # noqa: PLR0913, PLR0917 - each is an option of the command
    folder: Folder,
    out: Cohort = _OUT,
    annotations: Outlines = None,
    patient: Annotated[
        Optional[str],  # noqa: UP045 - the same
        typer.Option(metavar="REGEX", help="Finds the patient in a slide's path below FOLDER: a group, or the match."),
    ] = None,
    site: Annotated[
        Optional[str],  # noqa: UP045 - the same
        typer.Option(metavar="REGEX", help="Finds the site there."),
    ] = None,
    metadata: Metadata = None,
    masks: Annotated[
        Optional[Path],  # noqa: UP045 - the same
        typer.Option(metavar="FOLDER", help="Masks to make outlines of, which go into the folder outlines."),
    ] = None,
    classes: Classes = None,
    tolerance: Tolerance = 0.0,
    check: Check = False,  # noqa: FBT002 - a flag
) -> None:
    """Any folder of slides: outlines, or masks, that are called like their slides."""
    from vitrail.cohorts.folder import FolderRules
    from vitrail.pipeline.import_cohort import Destination, MaskRules, import_folder

    rules = FolderRules(annotations=annotations, masks=masks, patient=patient, site=site, metadata=metadata)
    if (masks is None) != (classes is None):
        option, cure = ("--classes", "--masks FOLDER") if masks is None else ("--masks", "--classes TABLE")
        raise SettingsError(option, "masks and what their values mean go together", f"Add {cure}")
    made = None
    if masks is not None and classes is not None:
        made = MaskRules(folder=masks, classes=classes, outlines=out.parent / "outlines", tolerance_px=tolerance)
    finish(import_folder(folder, Destination(out=out, check=check, progress=progress()), rules, made))


@imports.command()
def masks(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="PNG, BMP or TIFF masks, at any depth.")],
    classes: Classes = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder that the outlines go to.")] = Path("outlines"),
    slides: Annotated[
        Optional[Path],  # noqa: UP045 - the same
        typer.Option(metavar="FOLDER", help="Their slides; without it, masks have the size of their slides."),
    ] = None,
    tolerance: Tolerance = 0.0,
) -> None:
    """Make outlines of masks, exactly along the pixels' edges, as GeoJSON for QuPath and vitrail."""
    from vitrail.pipeline.import_cohort import MaskRules, import_masks

    if classes is None:
        raise SettingsError("--classes", "is missing", "Say what the values mean: --classes 1=Tumor,2=Non-tumor")
    rules = MaskRules(folder=folder, classes=classes, outlines=out, tolerance_px=tolerance)
    finish(import_masks(rules, slides, progress()))
