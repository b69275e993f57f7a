"""TCGA as the GDC gives it away: slides whose names are barcodes, in a folder for each file or all in one.

`TCGA-CR-7395-01A-01-TS1.<UUID>.svs`: project, tissue source site, participant, sample type and vial, portion, slide
(GDC Encyclopedia, TCGA Barcode). DX are diagnostic slides, of paraffin; TS, MS and BS the top, middle and bottom
sections of a frozen portion. While `gdc-client` downloads a file its name ends with .partial, and `logs/` beside it has
a .parcel of the same name.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

from vitrail.cohorts.columns import join_table
from vitrail.cohorts.draft import Candidate, Draft
from vitrail.cohorts.listing import list_files, slide_files
from vitrail.cohorts.matching import match_outlines, without_uuid
from vitrail.errors import CohortError
from vitrail.slides.cohort import table_rows
from vitrail.slides.names import is_slide_name

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_BARCODE = re.compile(
    r"(?P<patient>TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})"
    r"(?:-(?P<sample>\d{2})[A-Z]?)?(?:-\d{2})?(?:-(?P<slide>(?P<kind>DX|TS|MS|BS)[A-Z0-9]*))?",
    re.IGNORECASE,
)
_KINDS = {"DX": "diagnostic", "TS": "frozen", "MS": "frozen", "BS": "frozen"}
_SAMPLES = {"01": "primary tumor", "02": "recurrent tumor", "05": "further primary tumor", "06": "metastasis",
            "07": "further metastasis", "11": "normal tissue"}  # fmt: skip
"""Sample types of solid tissue (GDC Encyclopedia, Sample Type Codes)."""

_MANIFEST = re.compile(r"MANIFEST\.txt|gdc_manifest.*\.txt", re.IGNORECASE)
_AGAIN = "run gdc-client again"

Kind = Literal["all", "diagnostic", "frozen"]
"""Which slides are wanted."""


def read_tcga(folder: Path, annotations: Path | None = None, kind: Kind = "all", metadata: Path | None = None) -> Draft:
    """Put slides of TCGA together with their outlines.

    Parameters
    ----------
    folder
        Where the slides are, at any depth.
    annotations
        Where their outlines are; None looks among the slides.
    kind
        Which slides come in.
    metadata
        A table to join, such as clinical data of the GDC: see `join_table`.

    Returns
    -------
    Draft
        The cohort: patients by the first twelve characters; `site`, characters 6 and 7, `slide_type`, and `sample_type`
        as attributes.

    Raises
    ------
    CohortError
        There is no such folder, or the table is wrong.
    """
    listing, draft = list_files(folder), Draft()
    outlined = listing if annotations is None else list_files(annotations)
    draft.unmatched += dict.fromkeys((*listing.unreadable, *outlined.unreadable))
    _note_unfinished(listing.files, draft)
    incomplete = _check_manifests(listing.files, draft)
    barcodes: dict[Path, re.Match[str]] = {}
    for file in slide_files(listing.files):
        barcode = _BARCODE.match(file.name)
        if barcode is None:
            draft.leave_out(file, "name that is no barcode of TCGA")
        elif not file.is_file():
            draft.leave_out(file, "link that leads nowhere")
        elif file in incomplete:
            draft.leave_out(file, "download that did not end", incomplete[file])
        elif kind != "all" and _slide_type(barcode) != kind:
            draft.leave_out(file, f"slide that is not {kind}")
        else:
            barcodes[file] = barcode
    shared = Counter(without_uuid(file.stem).casefold() for file in barcodes)
    taken: dict[str, Path] = {}
    for file, barcode in barcodes.items():
        name = without_uuid(file.stem)
        slide_id = name if shared[name.casefold()] == 1 else file.stem
        if slide_id.casefold() in taken:
            draft.leave_out(file, "second file of a name", f"{taken[slide_id.casefold()]} is taken")
            continue
        taken[slide_id.casefold()] = file
        draft.slides.append(_candidate(file, slide_id, barcode))
    explicit = set(outlined.files) if annotations is not None else set()
    outlines = match_outlines(
        draft, outlined.files, lambda file: file in explicit or file.suffix.lower() in {".geojson", ".annotations"}
    )
    draft.give_outlines(outlines)
    if metadata is not None:
        join_table(draft, metadata)
    return draft


def short_names(name: str) -> list[str]:
    """Return what other data sets call a slide: the patient and the slide alone, as `TCGA-A1-A0SK-DX1`.

    Parameters
    ----------
    name
        Of a slide, or of what belongs to one.

    Returns
    -------
    list[str]
        Nothing where it is no barcode.
    """
    barcode = _BARCODE.match(name)
    if barcode is None or barcode["slide"] is None:
        return []
    return [f"{barcode['patient']}-{barcode['slide']}".casefold()]


def _candidate(file: Path, slide_id: str, barcode: re.Match[str]) -> Candidate:
    sample = barcode["sample"] or ""
    patient = barcode["patient"].upper()
    return Candidate(
        path=file,
        slide_id=slide_id,
        patient_id=patient,
        names=(without_uuid(file.stem), *short_names(file.stem)),
        attributes={
            "site": patient[5:7],
            "slide_type": _slide_type(barcode),
            "sample_type": _SAMPLES.get(sample, sample),
        },
    )


def _slide_type(barcode: re.Match[str]) -> str:
    return _KINDS.get((barcode["kind"] or "").upper(), "")


def _check_manifests(files: Iterable[Path], draft: Draft) -> dict[Path, str]:
    """Compare files with the manifests of their downloads: note what is missing, and return what has another size."""
    present = list(files)
    by_name: dict[str, list[Path]] = {}
    for file in present:
        by_name.setdefault(file.name, []).append(file)
    incomplete: dict[Path, str] = {}
    for manifest in present:
        if not _MANIFEST.fullmatch(manifest.name):
            continue
        try:
            header, rows = table_rows(manifest, "Leave it out")
        except CohortError as error:
            draft.leave_out(manifest, "manifest that cannot be read", error.problem)
            continue
        if not {"filename", "size"} <= set(header):
            continue
        for _, row in rows:
            name = row["filename"].rpartition("/")[2]  # archives name the folder, too
            if name not in by_name and f"{name}.partial" not in by_name and is_slide_name(PurePath(name)):
                draft.leave_out(name, "in the manifest, but not there", _AGAIN)
            for file in by_name.get(name, []):
                if file.is_file() and row["size"].isdecimal() and file.stat().st_size != int(row["size"]):
                    incomplete[file] = f"{file.stat().st_size:,} of {int(row['size']):,} bytes; {_AGAIN}"
    return incomplete


def _note_unfinished(files: Iterable[Path], draft: Draft) -> None:
    """Note downloads that did not end: .partial files, and records of a download without its file."""
    present = set(files)
    for file in sorted(present):
        if file.suffix == ".partial":
            draft.leave_out(file, "download that did not end", _AGAIN)
        elif file.suffix == ".parcel":
            slide = (file.parent.parent if file.parent.name == "logs" else file.parent) / file.stem
            if not present & {slide, slide.with_name(f"{slide.name}.partial")}:
                draft.leave_out(file, "download that did not end", f"{slide.name} is missing; {_AGAIN}")
