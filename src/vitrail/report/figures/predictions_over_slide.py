"""Predictions laid over a slide, as a viewer shows them (the paper's Additional file 1, Fig. S2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import binary_erosion

from vitrail.classes import ARTEFACT_CLASS, CLASSES, LABELS, TissueClass
from vitrail.inference.outputs import NOT_PREDICTED
from vitrail.inference.publish import SPOILT
from vitrail.report.data import Section
from vitrail.report.figures.heatmap import grey, inch_axes, show
from vitrail.report.figures.slide_maps import class_legend, frame, scale_bar, segmented
from vitrail.report.figures.spec import FigureSpec
from vitrail.report.style import CITED, MUTED, drawable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from vitrail.report.data import Overlaid, ReportData, SlideMaps

    Picture = NDArray[np.uint8]

SECTION_PX = 480
"""Side of the picture of a section."""

_ARTEFACT = len(CLASSES)
_FEWEST, _MOST = 2, 4  # tiles across a section
_SHOWN = (TissueClass.TUMOR, TissueClass.NON_TUMOR, TissueClass.OTHER)
_STRENGTH, _EDGE, _EDGE_PX = 0.42, (60, 24, 0), 2
_WIDTH, _SIDE, _GAP, _BESIDE, _TALLEST = 12.0, 0.02, 0.24, 0.05, 4.4  # inches
_HEAD, _BETWEEN, _UNDER, _FOOT = 0.64, 0.62, 0.22, 0.4  # inches
_SECTIONS = 3


def figures_of(data: ReportData) -> tuple[FigureSpec, ...]:
    """Return the figure of a run that has a slide with maps of both networks."""
    if (overlaid := data.overlaid) is None:
        return ()
    letters = "cde"[: len(overlaid.sections)]
    enlarged = {0: "", 1: f" ({letters}) A section of both maps, enlarged."}.get(
        len(letters), f" ({letters[:1]}) to ({letters[-1:]}) Sections of both maps, enlarged."
    )
    caption = Markup(
        "Predictions over slide <bdi>{}</bdi>, as a viewer such as QuPath shows them; the slide is in grey. (a) "
        "Classification map: a tile is tumor where its probability reaches {:g}. (b) Segmentation map: the likeliest "
        "class of each pixel.{} Around tumor runs a dark line. Background is left out. Corresponds to Fig. S2 of {}."
    ).format(overlaid.maps.slide_id, data.threshold, enlarged, CITED)
    return (
        FigureSpec(
            name="overlaid", number="Figure S2", section="overlay",
            draw=lambda data: overlaid_figure(overlaid, data.threshold), caption=lambda _: caption,
        ),
    )  # fmt: skip


def choose_slide(slides: Sequence[SlideMaps]) -> SlideMaps | None:
    """Choose the first slide with the most of both tumor and non-tumor among those of which both networks have maps."""
    fit = [maps for maps in slides if (np.isfinite(maps.classifier) & ~maps.background).any()]
    fit = [maps for maps in fit if np.isin(maps.segmenter, _SHOWN).any()]
    return max(fit, key=lambda maps: min((maps.segmenter == kind).mean() for kind in LABELS), default=None)


def choose_sections(maps: SlideMaps) -> tuple[Section, ...]:
    """Choose up to three sections that do not overlap: tumor beside non-tumor, other, and where the networks differ.

    Sections are squares of 2 to 4 whole tiles, a third of the slide's shorter side where that lies between.
    """
    height, width = (int(length / maps.tile_side + 1e-6) for length in maps.thumbnail.shape[:2])
    side = min(max(_FEWEST, min(height, width) // _SECTIONS), _MOST)
    if min(height, width) < side:
        return ()
    rows, columns = maps.classifier.shape
    pixels = maps.segmenter.reshape(rows, maps.segmenter.shape[0] // rows, columns, -1)
    tumor, non_tumor, other = ((pixels == kind).mean(axis=(1, 3)) for kind in _SHOWN)
    tissue = tumor + non_tumor + other
    tumor_share = np.divide(tumor, tissue, out=np.zeros_like(tissue), where=tissue > 0)
    both = np.isfinite(maps.classifier) & ~maps.background & (tissue > 0) & (maps.artefacts < SPOILT)
    differ = np.where(both, np.abs(np.nan_to_num(maps.classifier) - tumor_share), 0)
    # what makes a section worth showing, by tile: `[k, rows, columns]`, of which the least counts
    reasons = {
        "Tumor beside non-tumor": np.stack([tumor, non_tumor]),
        "Where other is most frequent": other[None],
        "Where the networks differ": differ[None],
    }
    sections: list[Section] = []
    free = np.ones((height - side + 1, width - side + 1), bool)
    for title, values in reasons.items():
        means = sliding_window_view(values[..., :height, :width], (side, side), axis=(-2, -1)).mean((-2, -1))
        score = np.where(free, means.min(axis=0).round(9), 0)
        if score.any():
            row, column = (int(index) for index in np.unravel_index(score.argmax(), score.shape))
            sections.append(Section(title=title, row=row, column=column, tiles=side))
            free[max(row - side + 1, 0) : row + side, max(column - side + 1, 0) : column + side] = False
    return tuple(sections)


def called(maps: SlideMaps, threshold: float) -> Picture:
    """Return the class of each tile as in `SlideMaps.segmenter`, `[rows, columns]`."""
    tumor = maps.classifier >= threshold
    classes = np.where(tumor, TissueClass.TUMOR, TissueClass.NON_TUMOR).astype(np.uint8)
    classes[maps.artefacts >= SPOILT] = _ARTEFACT
    classes[maps.background | ~np.isfinite(maps.classifier)] = NOT_PREDICTED
    return classes


def laid_over(picture: Picture, classes: Picture, rows: float, columns: float) -> Picture:
    """Lay classes over a picture in grey; background and what was not predicted stay free.

    Parameters
    ----------
    picture
        `[h, w, 3]`, RGB.
    classes
        `[H, W]`, as in `SlideMaps.segmenter`.
    rows, columns
        How many of `classes` the picture covers, from the first.

    Returns
    -------
    Picture
        `[h, w, 3]`, RGB, with a dark line around tumor.
    """
    nearest = (
        np.minimum((np.arange(pixels) + 0.5) * cells / pixels, most - 1).astype(np.int64)
        for pixels, cells, most in zip(picture.shape[:2], (rows, columns), classes.shape, strict=True)
    )
    sampled = classes[np.ix_(*nearest)]
    base, tumor = grey(picture), sampled == TissueClass.TUMOR
    free = (sampled == TissueClass.BACKGROUND) | (sampled == NOT_PREDICTED)
    strength = np.where(free, 0, _STRENGTH)[..., None]
    painted = base + strength * (segmented(sampled) - base)
    painted[tumor & ~binary_erosion(tumor, iterations=_EDGE_PX, border_value=1)] = _EDGE
    return np.rint(painted).astype(np.uint8)


def overlaid_figure(overlaid: Overlaid, threshold: float) -> Figure:
    """Draw both maps over a slide, and sections of them enlarged; call it within `style()`."""
    maps = overlaid.maps
    height, width = maps.thumbnail.shape[:2]
    slot = (_WIDTH - 2 * _SIDE - _GAP) / 2
    tall = min(slot * height / width, _TALLEST)
    wide = tall * width / height
    cell = (_WIDTH - 2 * _SIDE - (_SECTIONS - 1) * _GAP - _SECTIONS * _BESIDE) / (2 * _SECTIONS)
    lower = _BETWEEN + cell + _UNDER if overlaid.sections else _UNDER
    figure = Figure(figsize=(_WIDTH, _HEAD + tall + lower + _FOOT))
    total = figure.get_figheight()
    heading = f"Slide {drawable(maps.slide_id, 32)}, patient {drawable(maps.patient_id, 20)}"
    heading += ": predictions over the slide"
    figure.text(_SIDE / _WIDTH, 1 - 0.16 / total, heading, va="center", fontsize=11, weight="bold")
    layers = {"Classification": called(maps, threshold), "Segmentation": maps.segmenter}
    for number, (title, classes) in enumerate(layers.items()):
        axes = inch_axes(figure, _SIDE + number * (slot + _GAP) + (slot - wide) / 2, total - _HEAD - tall, wide, tall)
        _draw_layer(axes, overlaid, classes)
        frame(axes, f"{'ab'[number]}  {title}", width, height)
    scale_bar(figure.axes[0], maps.width_um, tall)
    for number in range(len(overlaid.sections)):
        _draw_section(figure, overlaid, number, layers, _SIDE + number * (2 * cell + _BESIDE + _GAP), cell)
    handles = []  # colours as they look over bright tissue
    for kind in (*_SHOWN, ARTEFACT_CLASS):
        red, green, blue = ((1 - _STRENGTH) * 0.9 + _STRENGTH * channel / 255 for channel in kind.rgb)
        edge, line = ("#{:02x}{:02x}{:02x}".format(*_EDGE), 1.4) if kind is TissueClass.TUMOR else (MUTED, 0.5)
        handles.append(Patch(facecolor=(red, green, blue), edgecolor=edge, linewidth=line, label=kind.title))
    class_legend(figure, handles, 1 - _SIDE / _WIDTH, 0.05 / total)
    return figure


def _draw_layer(axes: Axes, overlaid: Overlaid, classes: Picture) -> None:
    """Show a map over the whole slide, and where the sections are."""
    maps = overlaid.maps
    height, width = maps.thumbnail.shape[:2]
    cell = maps.tile_side * maps.classifier.shape[0] / classes.shape[0]
    picture = laid_over(maps.thumbnail, classes, height / cell, width / cell)
    axes.imshow(picture, extent=(0, width, height, 0), interpolation="auto")
    for letter, section in zip("cde", overlaid.sections, strict=False):
        x, y, side = (number * maps.tile_side for number in (section.column, section.row, section.tiles))
        axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor="#ffffff", linewidth=2.6))
        axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor="#101418", linewidth=1.3))
        axes.annotate(
            letter, (x, y), (3, -3), textcoords="offset points", ha="left", va="top", fontsize=8, weight="bold",
            color="#101418", bbox={"facecolor": "#ffffff", "edgecolor": "none", "boxstyle": "square,pad=0.15"},
        )  # fmt: skip


def _draw_section(
    figure: Figure, overlaid: Overlaid, number: int, layers: Mapping[str, Picture], left: float, cell: float
) -> None:
    """Show a section beneath both maps, side by side, from `left` on, `cell` inches each."""
    section, maps, total = overlaid.sections[number], overlaid.maps, figure.get_figheight()
    bottom = _FOOT + _UNDER
    for step, (title, classes) in enumerate(layers.items()):
        fine = classes.shape[0] // maps.classifier.shape[0]
        rows, columns = (slice(at * fine, (at + section.tiles) * fine) for at in (section.row, section.column))
        x, side = left + step * (cell + _BESIDE), section.tiles * fine
        picture = laid_over(overlaid.pictures[number], classes[rows, columns], side, side)
        show(inch_axes(figure, x, bottom, cell, cell), picture)
        figure.text(x / _WIDTH, (bottom - 0.1) / total, title.lower(), va="center", fontsize=7.5, color=MUTED)
    side_um = section.tiles * maps.tile_side * maps.width_um / maps.thumbnail.shape[1]
    heading = f"{'cde'[number]}  {section.title}, {side_um:.0f} \N{MICRO SIGN}m wide"
    figure.text(left / _WIDTH, (bottom + cell + 0.12) / total, heading, va="center", fontsize=9.5, weight="bold")
