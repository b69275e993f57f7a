"""Why the classifier says what it says on a whole slide: each method's map over the slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vitrail.core.files import exporting, read_json
from vitrail.inference.publish import SPOILT
from vitrail.interop.class_map import read_class_map
from vitrail.quality.areas import looked_up
from vitrail.report.figures.heatmap import PERCENTILE, SHADOW, colour_bar, grey, paint, scale_of
from vitrail.report.figures.slide_maps import Panel, panel_figure, probability_panels, slide_panels
from vitrail.report.style import MUTED, drawable, save_png, style

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from vitrail.inference.outputs import MapFiles
    from vitrail.report.data import ReportData, SlideMaps

    Floats = NDArray[np.float32]

_BAR, _BELOW = 0.12, 0.2  # inches


def save_explained_figure(path: Path, maps: SlideMaps, files: MapFiles) -> None:
    """Write the figure of an explained slide as a PNG.

    Parameters
    ----------
    path
        The file to write.
    maps
        The slide.
    files
        What `map_slide` wrote of it.

    Raises
    ------
    ExchangeError
        The map of explanations cannot be read, or the figure cannot be written.
    """
    agreement = read_json(files.facts)["explained"]["agreement"]
    with style(), exporting(path) as temporary:
        save_png(explained_figure(maps, read_explained(files, maps), agreement), temporary)


def save_explained_figures(data: ReportData, folder: Path) -> dict[str, str]:
    """Write the figures of a report's explained slides as PNGs.

    Parameters
    ----------
    data
        What the report shows.
    folder
        Where to.

    Returns
    -------
    dict[str, str]
        By slide, the name of its file.
    """
    mapped, names = {files.base.name: files for files in data.mapped}, {}
    for name, maps in data.slide_figures.items():
        files = mapped.get(maps.slide_id)
        if files is not None and files.explained.is_file():
            names[maps.slide_id] = f"{name}-explanations.png"
            save_explained_figure(folder / names[maps.slide_id], maps, files)
    return names


def read_explained(files: MapFiles, maps: SlideMaps) -> dict[str, Floats]:
    """Read the maps of an explained slide, without tiles that are background or artefacts.

    Parameters
    ----------
    files
        What `map_slide` wrote of the slide.
    maps
        The slide.

    Returns
    -------
    dict[str, Floats]
        By method, as viewers show its name, `[h, w]` in the pixels of the thumbnail, NaN where there is nothing to
        show.

    Raises
    ------
    ExchangeError
        The file cannot be read.
    """
    stored = read_class_map(files.explained)
    height, width = maps.thumbnail.shape[:2]
    fine = [level for level, size in enumerate(stored.header.levels) if max(size) >= max(width, height)]
    values = stored.read(level=max(fine, default=0))
    rows, columns = (np.arange(length, dtype=np.float64) + 0.5 for length in (height, width))
    good_tiles = ~maps.background & (maps.artefacts < SPOILT)
    good = looked_up(good_tiles, (maps.tile_side, maps.tile_side), (rows, columns))
    explained = {}
    for number, channel in enumerate(stored.header.channels):
        # values and their weights are resized apart, so that NaN does not bleed into its neighbours
        finite = np.isfinite(values[..., number])
        total, weight = (
            np.asarray(Image.fromarray(part.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))
            for part in (np.where(finite, values[..., number], 0), finite)
        )
        means = np.where((weight > 0.5) & good, total / np.maximum(weight, 1e-6), np.float32(np.nan))
        explained[channel.name] = means.astype(np.float32)
    return explained


def explained_figure(
    maps: SlideMaps, explained: Mapping[str, Floats], agreement: Mapping[str, float | None] | None
) -> Figure:
    """Draw slide, each method's map over it and the tumor probability side by side.

    Each map has one signed scale for the whole slide. Call it within `style()`.

    Parameters
    ----------
    maps
        The slide.
    explained
        What `read_explained` returned.
    agreement
        Of two methods, with `pearson` and `spearman`.
    """
    scales = {name: scale_of([values]) for name, values in explained.items()}
    panels = slide_panels(maps)
    for name, values in explained.items():
        picture = paint(grey(maps.thumbnail, SHADOW), values.astype(np.float64), scales[name])
        panels.append(Panel(title=name, picture=picture, tiles=False))
    panels += probability_panels(maps)[:1]
    figure = panel_figure(maps, panels, f"Slide {drawable(maps.slide_id, 48)}: why the classifier says so")
    total = figure.get_figheight()
    for number, scale in enumerate(scales.values(), 1):
        above = figure.axes[number].get_position()
        bar = figure.add_axes((above.x0, above.y0 - _BELOW / total, above.width, _BAR / total))
        colour_bar(bar, scale, "")
    note = f"full colour: the {PERCENTILE}th percentile of a map's magnitudes on this slide"
    coefficients = {name: (agreement or {}).get(name) for name in ("pearson", "spearman")}
    words = [f"{name.title()} {value:.2f}" for name, value in coefficients.items() if value is not None]
    if words:
        which = "both maps" if len(explained) == 2 else "the first two maps"
        note += f"; agreement of {which} over the tissue: {', '.join(words)}"
    left = figure.axes[1].get_position().x0
    figure.text(left, 0.08 / total, note, va="center", fontsize=8, color=MUTED)
    return figure
