"""HANCOCK as its archives unpack: 763 patients of one hospital, with one annotated slide or two of most.

The layout is that of the data set's own description (Dörrich et al. 2025, doi:10.1038/s41467-025-62386-6):

    WSI_PrimaryTumor_[Site]/PrimaryTumor_HE_[patient].svs      second slides end with _a; sites may come in parts
    WSI_PrimaryTumor_Annotations/PrimaryTumor_HE_[patient].geojson
    StructuredData/clinical_data.json, pathological_data.json
    DataSplits_DataDictionaries/dataset_split_[in, out, Oropharynx, treatment_outcome].json

Each may lie anywhere below one folder.
"""

from __future__ import annotations

import re
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from vitrail.cohorts.columns import add_columns, cell, read_records
from vitrail.cohorts.draft import Candidate, Draft
from vitrail.cohorts.listing import Listing, list_files, slide_files
from vitrail.cohorts.matching import match_outlines
from vitrail.errors import CohortError
from vitrail.slides.cohort import content_digest

if TYPE_CHECKING:
    from pathlib import Path

SPLITS = {
    "in": "dataset_split_in.json",
    "out": "dataset_split_out.json",
    "oropharynx": "dataset_split_Oropharynx.json",
    "treatment": "dataset_split_treatment_outcome.json",
}
"""The official splits: tests in or out of the distribution, of one site, or of untreated patients with events."""

FIRST_COLUMNS = ("age_at_initial_diagnosis", "sex", "smoking_status", "pT_stage", "pN_stage", "grading",
                 "hpv_association_p16", "survival_status", "recurrence")  # fmt: skip
"""Columns that come first, since reports look at the first few."""

SETTINGS = ("annotations.unlabelled_tissue=non_tumor", "annotations.unclassified=tumor")
"""What a study of it needs: its outlines have one class, or none, which is tumor."""

_RECORDS = {"pathology": "pathological_data.json", "clinic": "clinical_data.json"}
_SLIDE = re.compile(r"PrimaryTumor_HE_(\d{3})(?:_[a-z])?\.svs")
_ANNOTATIONS = "WSI_PrimaryTumor_Annotations"
_FOLDER = "WSI_PrimaryTumor"
_PART = re.compile(r"_Part\d+$", re.IGNORECASE)
_OFFICIAL = {"training": "train", "test": "test"}


def read_hancock(root: Path, split: str | None = None, validation: float = 0.125, seed: int = 0) -> Draft:
    """Put the slides of HANCOCK together with their outlines, clinical data and an official split.

    Parameters
    ----------
    root
        The folder that the archives were unpacked in.
    split
        A key of `SPLITS`; None leaves the split to the study. The official ones have training and test alone: patients
        for validation are drawn from training.
    validation
        The share of them, by patient.
    seed
        Draws them.

    Returns
    -------
    Draft
        The cohort.

    Raises
    ------
    CohortError
        There is no such folder, a file is damaged, there twice, or missing where it is needed.
    """
    listing, draft = list_files(root), Draft()
    draft.unmatched += listing.unreadable
    _find_slides(listing, draft)
    outlines = [file for file in listing.files if _ANNOTATIONS in _folders(listing, file)]
    draft.give_outlines(match_outlines(draft, outlines, lambda _: True, (".geojson",)))
    _add_clinical(listing, draft)
    if split is not None:
        _add_split(listing, draft, split)
        draw_validation(draft, validation, seed)
    return draft


def _find_slides(listing: Listing, draft: Draft) -> None:
    names: dict[str, Path] = {}
    for file in slide_files(listing.files):
        folders = _folders(listing, file)
        ours = [name for name in folders if name.startswith(_FOLDER) and name != _ANNOTATIONS]
        if any(name.startswith("WSI_LymphNode") for name in folders) or file.name.startswith("LymphNode"):
            draft.leave_out(file, "slide of a lymph node")
        elif any(name.startswith("TMA_") for name in folders):
            draft.leave_out(file, "tissue microarray")
        elif not ours:
            draft.leave_out(file, f"slide outside of the folders {_FOLDER}*")
        elif not (name := _SLIDE.fullmatch(file.name)):
            draft.leave_out(file, "slide of another name", "due is PrimaryTumor_HE_ and three digits, .svs")
        elif not file.is_file():
            draft.leave_out(file, "link that leads nowhere")
        elif file.stem in names:
            draft.leave_out(file, "second file of a name", f"{names[file.stem]} is taken")
        else:
            names[file.stem] = file
            site = {"site": _site(folders)}
            draft.slides.append(Candidate(path=file, slide_id=file.stem, patient_id=name[1], attributes=site))


