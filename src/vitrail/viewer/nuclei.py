"""Nuclei over a slide, coloured by a feature: pixels, so that a hundred thousand of them are no more work than one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import shapely
from PIL import Image, ImageDraw

from vitrail.interop.geoparquet import GEOMETRY
from vitrail.nuclei.features import FEATURES
from vitrail.nuclei.store import outlines_of, read_nuclei
from vitrail.viewer.rasters import Raster, limits_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.slides.slide import Slide

    Floats = NDArray[np.float32]

SHOWN = ("area_um2", "hematoxylin_mean", "circularity")
"""Features that are layers: size, darkness, outline."""

POINT_PX = 4
"""From this many level-0 pixels a pixel of a level on, nuclei are no longer drawn but counted: a pixel has the mean of
the nuclei whose centres lie in it."""


class _Drawn:
    """The outlines of a slide's nuclei, and an index of where they are."""

    def __init__(self, table: Path, columns: list[str]) -> None:
        rows = read_nuclei(table, [*columns, GEOMETRY])
        self.outlines = outlines_of(rows)
        self.values = {name: rows[name].to_numpy(np.float32) for name in columns}
        self.tree = shapely.STRtree(self.outlines)
        self.centres = shapely.get_coordinates(shapely.centroid(self.outlines)) if len(rows) else np.empty((0, 2))

    def read(self, name: str, level: int, rows: slice, columns: slice) -> Floats:
        scale = 2**level
        height, width = rows.stop - rows.start, columns.stop - columns.start
        left, top = columns.start * scale, rows.start * scale
        values = np.full((height, width), np.nan, np.float32)
        inside = self.tree.query(shapely.box(left, top, columns.stop * scale, rows.stop * scale))
        inside = np.sort(inside[np.isfinite(self.values[name][inside])])
        if not len(inside):
            return values
        if scale >= POINT_PX:
            x, y = np.floor((self.centres[inside] - (left, top)) / scale).astype(np.int64).T
            kept = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            at, own = y[kept] * width + x[kept], self.values[name][inside[kept]]
            counts = np.bincount(at, minlength=height * width)
            sums = np.bincount(at, own, minlength=height * width)
            known = counts > 0
            values.reshape(-1)[known] = (sums[known] / counts[known]).astype(np.float32)
            return values
        picture = Image.new("F", (width, height), float("nan"))
        draw = ImageDraw.Draw(picture)
        for number in inside.tolist():
            corners = (shapely.get_coordinates(self.outlines[number].exterior) - (left, top)) / scale - 0.5
            draw.polygon([(float(x), float(y)) for x, y in corners], fill=float(self.values[name][number]))
        return np.array(picture, np.float32)


def nuclei_rasters(table: Path, slide: Slide) -> Iterable[Raster]:
    """Yield the layers of a slide's nuclei.

    Parameters
    ----------
    table
        Its `*.nuclei.parquet`.
    slide
        The slide.

    Yields
    ------
    Raster
        For each of `SHOWN` a map as large as the slide.

    Raises
    ------
    RunError
        The table is damaged.
    """
    drawn = _Drawn(table, list(SHOWN))
    size = max(1, round(slide.region.width)), max(1, round(slide.region.height))
    for name in SHOWN:
        yield Raster(
            key=f"nuclei_{name}", title=f"Nuclei: {FEATURES[name].label.lower()}", kind="unsigned", network="",
            cell=1.0, size=size, limits=limits_of(drawn.values[name], "unsigned"), read=partial(drawn.read, name),
        )  # fmt: skip
