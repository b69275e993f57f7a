"""The four classes: their index in every mask, name, title and colour, in this one place.

The paper paints tumor red, non-tumor green and other yellow (Additional file 1, Fig. S2). Vitrail keeps those hues in
shades that colour-blind readers can tell apart and that differ in grey: L* is 48, 67, 89 and 92.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


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
        return {0: "Tumor", 1: "Non-tumor", 2: "Other", 3: "Background"}[self]

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The colour in figures and in QuPath, 0 to 255."""
        return {0: (196, 78, 0), 1: (86, 180, 140), 2: (240, 228, 66), 3: (226, 232, 238)}[self]

    @property
    def colour(self) -> str:
        """The colour as `#rrggbb`."""
        return "#{:02x}{:02x}{:02x}".format(*self.rgb)


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
    rgb: tuple[int, int, int]

    @property
    def colour(self) -> str:
        """The colour as `#rrggbb`."""
        return "#{:02x}{:02x}{:02x}".format(*self.rgb)


ARTEFACT_CLASS = MapClass(key="artefact", title="Artefact", rgb=(90, 90, 90))
"""What an artefact spoils: no network learns it, mapped slides show it."""

CLASSES = tuple(TissueClass)
"""All four, in the order of their index."""

LABELS = (TissueClass.TUMOR, TissueClass.NON_TUMOR)
"""The two that can be outlined, and the only labels of a tile."""

NETWORKS: dict[str, str] = {"classifier": "Classification network", "segmenter": "Segmentation network"}
"""What figures, tables and pages call the network of each task."""

NETWORK_COLOURS: dict[str, str] = {"classifier": "#0072b2", "segmenter": "#b8568f"}
"""Its colour in figures."""

SPLITS = ("train", "validation", "test")
"""What the tiles of a patient are for, in this order."""