def _folders(listing: Listing, file: Path) -> tuple[str, ...]:
    """Return the names of the folders that a file lies in, the root first."""
    return (listing.root.absolute().name, *file.parent.relative_to(listing.root).parts)


def _site(folders: tuple[str, ...]) -> str:
    """Return the site of the innermost folder of one, or what lies right below a folder of all sites."""
    for name in reversed(folders):
        if name.startswith(f"{_FOLDER}_") and name != _ANNOTATIONS:
            return _PART.sub("", name.removeprefix(f"{_FOLDER}_"))
    below = folders[folders.index(_FOLDER) + 1 :] if _FOLDER in folders else ()
    return below[0] if below else ""


def _add_clinical(listing: Listing, draft: Draft) -> None:
    """Give each slide what its patient's records say; the columns that reports look at come first."""
    patients: dict[str, dict[str, str]] = {}
    for source, name in _RECORDS.items():
        file = _only(listing, name)
        if file is None:
            draft.warnings.append(f"there is no {name} below {listing.root}: its columns are missing")
            continue
        for patient, record in _by_patient(file, ()).items():
            add_columns(patients.setdefault(patient, {}), record, source)
    columns = dict.fromkeys(name for attributes in patients.values() for name in attributes)
    ordered = sorted(columns, key=lambda name: (*FIRST_COLUMNS, name).index(name))
    for slide in draft.slides:
        if patients and slide.patient_id not in patients:
            draft.leave_out(slide.path, "without clinical data (taken nevertheless)", f"patient {slide.patient_id}")
        own = patients.get(slide.patient_id, {})
        slide.attributes.update({name: own.get(name, "") for name in ordered})


def _add_split(listing: Listing, draft: Draft, split: str) -> None:
    """Give each slide the part that an official split puts its patient into; without one it is left out."""
    name = SPLITS[split]
    file = _only(listing, name)
    if file is None:
        cure = "Unpack the archive DataSplits_DataDictionaries there, or leave out --split"
        raise CohortError(listing.root, f"there is no {name} below it", cure)
    parts = {patient: str(record["dataset"]) for patient, record in _by_patient(file, ("dataset",)).items()}
    unknown = next((part for part in parts.values() if part not in _OFFICIAL), None)
    if unknown is not None:
        raise CohortError(
            file, f"a patient is in {unknown!r}", f"Take the official file, with {' and '.join(_OFFICIAL)}"
        )
    slides = list[Candidate]()
    for slide in draft.slides:
        if slide.patient_id in parts:
            slides.append(replace(slide, split=_OFFICIAL[parts[slide.patient_id]]))
        else:
            draft.leave_out(slide.path, f"patient is not in {name}", f"patient {slide.patient_id}")
    draft.slides = slides


def draw_validation(draft: Draft, share: float, seed: int) -> None:
    """Move training patients to validation, in each site about the same share.

    Patients are sorted by site, within it by a digest of their name and the seed, and taken at equal distances.

    Parameters
    ----------
    draft
        The cohort, with a split.
    share
        Of the training patients; at least one is moved.
    seed
        Draws them.
    """
    sites = {slide.patient_id: slide.attributes.get("site", "") for slide in draft.slides if slide.split == "train"}
    ranks = {patient: sha256(f"{seed}/{patient}".encode()).digest() for patient in sites}
    ordered = sorted(sites, key=lambda patient: (sites[patient], ranks[patient]))
    count = min(max(round(share * len(ordered)), 1), len(ordered))
    drawn = {ordered[int((at + 0.5) * len(ordered) / count)] for at in range(count)}
    draft.slides = [
        replace(slide, split="validation") if slide.patient_id in drawn else slide for slide in draft.slides
    ]
    draft.warnings.append(
        f"the official split has no validation: {len(drawn)} of {len(sites)} training patients were drawn for it "
        f"(seed {seed})"
    )


def _only(listing: Listing, name: str) -> Path | None:
    """Return the file of a name, None where there is none; of several equal ones the first."""
    files = [file for file in listing.files if file.name == name]
    if any(content_digest(file) != content_digest(files[0]) for file in files[1:]):
        raise CohortError(files[1], f"is another file than {files[0]}", "Remove one of them")
    return files[0] if files else None


def _by_patient(file: Path, keys: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return the record of each patient, whose name has three digits, without the name."""
    records: dict[str, dict[str, Any]] = {}
    for record in read_records(file, ("patient_id", *keys)):
        patient = cell(record["patient_id"]).zfill(3)
        if patient in records:
            raise CohortError(file, f"patient {patient} stands twice", "Unpack the archive again")
        records[patient] = {key: value for key, value in record.items() if key != "patient_id"}
    return records
