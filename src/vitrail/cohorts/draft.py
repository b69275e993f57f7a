"""A cohort on its way from folders to slides.csv: slides that lack their outlines, and what did not match."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pandas as pd

from vitrail.core.files import exporting, not_written, write_csv
from vitrail.errors import CohortError
from vitrail.slides.cohort import CohortSlide, read_cohort, write_cohort

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A slide that may come into a cohort.

    Attributes
    ----------
    path
        The file.
    slide_id, patient_id, split, attributes
        As of `CohortSlide`.
    names
        What files that belong to it may call it, besides its own name, with or without suffix.
    annotations
        Its outlines; None where there are none yet.
    mpp
        um per level-0 pixel, where a table says so.
    """

    path: Path
    slide_id: str
    patient_id: str
    names: tuple[str, ...] = ()
    annotations: Path | None = None
    split: str | None = None
    mpp: float | None = None
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmatched:
    """A file that did not come into a cohort, or came into it without something.

    Attributes
    ----------
    file
        Its path, or what else is missing.
    reason
        Why, in words that all files of that kind share.
    detail
        More of this one.
    """

    file: str
    reason: str
    detail: str = ""


@dataclass(slots=True, kw_only=True)
class Draft:
    """A cohort that is not yet complete.

    Attributes
    ----------
    slides
        What may come into it.
    unmatched
        What does not, and why.
    warnings
        What is to be said of the whole.
    """

    slides: list[Candidate] = field(default_factory=list)
    unmatched: list[Unmatched] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def leave_out(self, file: Path | str, reason: str, detail: str = "") -> None:
        """Note why a file is not in the cohort."""
        self.unmatched.append(Unmatched(file=str(file), reason=reason, detail=detail))

    def give_outlines(self, outlines: dict[Path, Path]) -> None:
        """Give slides their outlines; those without any are left out.

        Parameters
        ----------
        outlines
            Outlines by the path of their slide.
        """
        outlined = list[Candidate]()
        for slide in self.slides:
            if slide.path in outlines:
                outlined.append(replace(slide, annotations=outlines[slide.path]))
            else:
                self.leave_out(slide.path, "no outlines")
        self.slides = outlined


def write_draft(draft: Draft, path: Path, unmatched: Path) -> tuple[CohortSlide, ...]:
    """Write a cohort's slides.csv, read back before it gets its name, and the table of what did not match.

    Parameters
    ----------
    draft
        The cohort; each slide has its outlines.
    path
        Of slides.csv. A file that is there already is never written over, unless it is the same.
    unmatched
        Of the other table, see `write_unmatched`; it is written in any case.

    Returns
    -------
    tuple[CohortSlide, ...]
        The slides, as they are read.

    Raises
    ------
    CohortError
        There is no slide, they are no cohort, or another file is there.
    ExchangeError
        A table cannot be written.
    """
    write_unmatched(draft, unmatched)
    if not draft.slides:
        said = ", ".join(count_reasons(draft.unmatched)) or "the folder holds no slide"
        raise CohortError(path, f"no slide is left to write ({said})", f"See {unmatched}")
    before = path.read_bytes() if path.is_file() else None
    with exporting(path) as temporary:
        write_cohort(temporary, map(_entry, draft.slides))
        try:
            slides = read_cohort(temporary)
        except CohortError as error:
            raise CohortError(path, error.problem, error.cure) from error
        if path.exists() and temporary.read_bytes() != before:
            problem = "is there already, and is another file"
            raise CohortError(path, problem, "Remove it, or name another with --out")
    return slides


def write_unmatched(draft: Draft, path: Path) -> None:
    """Write the table of what did not match, with the columns `reason`, `file` and `detail`.

    Parameters
    ----------
    draft
        The cohort.
    path
        Where to; its folder is made.

    Raises
    ------
    ExchangeError
        It cannot be written.
    """
    rows = sorted((each.reason, each.file, each.detail) for each in draft.unmatched)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_csv(path, pd.DataFrame(rows, columns=["reason", "file", "detail"], dtype=object))
    except OSError as error:
        raise not_written(path, error) from error


def count_reasons(unmatched: Iterable[Unmatched]) -> list[str]:
    """Say how many files each reason holds for, the most frequent first."""
    counts = Counter(each.reason for each in unmatched)
    return [f"{reason} ({count:,})" for reason, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]


def _entry(slide: Candidate) -> CohortSlide:
    if slide.annotations is None:
        raise ValueError(f"{slide.path} has no outlines")
    return CohortSlide(
        slide_id=slide.slide_id,
        patient_id=slide.patient_id,
        slide=slide.path.absolute(),
        annotations=slide.annotations.absolute(),
        split=slide.split,
        mpp=slide.mpp,
        attributes=slide.attributes,
    )
