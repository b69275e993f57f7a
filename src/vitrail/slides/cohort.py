"""The cohort: `slides.csv`, one row a slide.

Columns `slide_id`, `patient_id`, `slide`, `annotations`; optional `split` (train, validation, test) and `mpp` (um per
level-0 pixel, where a header lacks it). Any further column is an attribute. Paths are relative to the file.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from vitrail.errors import CohortError

if TYPE_CHECKING:
    from pathlib import Path

REQUIRED = ("slide_id", "patient_id", "slide", "annotations")
OPTIONAL = ("split", "mpp")
SPLITS = ("train", "validation", "test")
_SAFE_ID = re.compile(r"[^/\\\x00-\x1f]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortSlide:
    """A row of `slides.csv`.

    Attributes
    ----------
    slide_id, patient_id
        Names; the first is unique and fit to be a file name.
    slide, annotations
        Paths, made absolute.
    split
        `train`, `validation`, `test`, or None where it is to be drawn.
    mpp
        um per level-0 pixel, or None where the header tells.
    attributes
        The further columns.
    """

    slide_id: str
    patient_id: str
    slide: Path
    annotations: Path
    split: str | None = None
    mpp: float | None = None
    attributes: dict[str, str] = field(default_factory=dict)


def read_cohort(path: Path) -> tuple[CohortSlide, ...]:
    """Read and check a `slides.csv`; commas or semicolons.

    Raises
    ------
    CohortError
        The file or a column is missing, a cell is empty or wrong, a slide is named twice, a patient is in two splits,
        or only some of the patients have a split.
    """
    rows = _read_table(path)
    records = ({str(name): str(cell) for name, cell in row.items()} for row in rows.to_dict("records"))
    slides = tuple(_slide(path, line, row) for line, row in enumerate(records, start=2))
    _check_ids(path, slides)
    _check_splits(path, slides)
    return slides


def copy_cohort(source: Path, target: Path) -> None:
    """Copy a `slides.csv`, with its relative paths rewritten so that they stay valid beside the copy.

    Raises
    ------
    CohortError
        As `read_cohort`.
    """
    slides, rows = read_cohort(source), _read_table(source)
    for column in ("slide", "annotations"):
        rows[column] = [
            given if os.path.isabs(given) else os.path.relpath(getattr(slide, column), target.resolve().parent)  # noqa: PTH117 - the text as given
            for given, slide in zip(rows[column], slides, strict=True)
        ]
    rows.to_csv(target, index=False)


def file_digest(path: Path) -> str:
    """Digest a file's size, first and last MiB and name, and the sizes of the files of a multi-file slide beside it.

    Slides are gigabytes and are never edited in place: their ends, where headers and directories live, tell two apart.
    A missing file has the digest `missing`.
    """
    if not path.is_file():
        return "missing"
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        digest.update(f"{size}".encode() + file.read(_MIB))
        file.seek(max(size - _MIB, 0))
        digest.update(file.read(_MIB))
    companions = path.with_suffix("")
    for part in sorted(companions.iterdir()) if companions.is_dir() else ():
        digest.update(f"{part.name}:{part.stat().st_size};".encode())
    return digest.hexdigest()


_MIB = 1 << 20


def _read_table(path: Path) -> pd.DataFrame:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise CohortError(path, "no such file", f"Write one with the columns {', '.join(REQUIRED)}") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise CohortError(path, "not a text file", "Save the table as CSV in UTF-8") from None
    header, *rows = list(csv.reader(text.splitlines(), delimiter=_separator(text))) or [[]]
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            problem = f"row {number} has {len(row)} cells, and the header has {len(header)}"
            raise CohortError(path, problem, "Give every row as many cells as the header")
    return _checked_columns(path, pd.DataFrame(rows, columns=[name.strip() for name in header], dtype=str))


def _separator(text: str) -> str:
    """Tell a spreadsheet's semicolons from commas."""
    header = text.partition("\n")[0]
    return ";" if ";" in header and "," not in header else ","


def _checked_columns(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    missing = [name for name in REQUIRED if name not in rows]
    if missing:
        found = ", ".join(map(str, rows.columns))
        raise CohortError(path, f"column {', '.join(missing)} is missing (found: {found})", "Add it to the header")
    if rows.empty:
        raise CohortError(path, "no slides", "Add a row for each slide")
    for name in rows:
        rows[name] = rows[name].str.strip()
    return rows


def _slide(path: Path, line: int, row: dict[str, str]) -> CohortSlide:
    where = f"{path}, line {line}"
    for name in REQUIRED:
        if not row[name]:
            raise CohortError(where, f"{name} is empty", "Fill it in, or remove the row")
    if not _SAFE_ID.fullmatch(row["slide_id"]) or row["slide_id"].startswith("."):
        raise CohortError(where, f"slide_id {row['slide_id']!r} cannot be a file name", "Use letters, digits, - and _")
    return CohortSlide(
        slide_id=row["slide_id"],
        patient_id=row["patient_id"],
        slide=(path.parent / row["slide"]).resolve(),
        annotations=(path.parent / row["annotations"]).resolve(),
        split=_split(where, row.get("split", "")),
        mpp=_mpp(where, row.get("mpp", "")),
        attributes={name: cell for name, cell in row.items() if name not in REQUIRED + OPTIONAL},
    )


def _split(where: str, text: str) -> str | None:
    if text and text not in SPLITS:
        raise CohortError(where, f"split {text!r} is unknown", f"Write {', '.join(SPLITS)}, or leave the column out")
    return text or None


def _mpp(where: str, text: str) -> float | None:
    try:
        mpp = float(text) if text else None
    except ValueError:
        mpp = -1.0
    if mpp is not None and not 0.01 < mpp < 100:  # noqa: PLR2004 - no microscope is outside
        raise CohortError(where, f"mpp {text!r} is no pixel size", "Give um per level-0 pixel, such as 0.25")
    return mpp


def _check_ids(path: Path, slides: tuple[CohortSlide, ...]) -> None:
    seen: set[str] = set()
    for slide in slides:
        if slide.slide_id.lower() in seen:
            raise CohortError(path, f"slide_id {slide.slide_id} stands twice", "Give every slide a name of its own")
        seen.add(slide.slide_id.lower())


def _check_splits(path: Path, slides: tuple[CohortSlide, ...]) -> None:
    splits: dict[str, set[str | None]] = {}
    for slide in slides:
        splits.setdefault(slide.patient_id, set()).add(slide.split)
    for patient, given in splits.items():
        if len(given) > 1:
            names = " and ".join(sorted(name or "no split" for name in given))
            raise CohortError(path, f"patient {patient} is in {names}", "Keep all slides of a patient in one split")
    given = set().union(*splits.values())
    if None in given and len(given) > 1:
        raise CohortError(
            path, "some patients have a split and some have none", "Fill the column split, or leave it out"
        )
    if given != {None} and given != set(SPLITS):
        raise CohortError(path, f"no patient is in {', '.join(sorted(set(SPLITS) - given))}", "Fill all three splits")
