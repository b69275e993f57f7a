"""Slides: their pixels, outlines, tissue and cohorts."""
