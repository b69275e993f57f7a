"""Slides beside what was drawn on them and what the networks found (the paper's Fig. 4, Additional file 1, Fig. S3)."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log10
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path as Outline
from PIL import Image, ImageDraw

from vitrail.classes import ARTEFACT_CLASS, CLASSES, LABELS, TissueClass
from vitrail.report.style import INK, LINE, MUTED, drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from vitrail.report.data import SlideMaps

    Picture = NDArray[np.uint8]

SPOILT = 0.5
"""A tile is an artefact when at least this share of it is."""

_SLOT, _SIDE, _GAP, _TALLEST = 2.8425, 0.015, 0.2, 4.6  # inches
_NARROWEST = 8.4  # inches: what heading and legend need
_HEAD, _FOOT = 0.64, 0.56  # inches
_NOTHING = 255
_FAINTEST = 0.3
_NEAREST_UM = 1000
_RAMP = ((255, 246, 214), (255, 208, 92), (238, 98, 42), (140, 0, 84))
"""Of probabilities, from 0 to 1; it darkens evenly, for every kind of colour vision."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Panel:
    """A picture in a row of pictures.

    Attributes
    ----------
    title
        Above it.
    picture
        `[h, w, 3]`, RGB.
    tiles
        Whether it covers the tiles, which may reach beyond the slide.
    probability
        Whether its colours are those of probabilities.
    """

    title: str
    picture: Picture
    tiles: bool = True
    probability: bool = False


def slide_figure(maps: SlideMaps, threshold: float) -> Figure:
    """Draw slide, annotation, classification and segmentation side by side, with a scale bar and a legend."""
    right = (
        f"{maps.accuracy:.1%} of its tiles classified correctly" if np.isfinite(maps.accuracy) else "no labelled tiles"
    )
    heading = f"Slide {drawable(maps.slide_id, 32)}, patient {drawable(maps.patient_id, 20)}: {right}"
    annotation = Panel(title="Annotation", picture=annotated(maps), tiles=False)
    panels = [slide_panel(maps), annotation, *_class_panels(maps, threshold)]
    figure = panel_figure(maps, panels, heading)
    trace(figure.axes[1], maps.outlines)
    _legend(figure, panels, threshold)
    return figure


def map_figure(maps: SlideMaps, threshold: float) -> Figure:
    """Draw a slide that nobody annotated: slide, classification, segmentation and tumor probability.

    What a missing network would show is left out. Where background tiles were classified, too, a last map shows them
    (the paper's Fig. S3).
    """
    panels = [slide_panel(maps), *_class_panels(maps, threshold), *probability_panels(maps)]
    figure = panel_figure(maps, panels, f"Slide {drawable(maps.slide_id, 60)}")
    _legend(figure, panels, threshold)
    return figure


def probability_figure(maps: SlideMaps) -> Figure:
    """Draw slide, annotation and tumor probability side by side (the paper's Fig. S3)."""
    annotation = Panel(title="Annotation", picture=annotated(maps), tiles=False)
    heading = f"Slide {drawable(maps.slide_id, 32)}, patient {drawable(maps.patient_id, 20)}"
    figure = panel_figure(maps, [slide_panel(maps), annotation, *probability_panels(maps)], heading)
    trace(figure.axes[1], maps.outlines)
    return figure


def slide_panel(maps: SlideMaps) -> Panel:
    """Show the slide as it is."""
    return Panel(title="Slide", picture=maps.thumbnail, tiles=False)


def _class_panels(maps: SlideMaps, threshold: float) -> list[Panel]:
    panels = []
    tissue = np.where(maps.background, np.nan, maps.classifier).astype(np.float32)
    if np.isfinite(tissue).any():
        panels.append(Panel(title="Classification", picture=_spoilt(classified(tissue, threshold), maps)))
    if (maps.segmenter != _NOTHING).any():
        panels.append(Panel(title="Segmentation", picture=segmented(maps.segmenter)))
    return panels


def probability_panels(maps: SlideMaps) -> list[Panel]:
    """Show the tumor probability of tissue tiles, and of all tiles where background was classified, too."""
    known = np.isfinite(maps.classifier)
    tissue = np.where(maps.background, np.nan, maps.classifier).astype(np.float32)
    shown = {"Tumor probability": tissue} if np.isfinite(tissue).any() else {}
    if (known & maps.background).any():
        shown["Including background"] = maps.classifier
    return [
        Panel(title=title, picture=_spoilt(probable(values), maps), probability=True) for title, values in shown.items()
    ]


