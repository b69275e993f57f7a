"""Outlines in the files of every program: one file a format, one table of them."""
