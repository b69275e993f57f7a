"""What a report is made of."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from vitrail.classes import TissueClass
    from vitrail.evaluation.results import Evaluation
    from vitrail.explain.checks.results import Checked
    from vitrail.explain.nuclei.results import NucleiStudy
    from vitrail.explain.study.store import Stored
    from vitrail.inference.outputs import MapFiles
    from vitrail.search.results import SearchResult
    from vitrail.shift.results import ShiftStudy


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SlideMaps:
    """One slide with what the networks found, and what was drawn on it where anybody drew.

    All maps start at the thumbnail's top left corner, cover the same tiles, and may reach beyond its right and bottom
    edge.

    Attributes
    ----------
    slide_id, patient_id
        Names, as the user wrote them.
    accuracy
        Share of the slide's labelled tiles that the classifier gets right, 0 to 1; NaN where it has none.
    thumbnail
        `[h, w, 3]`, RGB.
    width_um
        Width of what the thumbnail shows.
    outlines
        Closed rings by class, float `[k, 2]` each (x, y), in pixels of the thumbnail. Exteriors and holes alike: a
        place is inside where an odd number of a class's rings surround it.
    classifier
        `[rows, columns]`, tumor probability of each tile, NaN where there is none.
    segmenter
        `[H, W]`, values of `TissueClass`, the next number for an artefact, 255 where nothing was predicted; `H / rows`
        pixels to a tile.
    artefacts
        `[rows, columns]`, share of each tile that an artefact spoils.
    background
        `[rows, columns]`, whether a tile holds too little tissue to count.
    tile_side
        Side of a tile in pixels of the thumbnail.
    """

    slide_id: str
    patient_id: str = ""
    accuracy: float = float("nan")
    thumbnail: NDArray[np.uint8]
    width_um: float
    outlines: dict[TissueClass, list[NDArray[np.float64]]] = field(default_factory=dict)
    classifier: NDArray[np.float32]
    segmenter: NDArray[np.uint8]
    artefacts: NDArray[np.float32]
    background: NDArray[np.bool_]
    tile_side: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Rows of the explained tiles that a report shows; each is as long as a figure is wide, or shorter, or empty.

    Attributes
    ----------
    tumor
        Correctly called tumor, those with other tissue beside it first.
    non_tumor
        Correctly called non-tumor.
    disagreement
        Where the two networks' Grad-CAMs correlate least.
    wrong
        Wrongly called by at least one network.
    """

    tumor: tuple[int, ...]
    non_tumor: tuple[int, ...]
    disagreement: tuple[int, ...]
    wrong: tuple[int, ...]

    @property
    def all(self) -> tuple[int, ...]:
        """Every row once, in order."""
        rows = (*self.tumor, *self.non_tumor, *self.disagreement, *self.wrong)
        return tuple(sorted(set(rows)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CloseUp:
    """A square of a tile, enlarged.

    Attributes
    ----------
    left, top, side
        Where it lies, as shares of the tile's side.
    picture
        `[h, h, 3]`, RGB.
    """

    left: float
    top: float
    side: float
    picture: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explained:
    """What a report shows of the explanations.

    Attributes
    ----------
    stored
        The maps of all test tiles, and what they come to.
    checked
        Whether they are true; None where nobody has checked.
    threshold
        A tile is called tumor when its tumor probability reaches this.
    side_um
        Side of a tile.
    examples
        The tiles to show.
    pictures
        `[h, w, 3]`, RGB, by row: these tiles as a pathologist would want to see them.
    closeups
        By row, the place where a map is strongest.
    show
        Methods that figures of tiles show beside the paper's, best first; none shows all.
    """

    stored: Stored
    checked: Checked | None
    threshold: float
    side_um: float
    examples: Examples
    pictures: dict[int, NDArray[np.uint8]]
    closeups: dict[int, CloseUp] = field(default_factory=dict)
    show: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NucleusCrop:
    """A nucleus of a gallery.

    Attributes
    ----------
    tile, nucleus
        Which one, as in the tables of the stage `nuclei`.
    effect
        What the logit of tumor loses without it.
    area_um2
        Its area.
    picture
        `[h, h, 3]`, RGB: the nucleus in the middle of its surroundings.
    rings
        Its outline, float `[k, 2]` each (x, y), as shares of the picture's side.
    """

    tile: int
    nucleus: int
    effect: float
    area_um2: float
    picture: NDArray[np.uint8]
    rings: tuple[NDArray[np.float64], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShownNuclei:
    """What a report shows of the nuclei that the networks look at.

    Attributes
    ----------
    study
        What was measured; its tables are empty where there was nothing to measure on.
    side_um
        Side of a tile.
    crop_um
        Side of the pictures of single nuclei.
    galleries
        By network and by title of a row, nuclei; the rows are as long as each other, and what stands in one place of
        each belongs together.
    pictures
        By tile `[h, w, 3]`, RGB: tiles that are shown as a whole.
    rings
        By tile, by number of a nucleus, its outline as shares of the tile's side.
    """

    study: NucleiStudy
    side_um: float
    crop_um: float
    galleries: Mapping[str, Mapping[str, Sequence[NucleusCrop]]]
    pictures: Mapping[int, NDArray[np.uint8]]
    rings: Mapping[int, Mapping[int, Sequence[NDArray[np.float64]]]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DoubtedTile:
    """A tile whose label both networks contradict, in its surroundings.

    Attributes
    ----------
    slide_id, patient_id
        Names, as the user wrote them.
    label
        What the outlines say.
    classifier, segmenter
        What the networks say: tumor probability, and the share of pixels called tumor.
    annotated
        The share of the tile that was outlined at all; NaN where that is not known.
    picture
        `[h, h, 3]`, RGB.
    width_um
        Width of the picture.
    frame
        Left, top and side of the tile, as shares of the picture's side.
    outlines
        As of `SlideMaps`, as shares of the picture's side.
    """

    slide_id: str
    patient_id: str
    label: TissueClass
    classifier: float
    segmenter: float
    annotated: float
    picture: NDArray[np.uint8]
    width_um: float
    frame: tuple[float, float, float]
    outlines: dict[TissueClass, list[NDArray[np.float64]]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutsidePlace:
    """A tile outside all outlines, in its surroundings.

    Attributes
    ----------
    classifier, segmenter
        What the networks say: tumor probability, and the share of pixels called tumor.
    picture
        `[h, h, 3]`, RGB.
    width_um
        Width of the picture.
    frame
        Left, top and side of the tile, as shares of the picture's side.
    at
        Left, top and side of the tile in pixels of the slide's thumbnail.
    """

    classifier: float
    segmenter: float
    picture: NDArray[np.uint8]
    width_um: float
    frame: tuple[float, float, float]
    at: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutsideSlide:
    """A slide whose tissue outside the outlines counted as non-tumor.

    Attributes
    ----------
    slide_id, patient_id
        Names, as the user wrote them.
    asked, called
        Tiles outside the outlines that networks were asked about which had not seen the patient, and how many of them
        both call tumor.
    taken_mm2
        Area of the tissue that counted as non-tumor without an outline.
    thumbnail
        `[h, w, 3]`, RGB.
    width_um
        Width of what the thumbnail shows.
    outlines
        What was drawn, as of `SlideMaps`.
    margin, taken
        Where the margin around the outlines ends, and the tissue beyond it that was taken: rings as of `SlideMaps`.
    squares
        `[asked, 3]`: left, top and side in pixels of the thumbnail, those first that are called most surely.
    places
        The most suspicious tiles.
    """

    slide_id: str
    patient_id: str
    asked: int
    called: int
    taken_mm2: float
    thumbnail: NDArray[np.uint8]
    width_um: float
    outlines: dict[TissueClass, list[NDArray[np.float64]]]
    margin: list[NDArray[np.float64]]
    taken: list[NDArray[np.float64]]
    squares: NDArray[np.float64]
    places: tuple[OutsidePlace, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CutExample:
    """One slide with the tiles that were cut from it, some of them with their masks.

    Attributes
    ----------
    slide_id, patient_id
        Names, as the user wrote them.
    thumbnail
        `[h, w, 3]`, RGB.
    width_um
        Width of what the thumbnail shows.
    outlines
        As of `SlideMaps`.
    squares
        `[n, 3]`: left, top and side of each tile, in pixels of the thumbnail.
    labels
        Of each tile.
    side_um
        Side of a tile.
    shown
        The tiles to show: up to two of each label, tumor first; each is a row of `squares`.
    pictures, masks
        `[k, side_px, side_px, 3]`, RGB, and `[k, side_px, side_px]`, values of `TissueClass`: those of `shown`, as the
        networks get them.
    """

    slide_id: str
    patient_id: str
    thumbnail: NDArray[np.uint8]
    width_um: float
    outlines: dict[TissueClass, list[NDArray[np.float64]]]
    squares: NDArray[np.float64]
    labels: tuple[TissueClass, ...]
    side_um: float
    shown: tuple[int, ...]
    pictures: NDArray[np.uint8]
    masks: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShownShift:
    """What a report shows of slides of other hospitals.

    Attributes
    ----------
    study
        What was measured.
    metrics
        What it comes to, see `vitrail.evaluation.shift`.
    side_um
        Side of a tile.
    pictures
        Of the training slide in the middle of all, and after it of the test slides that lie farthest: some tiles of
        each by its name, `[n, h, w, 3]`, RGB.
    changed
        By the name of a shift a test tile with it, `[h, w, 3]`; `none` is the tile as it is.
    """

    study: ShiftStudy
    metrics: Mapping[str, Any]
    side_um: float
    pictures: Mapping[str, NDArray[np.uint8]]
    changed: Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A square of whole tiles of a mapped slide.

    Attributes
    ----------
    title
        Why it is shown.
    row, column
        Of its first tile.
    tiles
        How many tiles it is wide and high.
    """

    title: str
    row: int
    column: int
    tiles: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Overlaid:
    """A mapped slide whose maps are laid over its picture, as a viewer shows them.

    Attributes
    ----------
    maps
        The slide; both networks have maps of it.
    sections
        What is shown enlarged.
    pictures
        Of each section, `[h, h, 3]`, RGB.
    """

    maps: SlideMaps
    sections: tuple[Section, ...]
    pictures: tuple[NDArray[np.uint8], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReportData:
    """Everything a report shows.

    Attributes
    ----------
    title
        Name of the study.
    settings_toml
        Its settings, as a `study.toml`.
    encoder
        Where both networks' encoder came from, and under which licence; empty where they do not say.
    evaluation
        Its numbers.
    warnings
        What a reader has to know before believing them.
    maps
        The slides to show.
    mapped
        The files of the slides that were mapped, in the order of `maps`; they lie in the run's `predictions/maps`.
    explained
        Why the networks say what they say; None for a run without explanations.
    nuclei
        Which nuclei they look at; None where nobody has asked.
    doubted
        The tiles whose label the networks contradict most, those first.
    outside
        Slides whose tissue outside the outlines counted as non-tumor, those first of which networks call most tumor.
    margin_um
        How far from the outlines, at least.
    shift
        How far slides lie from those of the training; None where nobody has asked.
    search
        What the grid search over tile sizes and resolutions found; None for a run without one.
    worst
        Small pictures of the slides that the networks know least, `[h, w, 3]` by slide.
    cut
        A slide with its tiles, masks and labels; None shows none.
    overlaid
        A slide beneath its maps; None shows none.
    """

    title: str
    settings_toml: str
    encoder: str = ""
    evaluation: Evaluation
    warnings: Sequence[str]
    maps: Sequence[SlideMaps]
    mapped: Sequence[MapFiles] = ()
    explained: Explained | None = None
    nuclei: ShownNuclei | None = None
    doubted: Sequence[DoubtedTile] = ()
    outside: Sequence[OutsideSlide] = ()
    margin_um: float = 0.0
    shift: ShownShift | None = None
    search: SearchResult | None = None
    worst: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    cut: CutExample | None = None
    overlaid: Overlaid | None = None

    @property
    def threshold(self) -> float:
        """A tile is called tumor when its tumor probability reaches this."""
        return self.evaluation.settings.threshold

    @property
    def slide_figures(self) -> dict[str, SlideMaps]:
        """The slides to show by the name of their figure, which is free of all but letters, digits and dashes."""
        safe = [re.sub(r"[^A-Za-z0-9]+", "-", maps.slide_id).strip("-")[:40] for maps in self.maps]
        names = [f"slide-{number:02d}-{name}".rstrip("-") for number, name in enumerate(safe, 1)]
        return dict(zip(names, self.maps, strict=True))