def _spoilt(picture: Picture, maps: SlideMaps) -> Picture:
    """Paint the tiles of tissue that artefacts spoil."""
    spoilt = (maps.artefacts >= SPOILT) & ~maps.background
    return np.where(spoilt[..., None], np.array(ARTEFACT_CLASS.rgb, np.uint8), picture)


def panel_figure(maps: SlideMaps, panels: list[Panel], heading: str) -> Figure:
    """Draw panels side by side under a heading, in the figure's first axes; call it within `style()`."""
    height, width = maps.thumbnail.shape[:2]
    count = len(panels)
    across = max(count * _SLOT + (count - 1) * _GAP + 2 * _SIDE, _NARROWEST)
    slot = (across - 2 * _SIDE - (count - 1) * _GAP) / count
    tall = min(slot * height / width, _TALLEST)
    figure = Figure(figsize=(across, tall + _HEAD + _FOOT))
    wide, total = tall * width / height, figure.get_figheight()
    figure.text(_SIDE / across, 1 - 0.16 / total, heading, va="center", fontsize=11, weight="bold")
    rows, columns = maps.classifier.shape
    grid, whole = (0.0, columns * maps.tile_side, rows * maps.tile_side, 0.0), (0.0, float(width), float(height), 0.0)
    for number, panel in enumerate(panels):
        left = _SIDE + number * (slot + _GAP) + (slot - wide) / 2
        axes = figure.add_axes((left / across, _FOOT / total, wide / across, tall / total))
        coarse = panel.tiles and panel.title != "Segmentation"
        extent = grid if panel.tiles else whole
        axes.imshow(panel.picture, extent=extent, interpolation="nearest" if coarse else "auto")
        frame(axes, f"{'abcde'[number]}  {panel.title}", (width, height))
    scale_bar(figure.axes[0], maps.width_um, tall)
    if panels[-1].probability:
        _probability_bar(figure, sum(panel.probability for panel in panels))
    return figure


def annotated(maps: SlideMaps) -> NDArray[np.uint8]:
    """Return the thumbnail in grey with its outlines filled, `[h, w, 3]`."""
    grey = np.asarray(maps.thumbnail @ np.array([0.299, 0.587, 0.114]), np.float64)
    canvas = np.repeat((255 - (255 - grey) * 0.75)[..., None], 3, axis=2)
    for tissue, rings in maps.outlines.items():
        inside = _inside(rings, canvas.shape[:2])
        canvas[inside] = 0.4 * canvas[inside] + 0.6 * np.array(tissue.rgb)
    return np.rint(canvas).astype(np.uint8)


