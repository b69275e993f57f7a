"""Slides beside what was drawn on them and what the networks found (the paper's Fig. 4, Additional file 1, Fig. S3)."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log10
from string import ascii_lowercase
from typing import TYPE_CHECKING, Literal

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path as Outline
from PIL import Image, ImageDraw

from vitrail.classes import ARTEFACT_CLASS, CLASSES, LABELS, TissueClass
from vitrail.core.files import exporting
from vitrail.inference.outputs import NOT_PREDICTED, load_map
from vitrail.inference.publish import SPOILT
from vitrail.report.data import SlideMaps
from vitrail.report.figures.heatmap import grey, inch_axes, ramp_colours
from vitrail.report.figures.spec import FigureSpec
from vitrail.report.style import CITED, INK, LINE, MUTED, drawable, save_png, style
from vitrail.slides.slide import read_thumbnail

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from vitrail.classes import MapClass
    from vitrail.inference.outputs import MapFiles
    from vitrail.report.data import ReportData
    from vitrail.slides.slide import Slide

    Picture = NDArray[np.uint8]
    Corner = Literal["lower right", "upper right"]

THUMBNAIL_PX = 1024
"""Longer side of the slides' pictures."""

_SLOT, _SIDE, _GAP, _TALLEST = 2.8425, 0.015, 0.2, 4.6  # inches
_NARROWEST = 8.4  # inches: what heading and legend need
_HEAD, _FOOT = 0.64, 0.56  # inches
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


def figures_of(data: ReportData) -> list[FigureSpec]:
    """Return the figures of each mapped slide: its classes, and its probabilities where there are any."""
    slides = enumerate(data.slide_figures.items())
    return [spec for order, (name, maps) in slides for spec in _slide_specs(name, maps, order)]


def _slide_specs(name: str, maps: SlideMaps, order: int) -> list[FigureSpec]:
    # the slide's name stands apart in captions, so that no character in it can turn the text around
    classes = FigureSpec(
        name=name, number="Figure 4", section="slides", order=order, width="wide slide",
        draw=lambda data: slide_figure(maps, data.threshold),
        caption=lambda data: Markup(
            "Slide <bdi>{}</bdi>: (a) the slide; (b) its annotation, with tissue that was not annotated in grey; (c) "
            "the class of each tile, tumor where the classification network's probability reaches {:g}, tiles without "
            "tissue left out; (d) the class of each pixel to which the segmentation network gives the highest "
            "probability. Artefacts are dark grey. Corresponds to Fig. 4 of {}."
        ).format(maps.slide_id, data.threshold, CITED),
    )  # fmt: skip
    probability = FigureSpec(
        name=f"{name}-probability", number="Figure S3", section="slides", order=order, width="wide slide",
        draw=lambda _: probability_figure(maps),
        caption=lambda _: Markup(
            "Slide <bdi>{}</bdi>: (a) the slide; (b) its annotation; then the tumor probability of each tile by the "
            "classification network, without and, where they were predicted (predict.background), with background "
            "tiles. Corresponds to Fig. S3 of {}."
        ).format(maps.slide_id, CITED),
        applies=lambda _: bool(np.isfinite(maps.classifier).any()),
    )  # fmt: skip
    return [classes, probability]


def read_slide_maps(slide: Slide, files: MapFiles) -> SlideMaps:
    """Read what a figure of a mapped slide shows.

    Parameters
    ----------
    slide
        The slide.
    files
        What `map_slide` wrote of it.

    Raises
    ------
    SlideError
        The slide cannot be read.
    """
    stored = load_map(files.small)
    return SlideMaps(
        slide_id=files.base.name,
        thumbnail=read_thumbnail(slide, THUMBNAIL_PX),
        width_um=slide.region.width * slide.mpp,
        classifier=stored.classifier,
        segmenter=stored.segmenter,
        artefacts=stored.artefacts,
        background=stored.background,
        tile_side=stored.side * (THUMBNAIL_PX / max(slide.region.width, slide.region.height)),
    )


