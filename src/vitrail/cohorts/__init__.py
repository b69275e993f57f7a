"""Cohorts as their owners give them away: folders of slides, outlines and clinical data to one slides.csv."""
