"""Why the classifier says what it says on a whole slide: both methods' maps over the slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vitrail.core.files import exporting, read_json
from vitrail.inference.context import looked_up
from vitrail.inference.outputs import MapFiles
from vitrail.interop.class_map import read_class_map
from vitrail.report.figures.heatmap import PERCENTILE, colour_bar, overlaid, scale_of
from vitrail.report.figures.slide_maps import SPOILT, Panel, panel_figure, probability_panels, slide_panel
from vitrail.report.style import MUTED, drawable, save_png, style
from vitrail.report.whole_slide import read_slide_maps
from vitrail.tiles.extract import open_cohort_slide

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from vitrail.report.data import SlideMaps
    from vitrail.settings.load import Settings
    from vitrail.slides.cohort import CohortSlide

    Floats = NDArray[np.float32]

_BAR, _BELOW = 0.12, 0.2  # inches


def save_explained_figure(maps: SlideMaps, files: MapFiles) -> None:
    """Write the figure of an explained slide as a PNG, `files.explained_picture`.

    Raises
    ------
    ExchangeError
        The map of explanations cannot be read, or the figure cannot be written.
    """
    agreement = read_json(files.facts)["explained"]["agreement"]
    with style(), exporting(files.explained_picture) as temporary:
        save_png(explained_figure(maps, read_explained(files, maps), agreement), temporary)


def draw_explained(folder: Path, entries: Iterable[CohortSlide], settings: Settings) -> None:
    """Draw the explained slides among a run's maps, each beside its map."""
    for entry in entries:
        files = MapFiles(base=folder / entry.slide_id)
        if files.facts.is_file():
            save_explained_figure(read_slide_maps(open_cohort_slide(entry, settings), files), files)


def read_explained(files: MapFiles, maps: SlideMaps) -> dict[str, Floats]:
    """Read the maps of an explained slide, without tiles that are background or artefacts.

    Returns
    -------
    By method, as viewers show its name, `[h, w]` in the pixels of the thumbnail, NaN where there is nothing to show.

    Raises
    ------
    ExchangeError
        The file cannot be read.
    """
    stored = read_class_map(files.explained)
    height, width = maps.thumbnail.shape[:2]
    fine = [level for level, size in enumerate(stored.header.levels) if max(size) >= max(width, height)]
    values = stored.read(level=max(fine, default=0))
    shown = _shown(maps)
    names = [channel.name for channel in stored.header.channels]
    return {
        name: np.where(shown, _resized(values[..., number], (width, height)), np.float32(np.nan))
        for number, name in enumerate(names)
    }


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
    panels = [slide_panel(maps)]
    for name, values in explained.items():
        picture = overlaid(maps.thumbnail, values.astype(np.float64), scales[name])
        panels.append(Panel(title=name, picture=picture, tiles=False))
    panels += probability_panels(maps)[:1]
    figure = panel_figure(maps, panels, f"Slide {drawable(maps.slide_id, 48)}: why the classifier says so")
    total = figure.get_figheight()
    for number, scale in enumerate(scales.values(), 1):
        place = figure.axes[number].get_position()
        bottom = place.y0 - _BELOW / total
        colour_bar(figure.add_axes((place.x0, bottom, place.width, _BAR / total)), scale, "")
    _note(figure, agreement)
    return figure


def _note(figure: Figure, agreement: Mapping[str, float | None] | None) -> None:
    said = f"full colour: the {PERCENTILE}th percentile of a map's magnitudes on this slide"
    known = {name: value for name in ("pearson", "spearman") if (value := (agreement or {}).get(name)) is not None}
    if known:
        told = ", ".join(f"{name.title()} {value:.2f}" for name, value in known.items())
        said += f"; agreement of both maps over the tissue: {told}"
    left = figure.axes[1].get_position().x0
    figure.text(left, 0.08 / figure.get_figheight(), said, va="center", fontsize=8, color=MUTED)


def _shown(maps: SlideMaps) -> NDArray[np.bool_]:
    """Return which pixels of the thumbnail lie in tiles of tissue that no artefact spoils."""
    good = ~maps.background & (maps.artefacts < SPOILT)
    rows, columns = (np.arange(length, dtype=np.float64) + 0.5 for length in maps.thumbnail.shape[:2])
    return looked_up(good, (maps.tile_side, maps.tile_side), (rows, columns))


def _resized(values: Floats, size: tuple[int, int]) -> Floats:
    """Resize a map to width and height, NaN where nothing was looked at, without it bleeding into its neighbours."""
    known = np.isfinite(values)
    parts = np.where(known, values, 0).astype(np.float32), known.astype(np.float32)
    total, weight = (np.asarray(Image.fromarray(part).resize(size, Image.Resampling.BILINEAR)) for part in parts)
    return np.where(weight > 0.5, total / np.maximum(weight, 1e-6), np.float32(np.nan)).astype(np.float32)
