"""Tissue classes, kinds of artefact, networks and splits: keys, titles and colours, in this one place.

The paper paints tumor red, non-tumor green and other yellow (Additional file 1, Fig. S2). Vitrail keeps those hues in
shades that colour-blind readers can tell apart and that differ in grey: L* is 48, 67, 89 and 92.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

RGB = tuple[int, int, int]


class TissueClass(IntEnum):
    """What a pixel is; the value is its index in masks, probabilities and confusion matrices."""

    TUMOR = 0
    NON_TUMOR = 1
    OTHER = 2
    BACKGROUND = 3

    @property
    def key(self) -> str:
        """The name in files and settings: `tumor`, `non_tumor`, `other`, `background`."""
        return self.name.lower()

    @property
    def title(self) -> str:
        """The name in figures and in QuPath."""
        return ("Tumor", "Non-tumor", "Other", "Background")[self]

    @property
    def rgb(self) -> RGB:
        """The colour in figures and in QuPath, 0 to 255."""
        return ((196, 78, 0), (86, 180, 140), (240, 228, 66), (226, 232, 238))[self]

    @property
    def colour(self) -> str:
        """The colour as `#rrggbb`."""
        return "#{:02x}{:02x}{:02x}".format(*self.rgb)


CLASSES = tuple(TissueClass)
"""All four, in the order of their index."""

LABELS = (TissueClass.TUMOR, TissueClass.NON_TUMOR)
"""The two that can be outlined, and the only labels of a tile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapClass:
    """A class of maps that is no tissue.

    Attributes
    ----------
    key, title, rgb
        As of a `TissueClass`.
    """

    key: str
    title: str
    rgb: RGB

    @property
    def colour(self) -> str:
        """The colour as `#rrggbb`."""
        return "#{:02x}{:02x}{:02x}".format(*self.rgb)


ARTEFACT_CLASS = MapClass(key="artefact", title="Artefact", rgb=(90, 90, 90))
"""What an artefact spoils: no network learns it, mapped slides show it."""


class ArtefactKind(IntEnum):
    """What spoils a part of a slide, perhaps in several ways; the value is its index in masks."""

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
    def rgb(self) -> RGB:
        """The colour in figures and in QuPath, 0 to 255."""
        return ((0, 114, 178), (148, 80, 160), (120, 120, 120), (200, 30, 60), (40, 40, 40), (86, 180, 233))[self]


ARTEFACTS = tuple(ArtefactKind)
"""All six, in the order of their index."""

Task = Literal["classifier", "segmenter"]
"""What a network does: whether a tile shows tumor, or the class of every pixel. The name of its folder and settings."""

TASKS: tuple[Task, ...] = ("classifier", "segmenter")
"""Both, in the order in which they are trained, and shown."""

NETWORKS: dict[str, str] = {"classifier": "Classification network", "segmenter": "Segmentation network"}
"""What figures, tables and pages call the network of each task."""

NETWORK_COLOURS: dict[str, str] = {"classifier": "#0072b2", "segmenter": "#b8568f"}
"""Its colour in figures."""

SPLITS = ("train", "validation", "test")
"""What the tiles of a patient are for, in this order."""
