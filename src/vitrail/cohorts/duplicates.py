"""Slides that are there twice: the same bytes under two names would come to be in training and test."""

from __future__ import annotations

from filecmp import cmp
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.core.progress import Silent
from vitrail.slides.cohort import file_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from vitrail.cohorts.draft import Draft
    from vitrail.core.progress import Progress

_OF_ONE_PATIENT = "duplicate of another slide"
_OF_TWO_PATIENTS = "duplicate of a slide of another patient"


def drop_duplicates(draft: Draft, progress: Progress | None = None) -> None:
    """Leave out slides whose bytes another slide has, too.

    Only files of one size are looked into, first at samples of each and then, where those are equal, at every byte. The
    first stays.

    Parameters
    ----------
    draft
        The cohort.
    progress
        Told of how many files are looked into.
    """
    slides = {slide.path: slide for slide in sorted(draft.slides, key=lambda each: each.path)}
    by_size = _alike(slides, _size)
    copies: dict[Path, Path] = {}
    with (progress or Silent()).task("same size", sum(map(len, by_size))) as step:
        for of_one_size in by_size:
            for sampled in _alike(of_one_size, file_digest):
                originals = list[Path]()
                for path in sampled:
                    original = next((each for each in originals if _same_bytes(each, path)), None)
                    if original is None:
                        originals.append(path)
                    else:
                        copies[path] = original
            step(len(of_one_size))
    for path, original in copies.items():
        slide, one_patient = slides[path], slides[path].patient_id == slides[original].patient_id
        draft.leave_out(path, _OF_ONE_PATIENT if one_patient else _OF_TWO_PATIENTS, f"of {original}")
        if slide.annotations is not None:
            draft.leave_out(slide.annotations, "outlines of a duplicate")
    doubtful = sum(slides[path].patient_id != slides[original].patient_id for path, original in copies.items())
    if doubtful:
        draft.warnings.append(f"{doubtful} slides are the same as one of another patient: it is unclear whose they are")
    draft.slides = [slide for slide in draft.slides if slide.path not in copies]


def _alike(paths: Iterable[Path], key: Callable[[Path], Hashable]) -> list[list[Path]]:
    """Return the groups of two and more that share a key; None is shared by none."""
    groups: dict[Hashable, list[Path]] = {}
    for path in paths:
        groups.setdefault(key(path), []).append(path)
    return [group for shared, group in groups.items() if len(group) > 1 and shared is not None]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None  # whoever needs the file says why


def _same_bytes(one: Path, other: Path) -> bool:
    """Compare every byte, also of the files in the folders of slides that have one."""
    try:
        if one.samefile(other):
            return True
        if not cmp(one, other, shallow=False):
            return False
        folders = [path.with_suffix("") for path in (one, other)]
        if not all(folder.is_dir() for folder in folders):
            return True
        parts = [sorted(part for part in folder.iterdir() if part.is_file()) for folder in folders]
        if len(parts[0]) != len(parts[1]):
            return False
        return all(cmp(first, second, shallow=False) for first, second in zip(*parts, strict=True))
    except OSError:
        return False
