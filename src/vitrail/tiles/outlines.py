"""The outlines of a slide of a cohort, as a study takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitrail.slides.annotations import ClassNames, read_annotations

if TYPE_CHECKING:
    from vitrail.settings.load import Settings
    from vitrail.slides.annotations import Annotations
    from vitrail.slides.cohort import CohortSlide
    from vitrail.slides.slide import Slide


def class_names(settings: Settings) -> ClassNames:
    """Return the table of outline names of a study."""
    names = settings.annotations
    return ClassNames(tumor=names.tumor, non_tumor=names.non_tumor, ignore=names.ignore)


def cohort_outlines(entry: CohortSlide, slide: Slide, settings: Settings) -> Annotations:
    """Read the outlines of a slide of a cohort.

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
        Tumor and non-tumor.

    Raises
    ------
    AnnotationError
        They cannot be read.
    """
    return read_annotations(entry.annotations, class_names(settings), slide)
