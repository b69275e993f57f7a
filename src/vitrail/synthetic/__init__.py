"""Synthetic H&E slides of head and neck carcinoma: with coarse outlines for learning, and the whole truth for checking.

A cohort can be drawn anywhere from a seed, so that every step of a study can be shown and tested where no patient data
may go. What it can show is that the software works, not how well a network does on patients.
"""

from __future__ import annotations

from vitrail.synthetic.layout import TissueType
from vitrail.synthetic.spec import PhantomCohort, SlideSpec
from vitrail.synthetic.write import write_cohort, write_slide

__all__ = ["PhantomCohort", "SlideSpec", "TissueType", "write_cohort", "write_slide"]