def slide_figure(maps: SlideMaps, threshold: float) -> Figure:
    """Draw slide, annotation, classification and segmentation side by side, with a scale bar and a legend."""
    accuracy = (
        f"{maps.accuracy:.1%} of its tiles classified correctly" if np.isfinite(maps.accuracy) else "no labelled tiles"
    )
    heading = f"Slide {drawable(maps.slide_id, 32)}, patient {drawable(maps.patient_id, 20)}: {accuracy}"
    panels = [*slide_panels(maps, annotation=True), *class_panels(maps, threshold)]
    figure = panel_figure(maps, panels, heading)
    trace(figure.axes[1], maps.outlines)
    _legend(figure, panels, threshold)
    return figure


def map_figure(maps: SlideMaps, threshold: float) -> Figure:
    """Draw a slide that nobody annotated: slide, classification, segmentation and tumor probability.

    What a missing network would show is left out. Where background tiles were classified, too, a last map shows them
    (the paper's Fig. S3).
    """
    panels = [*slide_panels(maps), *class_panels(maps, threshold), *probability_panels(maps)]
    figure = panel_figure(maps, panels, f"Slide {drawable(maps.slide_id, 60)}")
    _legend(figure, panels, threshold)
    return figure


def save_map_figure(path: Path, maps: SlideMaps, threshold: float) -> None:
    """Write the figure of a slide that nobody annotated as a PNG.

    Parameters
    ----------
    path
        The file to write.
    maps, threshold
        As for `map_figure`.

    Raises
    ------
    ExchangeError
        The file cannot be written.
    """
    with style(), exporting(path) as temporary:
        save_png(map_figure(maps, threshold), temporary)


def probability_figure(maps: SlideMaps) -> Figure:
    """Draw slide, annotation and tumor probability side by side (the paper's Fig. S3)."""
    heading = f"Slide {drawable(maps.slide_id, 32)}, patient {drawable(maps.patient_id, 20)}"
    figure = panel_figure(maps, [*slide_panels(maps, annotation=True), *probability_panels(maps)], heading)
    trace(figure.axes[1], maps.outlines)
    return figure


def slide_panels(maps: SlideMaps, *, annotation: bool = False) -> list[Panel]:
    """Show the slide as it is, and beside it what was drawn on it where this is asked for."""
    panels = [Panel(title="Slide", picture=maps.thumbnail, tiles=False)]
    return [*panels, Panel(title="Annotation", picture=annotated(maps), tiles=False)] if annotation else panels


def class_panels(maps: SlideMaps, threshold: float) -> list[Panel]:
    """Show the classes of tissue tiles and of pixels, of networks that have any."""
    panels, tissue = [], np.where(maps.background, np.nan, maps.classifier).astype(np.float32)
    if np.isfinite(tissue).any():
        panels.append(Panel(title="Classification", picture=_spoilt(classified(tissue, threshold), maps)))
    if (maps.segmenter != NOT_PREDICTED).any():
        panels.append(Panel(title="Segmentation", picture=segmented(maps.segmenter)))
    return panels


def probability_panels(maps: SlideMaps) -> list[Panel]:
    """Show the tumor probability of tissue tiles, and of all tiles where background was classified, too."""
    tissue = np.where(maps.background, np.nan, maps.classifier).astype(np.float32)
    values = {"Tumor probability": tissue} if np.isfinite(tissue).any() else {}
    if (np.isfinite(maps.classifier) & maps.background).any():
        values["Including background"] = maps.classifier
    return [
        Panel(title=title, picture=_spoilt(probable(each), maps), probability=True) for title, each in values.items()
    ]


def _spoilt(picture: Picture, maps: SlideMaps) -> Picture:
    """Paint the tiles of tissue that artefacts spoil."""
    spoilt = (maps.artefacts >= SPOILT) & ~maps.background
    return np.where(spoilt[..., None], np.array(ARTEFACT_CLASS.rgb, np.uint8), picture)


