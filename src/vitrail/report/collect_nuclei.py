"""From the folder `nuclei/` of a run to what its report shows of it: pictures of nuclei, read from their slides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from skimage.measure import find_contours

from vitrail.classes import TASKS
from vitrail.errors import SlideError
from vitrail.geometry import Region
from vitrail.report.data import NucleusCrop, ShownNuclei
from vitrail.report.select_nuclei import choose_nuclei, choose_whole_tiles
from vitrail.slides.slide import read_region
from vitrail.tiles.extract import open_cohort_slide
from vitrail.tiles.store import read_tiles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from vitrail.explain.nuclei.results import NucleiStudy
    from vitrail.slides.cohort import CohortSlide
    from vitrail.stage import Run

    Picture = NDArray[np.uint8]
    Rings = list[NDArray[np.float64]]

CROP_UM = 24.0
"""Side of the picture of a nucleus."""

CROP_PX, TILE_PX = 160, 896
"""Pixels of such a picture, and of that of a tile; what a slide has fewer of is enlarged smoothly."""


def collect_nuclei(run: Run, entries: Mapping[str, CohortSlide], study: NucleiStudy | None) -> ShownNuclei | None:
    """Gather what a report shows of nuclei; None where nobody has asked which ones matter.

    What was cut from a slide stands in where it cannot be read any more.

    Parameters
    ----------
    run
        The run.
    entries
        Its slides by their names.
    study
        What was measured.

    Returns
    -------
    ShownNuclei | None
        With pictures.
    """
    if study is None:
        return None
    tiles = {int(row["tile"]): row for row in study.tiles.to_dict("records")}
    galleries: dict[str, dict[str, tuple[NucleusCrop, ...]]] = {}
    for network in TASKS if tiles else ():
        rows = choose_nuclei(study, network)
        if rows:
            galleries[network] = {
                title: tuple(
                    _crop(run, entries, study, tiles[int(nucleus["tile"])], nucleus)
                    for nucleus in row.to_dict("records")
                )
                for title, row in rows.items()
            }
    shown = choose_whole_tiles(study)
    return ShownNuclei(
        study=study,
        side_um=run.settings.tiles.side_um,
        crop_um=CROP_UM,
        galleries=galleries,
        pictures={tile: _picture(run, entries, tiles[tile], TILE_PX) for tile in shown},
        rings={
            tile: {
                number: [ring / study.labels[tile].shape[::-1] for ring in rings_of(study.labels[tile], number)]
                for number in range(1, int(tiles[tile]["nuclei"]) + 1)
            }
            for tile in shown
        },
    )


def rings_of(labels: NDArray[np.integer], number: int) -> Rings:
    """Return the outlines of a nucleus.

    Parameters
    ----------
    labels
        `[h, w]`.
    number
        Whose.

    Returns
    -------
    list[NDArray[np.float64]]
        Closed rings `[k, 2]` (x, y), in pixels of `labels`; the first pixel's centre is at (0.5, 0.5).
    """
    rows, columns = np.nonzero(labels == number)
    if not len(rows):
        return []
    top, left = rows.min(), columns.min()
    mask = labels[top : rows.max() + 1, left : columns.max() + 1] == number
    corner = np.array([left, top]) - 0.5  # one pixel of frame
    trace: Any = find_contours
    return [contour[:, ::-1] + corner for contour in trace(np.pad(mask, 1).astype(np.float64), 0.5)]


def _crop(
    run: Run,
    entries: Mapping[str, CohortSlide],
    study: NucleiStudy,
    own: Mapping[Any, Any],
    nucleus: Mapping[Any, Any],
) -> NucleusCrop:
    """Read a nucleus of a tile and what lies around it."""
    number, side, labels = int(nucleus["nucleus"]), float(own["side"]), study.labels[int(own["tile"])]
    per_um = side / run.settings.tiles.side_um
    length = CROP_UM * per_um
    left, top = nucleus["x"] - length / 2, nucleus["y"] - length / 2
    picture = _picture(run, entries, own, CROP_PX, ((left - own["x"]) / side, (top - own["y"]) / side, length / side))
    scale = np.array([side / labels.shape[1], side / labels.shape[0]])  # level-0 pixels to one of the label image
    offset = np.array([own["x"] - left, own["y"] - top])
    return NucleusCrop(
        tile=int(own["tile"]),
        nucleus=number,
        effect=float(nucleus["effect"]),
        area_um2=float(nucleus["area_um2"]),
        picture=picture,
        rings=tuple((ring * scale + offset) / length for ring in rings_of(labels, number)),
    )


def _picture(
    run: Run,
    entries: Mapping[str, CohortSlide],
    tile: Mapping[Any, Any],
    px: int,
    square: Sequence[float] = (0.0, 0.0, 1.0),
) -> Picture:
    """Read a square of a tile, given by left, top and side as shares of the tile's side, from its slide."""
    left, top, share = square
    side = float(tile["side"])
    try:
        slide = open_cohort_slide(entries[str(tile["slide_id"])], run.settings)
        length = side * share
        region = Region(x=tile["x"] + left * side, y=tile["y"] + top * side, width=length, height=length)
        own = min(max(round(length), 1), px)
        picture = read_region(slide, region, (own, own))
    except (SlideError, KeyError):  # the slide is gone, or no longer in slides.csv
        stored = Image.fromarray(np.array(read_tiles(run.folder / "tiles").images[int(tile["tile"])]))
        west, north, east, south = (round(at * stored.width) for at in (left, top, left + share, top + share))
        return np.asarray(stored.crop((west, north, east, south)).resize((px, px), Image.Resampling.BICUBIC))
    return np.asarray(Image.fromarray(picture).resize((px, px), Image.Resampling.BICUBIC))
