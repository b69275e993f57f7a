"""The cohort: `slides.csv`, one row a slide.

Columns `slide_id`, `patient_id`, `slide`, `annotations`; optional `split` (train, validation, test) and `mpp` (um per
level-0 pixel, for a slide whose header lacks it or is wrong: it wins over the header). Any further column is an
attribute. Paths are relative to the file; links are not followed, so that names stay those of the table.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.classes import SPLITS
from vitrail.core import digest
from vitrail.core.files import read_regular, write_text
from vitrail.core.shown import Shown
from vitrail.errors import CohortError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

REQUIRED = ("slide_id", "patient_id", "slide", "annotations")
OPTIONAL = ("split", "mpp")
RESERVED = frozenset(
    {"tumor_tiles", "non_tumor_tiles", "skipped", "warnings", "digest", "reason"}
    | {"label", "x", "y", "side", "tumor", "non_tumor", "other", "background"}
    | {"classifier", "classifier_logit", "segmenter", "pixels"}
)
"""Columns of a run's own tables: an attribute of that name would be taken for them."""

_MOST_BYTES = 16 << 20
"""Of a table: fifty thousand slides and more."""

_MIB = 1 << 20
_BLOCKS, _BLOCK = 16, 1 << 16
"""What is sampled of a slide's file."""

