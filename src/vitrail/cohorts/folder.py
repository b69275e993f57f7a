"""Any folder of slides: patients and sites by patterns or a table, outlines by name."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from vitrail.cohorts.columns import join_table
from vitrail.cohorts.draft import Candidate, Draft
from vitrail.cohorts.listing import Listing, list_files, slide_files
from vitrail.cohorts.matching import MASKS, SlideNames, names_for, without_uuid
from vitrail.cohorts.tcga import short_names
from vitrail.errors import SettingsError

_PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
_LONGEST_ID = 100
_UNSAFE = re.compile(r"[/\\\x00-\x1f]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderRules:
    """How the slides of a folder are read.

    Attributes
    ----------
    annotations
        Where their outlines are; None looks among the slides.
    masks
        Where masks are, which are not taken for slides.
    patient, site
        Regular expressions, searched in a slide's path below the folder, with `/` between its parts; a group of that
        name, the first group or else all that matches is taken. Without one each slide is a patient of its own, and
        there is no site.
    metadata
        A table to join, see `join_table`.
    """

    annotations: Path | None = None
    masks: Path | None = None
    patient: str | None = None
    site: str | None = None
    metadata: Path | None = None


def read_folder(folder: Path, rules: FolderRules) -> tuple[Draft, Listing]:
    """List the slides of a folder with their patients; they have no outlines yet.

    Parameters
    ----------
    folder
        Where the slides are, at any depth.
    rules
        How it is read.

    Returns
    -------
    tuple[Draft, Listing]
        The cohort, and where its outlines may be.

    Raises
    ------
    CohortError
        There is no such folder, or the table is wrong.
    SettingsError
        A pattern is no regular expression.
    """
    patterns = {"patient": _pattern("patient", rules.patient), "site": _pattern("site", rules.site)}
    listing, draft = list_files(folder), Draft()
    outlined = listing if rules.annotations is None else list_files(rules.annotations)
    draft.unmatched += dict.fromkeys((*listing.unreadable, *outlined.unreadable))
    apart = _below(listing.root, [path for path in (rules.masks, rules.annotations) if path is not None])
    slides = slide_files(file for file in listing.files if not any(file.is_relative_to(each) for each in apart))
    for file, slide_id in _slide_ids(listing.root, slides).items():
        path = file.relative_to(listing.root).as_posix()
        patient, site = (_search(pattern, key, path) for key, pattern in patterns.items())
        if not file.is_file():
            draft.leave_out(file, "link that leads nowhere")
        elif patterns["patient"] and not patient:
            draft.leave_out(file, "no patient", f"--patient matches nothing in {path}")
        else:
            attributes = {"site": site} if patterns["site"] else {}
            names = [without_uuid(file.stem), *short_names(file.stem)]
            if file.suffix.lower() == ".dcm" and slide_id == file.parent.name:
                names.append(slide_id)
            draft.slides.append(
                Candidate(
                    path=file,
                    slide_id=slide_id,
                    patient_id=patient or slide_id,
                    names=tuple(names),
                    attributes=attributes,
                )
            )
    _drop_masks(draft)
    for file in listing.files:
        if file.suffix.lower() in _PICTURES and not any(file.is_relative_to(each) for each in apart):
            draft.leave_out(file, "picture, not a slide", "save it as a tiled TIFF if it is one")
    if patterns["site"] and (unnamed := sum(not slide.attributes["site"] for slide in draft.slides)):
        draft.warnings.append(f"{unnamed} slides have no site: --site matches nothing in their paths")
    by_slide = {slide.path: slide.patient_id for slide in draft.slides}
    if rules.metadata is not None:
        join_table(draft, rules.metadata)
    if not rules.patient and all(by_slide[slide.path] == slide.patient_id for slide in draft.slides):
        draft.warnings.append(
            "each slide counts as a patient of its own; where patients have several slides, say who with --patient or "
            "--metadata, or the same patient comes to be in training and test"
        )
    return draft, outlined


def _pattern(option: str, text: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(text) if text else None
    except re.error as error:
        cure = r"Write one such as (?P<patient>P\d+)"
        raise SettingsError(f"--{option}", f"{text!r} is no regular expression ({error})", cure) from error


def _search(pattern: re.Pattern[str] | None, name: str, text: str) -> str:
    """Return the group of a name, the first group, or all that matches; empty where nothing does."""
    match = pattern.search(text) if pattern else None
    if match is None:
        return ""
    group = match[name] if name in match.re.groupindex else match[1 if match.re.groups else 0]
    return " ".join((group or "").split())


def _below(root: Path, folders: list[Path]) -> list[Path]:
    """Return folders as the listing of a root names what lies in them; those elsewhere, and the root, are left out."""
    real = Path(os.path.realpath(root))
    paths = [Path(os.path.realpath(folder)) for folder in folders]
    return [root / path.relative_to(real) for path in paths if path != real and path.is_relative_to(real)]


def _slide_ids(root: Path, slides: dict[Path, tuple[Path, ...]]) -> dict[Path, str]:
    """Name slides by their files, those of one name by their folders, too, a series of DICOM files by its folder."""
    of_series = Counter(file.parent for file in slides if file.suffix.lower() == ".dcm")
    names: dict[Path, str] = {}
    for file in slides:
        alone = file.suffix.lower() == ".dcm" and of_series[file.parent] == 1 and file.parent != root
        names[file] = file.parent.name if alone else file.stem
    shared = Counter(name.casefold() for name in names.values())
    ids, taken = dict[Path, str](), set[str]()
    for file, name in names.items():
        path = file.relative_to(root)
        own = name if shared[name.casefold()] == 1 else "_".join((*path.parent.parts, name))
        own = _UNSAFE.sub("_", own).lstrip(".").strip()
        if len(own) > _LONGEST_ID or len(own.encode()) > 2 * _LONGEST_ID or own.casefold() in taken or not own:
            own = f"{own[:40]}-{sha256(path.as_posix().encode(errors='surrogateescape')).hexdigest()[:12]}"
        taken.add(own.casefold())
        ids[file] = own
    return ids


def _drop_masks(draft: Draft) -> None:
    """Leave out what looks like a mask of another slide: `S1_mask.tif` beside `S1.svs`."""
    names, slides = SlideNames(draft.slides), list[Candidate]()
    for slide in draft.slides:
        shorter = names_for(slide.path, MASKS)[1:] if slide.path.suffix.lower() in MASKS else []
        _, owners = names.find(shorter, slide.path)
        if owners:
            detail = f"of {owners[0].path}; --masks FOLDER makes outlines of masks"
            draft.leave_out(slide.path, "mask of another slide", detail)
        else:
            slides.append(slide)
    draft.slides = slides
