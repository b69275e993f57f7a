"""The outlines of a slide of a cohort, as a study takes them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vitrail.slides.annotations import ClassNames, read_annotations
from vitrail.tiles.unlabelled import with_unlabelled

if TYPE_CHECKING:
    from vitrail.settings.load import Settings
    from vitrail.slides.annotations import Annotations
    from vitrail.slides.cohort import CohortSlide
    from vitrail.slides.slide import Slide

IGNORED = "Ignore*"
"""QuPath's own class for regions that are not annotated. Where all tissue without an outline counts, what was judged to
be neither needs one; see `vitrail.review.corrections`."""


def class_names(settings: Settings) -> ClassNames:
    """Return the table of outline names of a study.

    Where tissue outside the outlines counts as non-tumor, `IGNORED` is ignored, too, unless it has a meaning; and so is
    an outline without a class, unless it is tumor: what it encloses is not outside all outlines.
    """
    own = settings.annotations
    names = ClassNames(tumor=own.tumor, non_tumor=own.non_tumor, ignore=own.ignore)
    if own.unlabelled_tissue != "ignore":
        ignore = own.ignore if names.knows(IGNORED) else (*own.ignore, IGNORED)
        names = replace(names, ignore=ignore, unclassified="ignored")
    return replace(names, unclassified="tumor") if own.unclassified == "tumor" else names


def cohort_outlines(entry: CohortSlide, slide: Slide, settings: Settings) -> Annotations:
    """Read the outlines of a slide of a cohort, and add the tissue outside them where it counts as non-tumor.

    Parameters
    ----------
    entry
        Its line of slides.csv.
    slide
        The same slide, open.
    settings
        The study's.

    Returns
    -------
    Annotations
        Tumor and non-tumor; see `vitrail.tiles.unlabelled` for what is non-tumor though nobody drew it.

    Raises
    ------
    AnnotationError
        They cannot be read, or are not of this slide.
    SlideError
        The slide cannot be read.
    """
    outlines = read_annotations(entry.annotations, class_names(settings), slide)
    return with_unlabelled(outlines, entry.annotations, slide, settings)