_LONGEST_ID = 100
_SAFE_ID = re.compile(r"[^/\\\x00-\x1f]+")
_UNFIT_FOR_WINDOWS = re.compile(
    r"""[<>:"|?*] | [. ]\Z | \A(CON|PRN|AUX|NUL|COM[0-9¹²³]|LPT[0-9¹²³])[ ]*(\.|\Z)""", re.IGNORECASE | re.VERBOSE
)
"""Names that Windows keeps for itself, as Microsoft's "Naming Files, Paths, and Namespaces" lists them."""
_IS_WINDOWS = os.name == "nt"


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortSlide:
    """A row of `slides.csv`.

    Attributes
    ----------
    slide_id, patient_id
        Names; the first is unique and fit to be a file name.
    slide, annotations
        Paths, made absolute; a link stays the link.
    split
        `train`, `validation`, `test`, or None where it is to be drawn.
    mpp
        um per level-0 pixel, which wins over the header; None where the header tells.
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


class Cohort(tuple[CohortSlide, ...], Shown):
    """The slides of a cohort, in the order of their rows."""

    __slots__ = ()

    def __repr__(self) -> str:
        patients = len({slide.patient_id for slide in self})
        slides = "1 slide" if len(self) == 1 else f"{len(self)} slides"
        return f"<Cohort: {slides} of {patients} {'patient' if patients == 1 else 'patients'}>"

    def table(self) -> pd.DataFrame:
        """Return the cohort as a table.

        Returns
        -------
        pd.DataFrame
            A row a slide: `slide_id`, `patient_id`, `split`, `mpp`, `slide` and `annotations` (absolute paths), and
            the further columns of `slides.csv`, as text.
        """
        import pandas as pd  # noqa: PLC0415 - only who asks for a table waits for it

        names = ("slide_id", "patient_id", "split", "mpp", "slide", "annotations")
        rows = [{name: getattr(slide, name) for name in names} | slide.attributes for slide in self]
        return pd.DataFrame(rows, columns=None if rows else list(names))


def read_cohort(path: str | Path) -> Cohort:
    """Read and check a `slides.csv`; separated by commas, semicolons or tabs.

    Letter case does not matter in the names of the columns that have a meaning. Columns and rows without any text are
    left out.

    Parameters
    ----------
    path
        The table.

    Returns
    -------
    Cohort
        A tuple of `CohortSlide`, one for each row, in their order.

    Raises
    ------
    CohortError
        The file cannot be read or is no table, a column is missing, there twice, without a name or named like one of a
        run's own tables, a cell is empty or wrong, a name or a slide is there twice, patients differ by letter case
        alone, a patient is in two splits, or only some of the patients have a split.
    """
    path = Path(path)
    slides = Cohort(_slide(path, line, row) for line, row in _read_rows(path))
    repeated = _first_repeated(slide.slide_id.casefold() for slide in slides)
    if repeated:
        name = [slide.slide_id for slide in slides if slide.slide_id.casefold() == repeated][-1]
        raise CohortError(path, f"slide_id {name} stands twice", "Give every slide a name of its own")
    patients = {slide.patient_id: slide.patient_id.casefold() for slide in slides}
    alike = _first_repeated(patients.values())
    if alike:
        names = " and ".join(name for name, folded in patients.items() if folded == alike)
        raise CohortError(path, f"patients {names} differ by letter case alone", "Write a patient in one way")
    files: dict[str, str] = {}
    splits: dict[str, set[str | None]] = {}
    for slide in slides:
        # One slide under two names could come to be in training and test.
        first = files.setdefault(os.path.realpath(slide.slide), slide.slide_id)
        if first != slide.slide_id:
            problem = f"slides {first} and {slide.slide_id} are the same file {slide.slide.name}"
            raise CohortError(path, problem, "Remove one of the two rows, or correct its slide")
        splits.setdefault(slide.patient_id, set()).add(slide.split)
    for patient, own in splits.items():
        if len(own) > 1:
            names = " and ".join(sorted(name or "no split" for name in own))
            raise CohortError(path, f"patient {patient} is in {names}", "Keep all slides of a patient in one split")
    used = set().union(*splits.values())
    if None in used and len(used) > 1:
        cure = "Fill the column split, or leave it out"
        raise CohortError(path, "some patients have a split and some have none", cure)
    if used != {None} and used != set(SPLITS):
        raise CohortError(path, f"no patient is in {', '.join(sorted(set(SPLITS) - used))}", "Fill all three splits")
    return slides


def copy_cohort(source: Path, target: Path) -> None:
    """Copy a `slides.csv`, with its relative paths rewritten so that they stay valid beside the copy.

    Where the target is the source itself, or is such a copy already, it is left as it is.

    Parameters
    ----------
    source
        The table.
    target
        Where to; it is written whole or not at all, and over no other file.

    Raises
    ------
    CohortError
        As `read_cohort`; or the target is there and is another file.
    """
    slides, rows = read_cohort(source), [row for _, row in _read_rows(source)]
    if target.exists() and target.samefile(source):
        return
    for slide, row in zip(slides, rows, strict=True):
        for column, file in (("slide", slide.slide), ("annotations", slide.annotations)):
            if not Path(row[column]).is_absolute():
                row[column] = _relative(file, target.parent)
    text = _csv_text(rows)
    if not target.exists():
        write_text(target, text)
    elif not target.is_file() or target.read_bytes() != text.encode():
        raise CohortError(target, "is there already, and is another file", "Remove it, or name another folder")


def write_cohort(path: Path, slides: Iterable[CohortSlide]) -> None:
    """Write a `slides.csv` that `read_cohort` reads back; its paths are absolute.

    Parameters
    ----------
    path
        Where to; it is written whole or not at all.
    slides
        The rows.
    """
    rows = [
        {"slide_id": each.slide_id, "patient_id": each.patient_id, "slide": str(each.slide)}
        | {"annotations": str(each.annotations)}
        | ({"split": each.split} if each.split else {})
        | ({} if each.mpp is None else {"mpp": repr(each.mpp)})
        | each.attributes
        for each in slides
    ]
    write_text(path, _csv_text(rows))


def _csv_text(rows: list[dict[str, str]]) -> str:
    """Return rows as CSV; a cell that only other rows have is empty."""
    table = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(table, fieldnames=names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def _relative(file: Path, folder: Path) -> str:
    """Return a path as it is seen from a folder; a whole one where no way leads there, as between drives of Windows."""
    try:
        return os.path.relpath(file, os.path.realpath(folder))
    except ValueError:
        return str(file)


def file_digest(path: Path) -> str:
    """Digest a slide by samples: its size, its first and last MiB and 16 blocks of 64 KiB spread evenly between.

    Slides are gigabytes, too large to be read whole each time. Another scan, or a slide written anew, differs in its
    samples; a change of a few bytes in the midst of a large file would not be seen. Of a slide of many files (.mrxs,
    .vms, .vmu: those in the folder of the same stem; .dcm: those of that suffix beside it) names and sizes count too.

    Parameters
    ----------
    path
        The slide.

    Returns
    -------
    str
        A SHA-256; `missing` where there is no such file, `unreadable` where it cannot be read.
    """
    sha = hashlib.sha256()
    try:
        if not path.is_file():
            return "missing"
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            sha.update(f"{size};".encode())
            blocks = [(size * block // (_BLOCKS + 1), _BLOCK) for block in range(1, _BLOCKS + 1)]
            for start, length in ((0, _MIB), *blocks, (max(size - _MIB, 0), _MIB)):
                file.seek(start)
                sha.update(file.read(length))
        suffix, companions = path.suffix.lower(), list[Path]()
        if suffix in {".mrxs", ".vms", ".vmu"} and path.with_suffix("").is_dir():
            companions = list(path.with_suffix("").iterdir())
        elif suffix == ".dcm":
            companions = [part for part in path.parent.iterdir() if part.suffix.lower() == suffix]
        for part in sorted(part for part in companions if part.is_file()):
            sha.update(f"{part.name}:{part.stat().st_size};".encode())
    except OSError:
        return "unreadable"  # whoever needs the file says why
    return sha.hexdigest()


def content_digest(path: Path) -> str:
    """Digest every byte of a file, for outlines and weights.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    str
        A SHA-256; `missing` where there is no such file, `unreadable` where it cannot be read.
    """
    try:
        return digest.file_digest(path) if path.is_file() else "missing"
    except OSError:
        return "unreadable"  # whoever needs the file says why


def table_rows(path: Path, cure: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Read a table separated by commas, semicolons or tabs.

    Columns and rows without any text are left out. Letter case does not matter in the names of the columns of
    `slides.csv` that have a meaning.

    Parameters
    ----------
    path
        The table, in UTF-8, of at most 16 MiB.
    cure
        What to do where it is no file, for the error's message.

    Returns
    -------
    tuple[list[str], list[tuple[int, dict[str, str]]]]
        The columns; and of each row the number of its line, counted from 1, and its cells by column.

    Raises
    ------
    CohortError
        The file cannot be read or is no table, or a column is there twice or has cells but no name.
    """
    try:
        text = read_regular(path, CohortError, cure, _MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise CohortError(path, "not a text in UTF-8", "Save the table as CSV in UTF-8")
    separator = max(",;\t", key=text.lstrip().partition("\n")[0].count)  # spreadsheets write semicolons and tabs, too
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows, line = list[tuple[int, list[str]]](), 1
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise CohortError(f"{path}, line {line}", f"no CSV ({error})", "Check its quotation marks") from error
    header = [name.lower() if name.lower() in REQUIRED + OPTIONAL else name for name in (rows[0][1] if rows else [])]
    for line, row in rows[1:]:
        if len(row) != len(header):
            problem = f"{len(row)} cells, where the header has {len(header)}"
            raise CohortError(f"{path}, line {line}", problem, "Give every row as many cells as the header")
    columns = {i: name for i, name in enumerate(header) if name or any(row[i] for _, row in rows[1:])}
    repeated = _first_repeated(columns.values())
    if repeated:
        raise CohortError(path, f"column {repeated} is there twice", "Remove or rename one of them")
    if "" in columns.values():
        raise CohortError(path, f"column {header.index('') + 1} has cells but no name", "Name it in the header")
    return [*columns.values()], [(line, {name: row[i] for i, name in columns.items()}) for line, row in rows[1:]]


def _read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a slides.csv, each with the number of its line."""
    header, rows = table_rows(path, f"Write a table with the columns {', '.join(REQUIRED)}")
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        problem = f"column {', '.join(missing)} is missing (found: {', '.join(header)})"
        raise CohortError(path, problem, "Add it to the header")
    reserved = [name for name in header if name in RESERVED]
    if reserved:
        raise CohortError(path, f"column {reserved[0]} is named like one of a run's own tables", "Rename the column")
    if not rows:
        raise CohortError(path, "no slides", "Add a row for each slide")
    return rows


def _first_repeated(names: Iterable[str]) -> str:
    """Return the first name that is there more than once; empty where none is."""
    return next((name for name, count in Counter(names).items() if name and count > 1), "")


def _slide(path: Path, line: int, row: dict[str, str]) -> CohortSlide:
    where = f"{path}, line {line}"
    for name in REQUIRED:
        if not row[name]:
            raise CohortError(where, f"{name} is empty", "Fill it in, or remove the row")
    slide_id, split, text = row["slide_id"], row.get("split", ""), row.get("mpp", "")
    if not _SAFE_ID.fullmatch(slide_id) or slide_id.startswith("."):
        raise CohortError(where, f"slide_id {slide_id!r} cannot be a file name", "Use letters, digits, - and _")
    if _IS_WINDOWS and _UNFIT_FOR_WINDOWS.search(slide_id):
        problem = f"slide_id {slide_id!r} cannot be a file name on Windows"
        raise CohortError(where, problem, "Use letters, digits, - and _, and no device's name such as CON or NUL")
    if len(slide_id) > _LONGEST_ID or len(slide_id.encode()) > 2 * _LONGEST_ID:
        raise CohortError(where, f"slide_id {slide_id[:20]}... is too long", f"Use at most {_LONGEST_ID} characters")
    if split and split not in SPLITS:
        raise CohortError(where, f"split {split!r} is unknown", f"Write {', '.join(SPLITS)}, or leave the column out")
    try:
        mpp = float(text) if text else None
    except ValueError:
        mpp = -1.0
    if mpp is not None and not 0.01 < mpp < 100:
        raise CohortError(where, f"mpp {text!r} is no pixel size", "Give um per level-0 pixel, such as 0.25")
    # A link that a path ends in stays, for its own name and suffix tell what it is.
    files = [path.parent / row[column] for column in ("slide", "annotations")]
    slide, annotations = (Path(os.path.realpath(file.parent)) / file.name for file in files)
    return CohortSlide(
        slide_id=slide_id,
        patient_id=row["patient_id"],
        slide=slide,
        annotations=annotations,
        split=split or None,
        mpp=mpp,
        attributes={name: cell for name, cell in row.items() if name not in REQUIRED + OPTIONAL},
    )
