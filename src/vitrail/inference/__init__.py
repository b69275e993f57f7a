"""Trained networks applied: to the tiles of a study, and to whole slides."""
