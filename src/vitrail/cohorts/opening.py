"""A look into every slide and every file of outlines of a cohort, before a study stumbles over them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitrail.cohorts.draft import Candidate, Draft
from vitrail.core.progress import Silent
from vitrail.core.threads import map_in_threads
from vitrail.errors import AnnotationError, SlideError
from vitrail.slides.annotations import names_found
from vitrail.slides.slide import open_slide

if TYPE_CHECKING:
    from vitrail.core.progress import Progress

_ANY_MPP = 1.0
"""Stands in for a scale that a header lacks, to tell a slide without one from a broken one."""

BROKEN_SLIDE, BROKEN_OUTLINES = "broken slide", "outlines that cannot be read"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What one slide and its outlines turned out to be; empty texts are no problem."""

    slide: str = ""
    without_mpp: str = ""
    outlines: str = ""
    classes: tuple[tuple[str, int], ...] = ()


def open_all(draft: Draft, progress: Progress | None = None) -> Counter[str]:
    """Open every slide and all outlines, and leave out what cannot be opened.

    Of a slide its header is read, never its label or macro image.

    Parameters
    ----------
    draft
        The cohort; each slide has its outlines.
    progress
        Told of every slide.

    Returns
    -------
    Counter[str]
        In how many files each class of outlines is; under the empty name, how many hold none with a class.
    """
    slides, opened = draft.slides, list[Candidate]()
    files: Counter[str] = Counter()
    with (progress or Silent()).task("open", len(slides)) as step:
        for slide, look in zip(slides, map_in_threads(_look_at, slides), strict=True):
            step()
            if look.slide:
                draft.leave_out(slide.path, BROKEN_SLIDE, look.slide)
            if look.outlines:
                draft.leave_out(str(slide.annotations), BROKEN_OUTLINES, look.outlines)
            if look.slide or look.outlines:
                continue
            if look.without_mpp:
                draft.leave_out(slide.path, "slide without um per pixel (taken nevertheless)", look.without_mpp)
            files.update([name for name, _ in look.classes] or [""])
            opened.append(slide)
    draft.slides = opened
    return files


def _look_at(slide: Candidate) -> _Look:
    problem = without_mpp = ""
    try:
        open_slide(slide.path, mpp=slide.mpp)
    except SlideError as error:
        try:
            open_slide(slide.path, mpp=slide.mpp, fallback_mpp=_ANY_MPP)
            without_mpp = f"{error.problem}. {error.cure}"
        except SlideError:
            problem = error.problem
    try:
        classes = names_found(slide.annotations, (slide.path,)) if slide.annotations else {}
    except AnnotationError as error:
        return _Look(slide=problem, without_mpp=without_mpp, outlines=error.problem)
    return _Look(slide=problem, without_mpp=without_mpp, classes=tuple(classes.items()))
