"""The nuclei of a whole slide: found in windows, each nucleus once and whole, measured, and written as they come.

Each window is read with a margin as wide as nuclei are, so that no nucleus of its own is cut, and keeps those whose
centres lie in it, or so close beside it that the next window might place them here. Of two outlines from different
windows that are the same nucleus, by their overlap, the first window's stays. So an engine that judges a nucleus by
all that its window shows loses none at a border, and gives none twice.

In memory are one window's pixels and a few numbers of each nucleus; outlines and features wait on the disk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd
import shapely

from vitrail.core.resume import Parts
from vitrail.errors import SlideError
from vitrail.geometry import Region
from vitrail.interop.geoparquet import GEOMETRY
from vitrail.nuclei.features import OWN, measure
from vitrail.nuclei.neighbours import neighbours
from vitrail.nuclei.outlines import outline_nuclei
from vitrail.nuclei.store import outlines_of, writing_nuclei

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.core.progress import Progress
    from vitrail.nuclei.store import NucleiHeader
    from vitrail.quality.tissue import Tissue
    from vitrail.slides.slide import Slide

    Position = tuple[int, int]

WORKING_MPP = 0.5
"""Micrometres per pixel, of windows; a slide that is coarser is looked at as it is."""

WINDOW_PX = 1024
"""Side of a window in such pixels."""

REACH_UM = 24.0
"""Farther from its centre no nucleus reaches: margin of a window."""

SLACK_UM = 4.0
"""Farther apart no two windows place the centre of the same nucleus."""

SAME = 0.5
"""Two outlines are of one nucleus where this share of the smaller lies in the larger."""


class OutlinedRegion(Protocol):
    """A region of a slide with its nuclei: what finds nuclei returns this."""

    @property
    def image(self) -> NDArray[np.uint8]:
        """RGB, `[h, w, 3]`."""

    @property
    def labels(self) -> NDArray[np.int32]:
        """0 for none, and 1 to n, `[h, w]`."""

    @property
    def mpp(self) -> float:
        """Micrometres per pixel of both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NucleiFiles:
    """The files of one slide's nuclei.

    Attributes
    ----------
    base
        Folder and name, without an ending.
    key
        Of all that decides them: unfinished work is taken up only where it is the same.
    """

    base: Path
    key: str

    @property
    def table(self) -> Path:
        """One row a nucleus; see `store`."""
        return self.base.with_name(f"{self.base.name}.nuclei.parquet")

    @property
    def geojson(self) -> Path:
        """Detections with measurements, for QuPath."""
        return self.base.with_name(f"{self.base.name}.nuclei.geojson")

    @property
    def partial(self) -> Path:
        """Where unfinished work is."""
        return self.base.parent / ".partial" / f"{self.base.name}.nuclei" / self.key[:16]


def measure_slide(
    slide: Slide,
    tissue: Tissue,
    segment: Callable[[Region], OutlinedRegion],
    files: NucleiFiles,
    header: NucleiHeader,
    progress: Progress,
) -> int:
    """Find and measure the nuclei of a slide's tissue; what an earlier attempt has done is taken up.

    Parameters
    ----------
    slide
        The slide.
    tissue
        Of the slide: windows without any are not looked at, and nuclei on glass are none.
    segment
        Finds the nuclei of a region; those that it returns are measured in its image.
    files
        Where to; `files.table` is written.
    header
        What that file says of itself.
    progress
        Told how far the work is.

    Returns
    -------
    int
        How many nuclei there are.

    Raises
    ------
    SlideError
        The slide cannot be read, or holds no tissue.
    NucleiError
        It is too coarse, or the engine cannot find them.
    ExchangeError
        The table cannot be written.
    """
    windows = [*_windows(slide, tissue)]
    if not windows:
        raise SlideError(slide.path, "holds no tissue", "Check the slide, or lower tissue.density")
    parts = Parts(files.partial)
    reads = {
        position: partial(
            parts.table, f"{position[0]}-{position[1]}", partial(_measure_window, slide, tissue, segment, core)
        )
        for position, core in windows
    }
    done = sum((files.partial / f"{row}-{column}.parquet").is_file() for row, column in reads)
    with progress.task(f"nuclei of {header.slide_id}", len(windows), done) as step:
        for position in [*reads][done:]:  # earlier attempts went in the same order
            reads[position]()
            step(1)
    stays = _first_of_same(slide, windows, reads)
    few = [reads[position]().loc[stay, ["x_um", "y_um", "area_um2", "orientation"]] for position, stay in stays.items()]
    extent_um = 0.0, 0.0, slide.region.width * slide.mpp, slide.region.height * slide.mpp
    around = neighbours(pd.concat(few, ignore_index=True), extent_um=extent_um, tissue=tissue)
    number = 0
    with writing_nuclei(files.table, header) as add:
        for position, stay in stays.items():
            rows = reads[position]()[stay].reset_index(drop=True)
            if not len(rows):
                continue
            own = around.iloc[number : number + len(rows)].reset_index(drop=True)
            rows["nucleus"] = np.arange(number + 1, number + len(rows) + 1)
            add(pd.concat([rows, own], axis=1))
            number += len(rows)
    parts.discard()
    return number


