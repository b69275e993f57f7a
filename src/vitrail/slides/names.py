"""Which files of a folder are taken for slides: by their names alone, so that nothing is opened."""

from __future__ import annotations

from pathlib import PurePath

SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".dcm", ".czi"}
)
"""Files of a folder that are taken for slides; those of OME-TIFF maps are not."""


def is_slide_name(file: PurePath) -> bool:
    """Tell whether a file of a folder is taken for a slide."""
    name = file.name.lower()
    return file.suffix.lower() in SUFFIXES and not name.startswith(".") and not name.endswith(".ome.tiff")


def slide_stem(name: str) -> str:
    """Return the name of a slide's file without folder and suffix, in letters without case."""
    plain = PurePath(name.replace("\\", "/")).name.casefold()
    return PurePath(plain).stem if PurePath(plain).suffix in SUFFIXES else plain
