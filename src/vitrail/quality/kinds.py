"""The kinds of artefact: what spoils a place of a slide, with name, title and colour, in this one place."""

from __future__ import annotations

from enum import IntEnum


class ArtefactKind(IntEnum):
    """What is wrong with a place; a place may be spoilt in several ways."""

    PEN = 0
    FOLD = 1
    BLUR = 2
    BLOOD = 3
    DEBRIS = 4
    BUBBLE = 5

    @property
    def key(self) -> str:
        """The name in files and tables: `pen`, `fold`, `blur`, `blood`, `debris`, `bubble`."""
        return self.name.lower()

    @property
    def title(self) -> str:
        """The name in figures and in QuPath."""
        return ("Pen or ink", "Fold", "Out of focus", "Blood", "Dust or print", "Air bubble")[self]

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The colour in figures and in QuPath, 0 to 255."""
        return ((0, 114, 178), (148, 80, 160), (120, 120, 120), (200, 30, 60), (40, 40, 40), (86, 180, 233))[self]


ARTEFACTS = tuple(ArtefactKind)
"""All six, in the order of their index."""