def _windows(slide: Slide, tissue: Tissue) -> Iterator[tuple[Position, Region]]:
    """Yield the windows that touch tissue, row by row: their place in the grid, and the part that is theirs alone."""
    side = WINDOW_PX * max(slide.mpp, WORKING_MPP) / slide.mpp
    columns, rows = (math.ceil(round(length / side, 6)) for length in (slide.region.width, slide.region.height))
    grid = [(row, column) for row in range(rows) for column in range(columns)]
    boxes = np.array([[column * side, row * side, side, side] for row, column in grid])
    for (row, column), box, share in zip(grid, boxes, tissue.shares(boxes), strict=True):
        if share > 0:
            yield (row, column), Region(x=box[0], y=box[1], width=side, height=side)


def _grown(region: Region, by: float) -> Region:
    return Region(x=region.x - by, y=region.y - by, width=region.width + 2 * by, height=region.height + 2 * by)


def _measure_window(
    slide: Slide, tissue: Tissue, segment: Callable[[Region], OutlinedRegion], core: Region
) -> pd.DataFrame:
    """Measure the nuclei in and close beside a window: centres in um of the slide, outlines in level-0 pixels."""
    # whole working pixels, so that all windows look at the same ones
    reach = math.ceil(REACH_UM / max(slide.mpp, WORKING_MPP)) * max(slide.mpp, WORKING_MPP) / slide.mpp
    whole = _grown(core, reach)
    seen = segment(whole)
    rows = measure(seen.labels, seen.image, seen.mpp, glass=tissue.thresholds.glass)
    rows["x_um"] += whole.x * slide.mpp
    rows["y_um"] += whole.y * slide.mpp
    x, y = rows["x_um"].to_numpy() / slide.mpp, rows["y_um"].to_numpy() / slide.mpp
    near = _grown(core, SLACK_UM / slide.mpp)
    stays = (x >= near.x) & (x < near.right) & (y >= near.y) & (y < near.bottom)
    stays &= (x >= 0) & (x < slide.region.width) & (y >= 0) & (y < slide.region.height)
    cell = tissue.um_per_px / slide.mpp  # a nucleus beside a cell of tissue counts: the mask's border is as coarse
    stays &= tissue.shares(np.column_stack([x - cell, y - cell, np.full((len(x), 2), 2 * cell)])) > 0
    labels = np.append(0, np.cumsum(stays) * stays)[seen.labels].astype(np.int32)
    scale = seen.mpp / slide.mpp
    # without the noise of floats, as a millionth of a pixel is
    outlines = shapely.transform(
        outline_nuclei(labels), lambda points: np.round(points * scale + (whole.x, whole.y), 6)
    )
    rows = rows.loc[stays, ["x_um", "y_um", "orientation", *OWN]].reset_index(drop=True)
    rows[GEOMETRY] = pd.Series([*shapely.to_wkb(outlines)], dtype=object)
    return rows


def _first_of_same(
    slide: Slide, windows: list[tuple[Position, Region]], reads: Mapping[Position, Callable[[], pd.DataFrame]]
) -> dict[Position, NDArray[np.bool_]]:
    """Tell which nuclei of each window stay: those that no window before has."""
    stays: dict[Position, NDArray[np.bool_]] = {}
    waiting: dict[Position, NDArray[np.object_]] = {}
    for (row, column), core in windows:
        rows = reads[row, column]()
        stay = np.ones(len(rows), np.bool_)
        # what lies deeper in the window than a nucleus of another one reaches is nobody else's
        inner = _grown(core, -(REACH_UM + SLACK_UM) / slide.mpp)
        outlines = outlines_of(rows)
        left, top, right, bottom = shapely.bounds(outlines).reshape(-1, 4).T
        outer = np.flatnonzero((left < inner.x) | (right > inner.right) | (top < inner.y) | (bottom > inner.bottom))
        before = [(row - 1, column - 1), (row - 1, column), (row - 1, column + 1), (row, column - 1)]
        earlier = np.concatenate([np.empty(0, np.object_), *(waiting[each] for each in before if each in waiting)])
        mine, theirs = shapely.STRtree(earlier).query(outlines[outer], predicate="intersects")
        first, second = outlines[outer][mine], earlier[theirs]
        common = shapely.area(shapely.intersection(first, second))
        stay[outer[mine[common >= SAME * np.minimum(shapely.area(first), shapely.area(second))]]] = False
        stays[row, column] = stay
        waiting = {place: those for place, those in waiting.items() if place >= (row - 1, column)}
        waiting[row, column] = outlines[outer[stay[outer]]]
    return stays