def classified(probability: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """Return the class of each tile as a colour, the paler the nearer to the threshold, `[rows, columns, 3]`.

    Tiles without a prediction are white.
    """
    known = np.isfinite(probability)
    values = np.where(known, probability, threshold).astype(np.float64)
    tumor = values >= threshold
    room = np.where(tumor, max(1 - threshold, 1e-9), max(threshold, 1e-9))
    strength = _FAINTEST + (1 - _FAINTEST) * np.clip(np.abs(values - threshold) / room, 0, 1) ** 0.5
    colours = np.where(tumor[..., None], *(np.array(tissue.rgb, np.float64) for tissue in LABELS))
    painted = 255 + (colours - 255) * (strength * known)[..., None]
    return np.rint(painted).astype(np.uint8)


def segmented(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the class of each pixel as a colour, artefacts dark grey, white without a prediction, `[H, W, 3]`."""
    palette = np.full((256, 3), 255, np.uint8)
    palette[: len(CLASSES) + 1] = [*(tissue.rgb for tissue in CLASSES), ARTEFACT_CLASS.rgb]
    picture: NDArray[np.uint8] = palette[classes]
    return picture


def probable(probability: NDArray[np.float32]) -> Picture:
    """Return each tile's tumor probability as a colour, white where there is none, `[rows, columns, 3]`."""
    known = np.isfinite(probability)
    values, stops = np.where(known, probability, 0).astype(np.float64), np.array(_RAMP, np.float64)
    at = np.linspace(0, 1, len(stops))
    painted = np.stack([np.interp(values, at, stops[:, channel]) for channel in range(3)], axis=-1)
    painted[~known] = _NOTHING
    return np.rint(painted).astype(np.uint8)


def scale_bar_um(width_um: float) -> float:
    """Return the largest 1, 2 or 5 times a power of ten that is at most a third of the width."""
    power = 10.0 ** floor(log10(width_um / 3))
    return max(step * power for step in (1, 2, 5) if step * power <= width_um / 3)


def _inside(rings: list[NDArray[np.float64]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Fill rings by the even-odd rule, a hole being a ring within a ring, to within a pixel."""
    inside = np.zeros(shape, bool)
    for ring in rings:
        canvas = Image.new("1", (shape[1], shape[0]))
        ImageDraw.Draw(canvas).polygon([(float(x) - 0.5, float(y) - 0.5) for x, y in ring], fill=1)
        inside ^= np.asarray(canvas, bool)
    return inside


def trace(axes: Axes, outlines: dict[TissueClass, list[NDArray[np.float64]]]) -> None:
    """Draw outlines as lines, dashed for all but tumor, so that they differ without colour."""
    for tissue, rings in outlines.items():
        dash = "-" if tissue is TissueClass.TUMOR else (0, (3, 1.2))
        colour = [channel / 255 * 0.62 for channel in tissue.rgb]
        for ring in rings:
            outline = PathPatch(
                Outline(ring, closed=False), fill=False, edgecolor=colour, linewidth=1.0, linestyle=dash
            )
            axes.add_patch(outline)


def frame(axes: Axes, title: str, size: tuple[int, int]) -> None:
    """Give a picture a title, and a thin frame without ticks around its `size`, width and height."""
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0), xticks=[], yticks=[], facecolor="#ffffff")
    axes.set_title(title, fontsize=9.5, pad=5)
    axes.grid(visible=False)
    axes.spines[:].set(visible=True, color=LINE, linewidth=0.8)


def scale_bar(axes: Axes, width_um: float, tall: float) -> None:
    """Draw a bar below a picture that is `width_um` wide on the slide and `tall` inches high on paper."""
    length = scale_bar_um(width_um)
    name = f"{length / 1000:g} mm" if length >= _NEAREST_UM else f"{length:g} \N{MICRO SIGN}m"
    end, below = length / width_um, -0.16 / tall
    axes.plot(
        [0, end], [below, below], transform=axes.transAxes, color=INK, linewidth=3, clip_on=False, solid_capstyle="butt"
    )
    axes.text(end, below, f"  {name}", transform=axes.transAxes, va="center_baseline", fontsize=8.5)


def _probability_bar(figure: Figure, count: int) -> None:
    """Draw the colours of probabilities below the last `count` panels."""
    total, below = figure.get_figheight(), figure.axes[-count].get_position()
    end = figure.axes[-1].get_position().x1
    width = min(below.width, end - below.x0)
    axes = figure.add_axes((end - width, (_FOOT - 0.2) / total, width, 0.12 / total))
    axes.imshow(probable(np.linspace(0, 1, 256, dtype=np.float32)[None]), extent=(0, 1, 0, 1), aspect="auto")
    axes.set(yticks=[], xticks=[0, 0.5, 1], xlim=(0, 1))
    first, _, last = axes.set_xticklabels(["0", "tumor probability", "1"], fontsize=8)
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    axes.tick_params(length=0, pad=3)
    axes.grid(visible=False)
    axes.spines[:].set(visible=True, color=LINE, linewidth=0.8)


def _legend(figure: Figure, panels: list[Panel], threshold: float) -> None:
    """Name the colours of the classes below the panels that show them, and say what paleness means."""
    patches = {kind.title: kind.colour for kind in CLASSES} | {ARTEFACT_CLASS.title: ARTEFACT_CLASS.colour}
    handles = [Patch(facecolor=colour, edgecolor=MUTED, linewidth=0.5, label=name) for name, colour in patches.items()]
    last = max(number for number, panel in enumerate(panels) if not panel.probability)
    right, total = figure.axes[last].get_position().x1, figure.get_figheight()
    figure.legend(
        handles=handles, loc="upper right", bbox_to_anchor=(right, (_FOOT - 0.07) / total), ncols=len(handles),
        borderaxespad=0, handlelength=1.1, handleheight=1.1, columnspacing=1.4, borderpad=0.1,
    )  # fmt: skip
    titles = [panel.title for panel in panels]
    if "Classification" in titles:
        letter = "abcde"[titles.index("Classification")]
        note = f"{letter}: the paler a tile, the nearer its tumor probability to the threshold {threshold:g}; "
        figure.text(right, 0.14 / total, f"{note}white: no tissue", ha="right", va="center", fontsize=8, color=MUTED)
