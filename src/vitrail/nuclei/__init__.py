"""Nuclei: found, measured, counted."""
