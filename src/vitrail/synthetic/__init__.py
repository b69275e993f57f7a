"""Synthetic H&E slides of head and neck carcinoma: with coarse outlines for learning, and the whole truth for checking.

A cohort can be drawn anywhere from a seed, so that every step of a study can be shown and tested where no patient data
may go. What it can show is that the software works, not how well a network does on patients.

A slide can be drawn again with one thing less, a cause of what makes a carcinoma or a shortcut that was planted beside
it: what a network's score loses from one to the other rests on that thing, and on nothing else.
"""

from __future__ import annotations

from vitrail.synthetic.draw import Scene, compose, draw_region
from vitrail.synthetic.layout import TissueType
from vitrail.synthetic.pairs import SlidePair, TilePair, draw_tile, slide_pair
from vitrail.synthetic.spec import CAUSES, SHORTCUTS, PhantomCohort, SlideSpec, without_cause
from vitrail.synthetic.write import write_cohort, write_slide

__all__ = [
    "CAUSES",
    "SHORTCUTS",
    "PhantomCohort",
    "Scene",
    "SlidePair",
    "SlideSpec",
    "TilePair",
    "TissueType",
    "compose",
    "draw_region",
    "draw_tile",
    "slide_pair",
    "without_cause",
    "write_cohort",
    "write_slide",
]