def panel_figure(maps: SlideMaps, panels: Sequence[Panel], heading: str) -> Figure:
    """Draw panels side by side under a heading, in the figure's first axes, those of probabilities last.

    Call it within `style()`.
    """
    height, width = maps.thumbnail.shape[:2]
    count = len(panels)
    across = max(count * _SLOT + (count - 1) * _GAP + 2 * _SIDE, _NARROWEST)
    slot = (across - 2 * _SIDE - (count - 1) * _GAP) / count
    tall = min(slot * height / width, _TALLEST)
    figure = Figure(figsize=(across, tall + _HEAD + _FOOT))
    wide, total = tall * width / height, figure.get_figheight()
    figure.text(_SIDE / across, 1 - 0.16 / total, heading, va="center", fontsize=11, weight="bold")
    rows, columns = maps.classifier.shape
    for number, panel in enumerate(panels):
        axes = inch_axes(figure, _SIDE + number * (slot + _GAP) + (slot - wide) / 2, _FOOT, wide, tall)
        right, lower = (columns * maps.tile_side, rows * maps.tile_side) if panel.tiles else (width, height)
        coarse = panel.tiles and panel.title != "Segmentation"
        axes.imshow(panel.picture, extent=(0.0, right, lower, 0.0), interpolation="nearest" if coarse else "auto")
        frame(axes, f"{ascii_lowercase[number]}  {panel.title}", width, height)
    scale_bar(figure.axes[0], maps.width_um, tall)
    if panels[-1].probability:
        # the colours of probabilities below the panels that show them, one panel wide
        first = figure.axes[-sum(panel.probability for panel in panels)].get_position()
        end = figure.axes[-1].get_position().x1
        bar_width = min(first.width, end - first.x0)
        axes = figure.add_axes((end - bar_width, (_FOOT - 0.2) / total, bar_width, 0.12 / total))
        axes.imshow(probable(np.linspace(0, 1, 256, dtype=np.float32)[None]), extent=(0, 1, 0, 1), aspect="auto")
        axes.set(yticks=[], xticks=[0, 0.5, 1], xlim=(0, 1))
        none, _, certain = axes.set_xticklabels(["0", "tumor probability", "1"], fontsize=8)
        none.set_horizontalalignment("left")
        certain.set_horizontalalignment("right")
        axes.tick_params(length=0, pad=3)
        axes.grid(visible=False)
        axes.spines[:].set(visible=True, color=LINE, linewidth=0.8)
    return figure


def annotated(maps: SlideMaps) -> Picture:
    """Return the thumbnail in grey with its outlines filled, `[h, w, 3]`."""
    canvas = grey(maps.thumbnail, contrast=0.75)
    height, width = canvas.shape[:2]
    for tissue, rings in maps.outlines.items():
        inside = np.zeros((height, width), bool)  # by the even-odd rule: a hole is a ring within a ring
        for ring in rings:
            filled = Image.new("1", (width, height))
            ImageDraw.Draw(filled).polygon([(float(x) - 0.5, float(y) - 0.5) for x, y in ring], fill=1)
            inside ^= np.asarray(filled, bool)
        canvas[inside] = 0.4 * canvas[inside] + 0.6 * np.array(tissue.rgb)
    return np.rint(canvas).astype(np.uint8)


def classified(probability: NDArray[np.float32], threshold: float) -> Picture:
    """Return the class of each tile as a colour, the paler the nearer to the threshold, `[rows, columns, 3]`.

    Tiles without a prediction, NaN in `probability` `[rows, columns]`, are white.
    """
    predicted = np.isfinite(probability)
    values = np.where(predicted, probability, threshold).astype(np.float64)
    tumor = values >= threshold
    room = np.where(tumor, max(1 - threshold, 1e-9), max(threshold, 1e-9))
    strength = _FAINTEST + (1 - _FAINTEST) * np.clip(np.abs(values - threshold) / room, 0, 1) ** 0.5
    colours = np.where(tumor[..., None], *(np.array(tissue.rgb, np.float64) for tissue in LABELS))
    painted = 255 + (colours - 255) * (strength * predicted)[..., None]
    return np.rint(painted).astype(np.uint8)


def segmented(classes: Picture) -> Picture:
    """Return the class of each pixel as a colour, artefacts dark grey, white without a prediction, `[H, W, 3]`."""
    palette = np.full((256, 3), 255, np.uint8)
    palette[: len(CLASSES) + 1] = [*(tissue.rgb for tissue in CLASSES), ARTEFACT_CLASS.rgb]
    picture: Picture = palette[classes]
    return picture


