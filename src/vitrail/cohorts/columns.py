"""Columns of slides.csv from clinical data: JSON records, and tables joined by slide or patient."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vitrail.classes import SPLITS
from vitrail.core.files import read_regular
from vitrail.errors import CohortError
from vitrail.slides.cohort import OPTIONAL, REQUIRED, RESERVED, table_rows
from vitrail.slides.names import slide_stem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from vitrail.cohorts.draft import Draft

SLIDE_COLUMNS = ("slide_id", "slide", "file_name", "filename", "file", "image")
PATIENT_COLUMNS = ("patient_id", "patient", "case_submitter_id", "cases.submitter_id", "submitter_id",
                   "bcr_patient_barcode", "subject", "case_id", "case")  # fmt: skip
"""What tables call slides and patients, the preferred first; letter case, and a blank for `_`, do not matter."""

_UNKNOWN = {"'--", "[Not Available]"}
"""What the GDC and TCGA write for what they do not know."""

_MEANT = {*REQUIRED, *OPTIONAL}
_TABLE = "Name a table with a column slide_id or patient_id"


def cell(value: Any) -> str:
    """Return a value of JSON as a cell of a table, in one line; null is empty.

    Parameters
    ----------
    value
        As JSON has it.

    Returns
    -------
    str
        Text as it is, numbers and lists as JSON writes them, a number without decimals as a whole one.
    """
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "" if text in _UNKNOWN else _one_line(text)


def column_name(name: str, source: str) -> str:
    """Return the name that an attribute has in slides.csv.

    Parameters
    ----------
    name
        As its source calls it.
    source
        What is set before a name that has a meaning of its own there, or in a run's tables.

    Returns
    -------
    str
        The name, or `source_name`.
    """
    name = _one_line(name)
    return f"{source}_{name}" if name.lower() in _MEANT or name in RESERVED else name


def _one_line(text: str) -> str:
    """Return a text in one line, without what no file can hold."""
    return " ".join(text.encode(errors="replace").decode().replace("\0", " ").split())


def read_records(path: Path, keys: Iterable[str]) -> list[dict[str, Any]]:
    """Read a list of JSON objects.

    Parameters
    ----------
    path
        The file.
    keys
        Those that each object must have.

    Returns
    -------
    list[dict[str, Any]]
        The objects.

    Raises
    ------
    CohortError
        The file cannot be read, or is no such list.
    """
    cure = "Unpack the archive again"
    try:
        records = json.loads(read_regular(path, CohortError, cure))
    except (ValueError, RecursionError) as error:
        raise CohortError(path, f"not valid JSON ({str(error)[:100]})", cure) from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise CohortError(path, "no list of records", cure)
    for number, record in enumerate(records):
        missing = [key for key in keys if key not in record]
        if missing:
            raise CohortError(path, f"record {number} (counted from 0) has no {missing[0]}", cure)
    return records


def join_table(draft: Draft, path: Path) -> None:
    """Add the columns of a table to slides.

    Rows are joined by a column of slides (`SLIDE_COLUMNS`), a name or a path with or without its suffix, or else by one
    of patients (`PATIENT_COLUMNS`); a row that only repeats another one counts once. Where a table has both, its
    patients win over those of the draft. A column `split` or `mpp` is that of slides.csv; its paths are not read. Rows
    that match nothing and slides without a row are noted.

    Parameters
    ----------
    draft
        The cohort.
    path
        The table.

    Raises
    ------
    CohortError
        It is no table, names neither slides nor patients, says two things of one, or has a wrong split.
    """
    header, lines = table_rows(path, _TABLE)
    folded = {name.casefold().replace(" ", "_"): name for name in reversed(header)}
    by_slide, by_patient = (
        next((folded[name] for name in names if name in folded), None) for names in (SLIDE_COLUMNS, PATIENT_COLUMNS)
    )
    key = by_slide or by_patient
    if key is None:
        raise CohortError(path, f"no column of slides or patients (its columns: {', '.join(header)[:200]})", _TABLE)
    rows: dict[str, tuple[int, dict[str, str]]] = {}
    for line, row in lines:
        name = slide_stem(row[key]) if by_slide else row[key].casefold()
        if name in rows and row == rows[name][1]:
            continue
        if name in rows:
            cure = f"Leave one row a {'slide' if by_slide else 'patient'}"
            raise CohortError(f"{path}, line {line}", f"{row[key]} stands in line {rows[name][0]}, too", cure)
        if row.get("split", "") not in {"", *SPLITS}:
            cure = f"Write {', '.join(SPLITS)}, or rename the column"
            raise CohortError(f"{path}, line {line}", f"split {row['split']!r} is unknown", cure)
        if name:
            rows[name] = line, row
    apart = {by_slide, by_patient, *REQUIRED, *OPTIONAL}
    own = {column_name(name, path.stem): name for name in header if name not in apart}
    used, joined = set[str](), []
    for slide in draft.slides:
        names = [slide_stem(each) for each in (slide.path.name, slide.slide_id, *slide.names)]
        names = names if by_slide else [slide.patient_id.casefold()]
        name = next((name for name in names if name in rows), "")
        line, row = rows.get(name, (0, {}))
        if not name:
            draft.leave_out(slide.path, f"without a row in {path.name} (taken nevertheless)")
        else:
            used.add(name)
        mpp = _number(path, line, row["mpp"]) if row.get("mpp") else slide.mpp
        joined.append(
            replace(
                slide,
                patient_id=(by_slide and by_patient and row.get(by_patient)) or slide.patient_id,
                split=row.get("split") or slide.split,
                mpp=mpp,
                attributes=slide.attributes | {title: cell(row.get(column, "")) for title, column in own.items()},
            )
        )
    draft.slides = joined
    for name, (line, row) in rows.items():
        if name not in used:
            draft.leave_out(f"{path}, line {line}", f"row of {path.name} without a slide", row[key])


def add_columns(attributes: dict[str, str], record: Mapping[str, Any], source: str) -> None:
    """Add the values of a record to attributes; a name that is there already gets its source before it."""
    for key, value in record.items():
        name = column_name(key, source)
        attributes[f"{source}_{name}" if name in attributes else name] = cell(value)


def _number(path: Path, line: int, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        cure = "Give um per level-0 pixel, such as 0.25"
        raise CohortError(f"{path}, line {line}", f"mpp {text!r} is no pixel size", cure) from None