def probable(probability: NDArray[np.float32]) -> Picture:
    """Return each tile's tumor probability as a colour, white where it is NaN, `[rows, columns, 3]`."""
    predicted = np.isfinite(probability)
    painted = ramp_colours(_RAMP, np.where(predicted, probability, 0).astype(np.float64))
    painted[~predicted] = 255
    return np.rint(painted).astype(np.uint8)


def trace(axes: Axes, outlines: dict[TissueClass, list[NDArray[np.float64]]]) -> None:
    """Draw outlines as lines, dashed for all but tumor, so that they differ without colour."""
    for tissue, rings in outlines.items():
        dash = "-" if tissue is TissueClass.TUMOR else (0, (3, 1.2))
        colour = [channel / 255 * 0.62 for channel in tissue.rgb]
        for ring in rings:
            outline = Outline(ring, closed=False)
            axes.add_patch(PathPatch(outline, fill=False, edgecolor=colour, linewidth=1.0, linestyle=dash))


def frame(axes: Axes, title: str, width: int, height: int) -> None:
    """Give a picture of this width and height, in the units of its axes, a title and a thin frame without ticks."""
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], facecolor="#ffffff")
    axes.set_title(title, fontsize=9.5, pad=5)
    axes.grid(visible=False)
    axes.spines[:].set(visible=True, color=LINE, linewidth=0.8)


def scale_bar_um(width_um: float) -> float:
    """Return the largest 1, 2 or 5 times a power of ten that is at most a third of the width."""
    power = 10.0 ** floor(log10(width_um / 3))
    return max(step * power for step in (1, 2, 5) if step * power <= width_um / 3)


def scale_bar(axes: Axes, width_um: float, tall: float) -> None:
    """Draw a bar below a picture that is `width_um` wide on the slide and `tall` inches high on paper."""
    length_um = scale_bar_um(width_um)
    name = f"{length_um / 1000:g} mm" if length_um >= _NEAREST_UM else f"{length_um:g} \N{MICRO SIGN}m"
    end, below = length_um / width_um, -0.16 / tall
    axes.plot(
        [0, end], [below, below], transform=axes.transAxes, color=INK, linewidth=3, clip_on=False, solid_capstyle="butt"
    )
    axes.text(end, below, f"  {name}", transform=axes.transAxes, va="center_baseline", fontsize=8.5)


def class_patches(kinds: Iterable[TissueClass | MapClass]) -> list[Patch]:
    """Return the entries of a legend."""
    return [Patch(facecolor=kind.colour, edgecolor=MUTED, linewidth=0.5, label=kind.title) for kind in kinds]


def class_legend(
    figure: Figure, handles: list[Patch], right: float, upper: float, corner: Corner = "lower right"
) -> None:
    """Name the colours of classes in one line, whose corner lies at these shares of the figure's width and height."""
    figure.legend(
        handles=handles, loc=corner, bbox_to_anchor=(right, upper), ncols=len(handles), borderaxespad=0,
        handlelength=1.1, handleheight=1.1, columnspacing=1.4, borderpad=0.1,
    )  # fmt: skip


def _legend(figure: Figure, panels: list[Panel], threshold: float) -> None:
    """Name the colours of the classes below the panels that show them, and say what paleness means."""
    last = max(number for number, panel in enumerate(panels) if not panel.probability)
    right, total = figure.axes[last].get_position().x1, figure.get_figheight()
    class_legend(figure, class_patches([*CLASSES, ARTEFACT_CLASS]), right, (_FOOT - 0.07) / total, "upper right")
    titles = [panel.title for panel in panels]
    if "Classification" in titles:
        letter = ascii_lowercase[titles.index("Classification")]
        note = f"{letter}: the paler a tile, the nearer its tumor probability to the threshold {threshold:g}; "
        figure.text(right, 0.14 / total, f"{note}white: no tissue", ha="right", va="center", fontsize=8, color=MUTED)
