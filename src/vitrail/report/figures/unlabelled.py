"""Slides whose tissue outside the outlines counted as non-tumor, to judge whether they are exhaustive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.path import Path as Outline
from matplotlib.patheffects import withStroke

from vitrail.classes import LABELS, TissueClass
from vitrail.report.figures.gallery import draw_ruler
from vitrail.report.figures.heatmap import inch_axes, mark_square, show
from vitrail.report.figures.slide_maps import frame, scale_bar
from vitrail.report.figures.spec import NO_SUCH_FIGURE, FigureSpec
from vitrail.report.style import MUTED, drawable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from vitrail.report.data import OutsidePlace, OutsideSlide, ReportData

    Rings = Sequence[NDArray[np.float64]]

_WIDTH, _SLIDE, _TALLEST, _GAP, _BETWEEN = 12.0, 4.1, 3.4, 0.14, 0.3  # inches
_HEAD, _FOOT, _LEGEND = 0.46, 0.3, 0.34  # inches
_COLUMNS = 4
_CALLED, _DARK = "#7b1fa2", "#101418"
"""Of tiles that networks call tumor: no class has this colour."""

_MARGIN: Any = (0, (1, 1.4))


def figures_of(data: ReportData) -> tuple[FigureSpec, ...]:
    """Return the figure of a run whose tissue outside the outlines counted as non-tumor."""
    slides, margin = data.outside, f"{data.margin_um:g} \N{MICRO SIGN}m"
    if not slides:
        return ()
    caption = (
        "Are the outlines exhaustive? Left, the slides in which both networks call most tiles outside the outlines "
        f"tumor, with what was outlined as tumor (solid), the end of the margin of {margin} around it (dotted), and "
        "the tissue beyond that counted as non-tumor (green; left out were the margin, glass and artefacts). Squares: "
        "tiles outside the outlines that the networks were asked about, filled where both call it tumor. Right, the "
        "strongest of these, numbered, in surroundings three times as wide, with the tumor probability of the "
        "classification network and the share of pixels that the segmentation network calls tumor. Carcinoma here was "
        f"missed by the outlines, and every other one of such slides is in doubt. {NO_SUCH_FIGURE}"
    )
    return (
        FigureSpec(
            name="outside-outlines", number="Figure U", section="unlabelled", draw=lambda _: outside_figure(slides),
            caption=lambda _: Markup.escape(caption),
        ),
    )  # fmt: skip


def outside_figure(slides: Sequence[OutsideSlide]) -> Figure:
    """Draw slides with what was taken for non-tumor, and their most suspicious tiles; call it within `style()`."""
    cell = (_WIDTH - _SLIDE - _BETWEEN - (_COLUMNS - 1) * _GAP - 0.02) / _COLUMNS
    sizes = [_size(slide) for slide in slides]
    rows = [_HEAD + max(tall, cell + _FOOT) + _FOOT for _, tall in sizes]
    figure = Figure(figsize=(_WIDTH, sum(rows) + _LEGEND))
    total = top = figure.get_figheight()
    for slide, (wide, tall), row in zip(slides, sizes, rows, strict=True):
        share = f"{slide.called:,} of {slide.asked:,} tiles outside its outlines called tumor by both networks"
        words = f"Slide {drawable(slide.slide_id, 32)}, patient {drawable(slide.patient_id, 20)}: {share}"
        figure.text(0.02 / _WIDTH, (top - 0.16) / total, words, va="center", fontsize=10, weight="bold")
        axes = inch_axes(figure, 0.02 + (_SLIDE - wide) / 2, top - _HEAD - tall, wide, tall)
        _draw_slide(axes, slide)
        scale_bar(axes, slide.width_um, tall)
        for number, place in enumerate(slide.places):
            left = _SLIDE + _BETWEEN + number * (cell + _GAP)
            axes = inch_axes(figure, left, top - _HEAD - cell, cell, cell)
            _draw_place(axes, place)
            said = f"{number + 1}  p = {place.classifier:.2f}, pixels {place.segmenter:.0%}"
            axes.set_title(said, fontsize=8.5, pad=4)
            if number == 0:
                draw_ruler(axes, 100, place.width_um)
        taken = f"{slide.taken_mm2:.3g} mm\N{SUPERSCRIPT TWO} counted as non-tumor"
        beside = _SLIDE + _BETWEEN
        figure.text(beside / _WIDTH, (top - _HEAD - cell - 0.16) / total, taken, va="center", fontsize=8.5, color=MUTED)
        top -= row
    handles = [
        Line2D([], [], color=_line(TissueClass.TUMOR), linewidth=1.6, label="outlined as tumor"),
        Line2D([], [], color=_DARK, linewidth=1, linestyle=_MARGIN, label="end of the margin"),
        Patch(facecolor=(*_share(TissueClass.NON_TUMOR), 0.45), edgecolor=_line(TissueClass.NON_TUMOR), linewidth=0.6,
              label="counted as non-tumor"),
        Patch(facecolor="none", edgecolor=_DARK, linewidth=0.5, label="tile"),
        Patch(facecolor=_CALLED, edgecolor=_DARK, linewidth=0.5, label="tile that both networks call tumor"),
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1, 0.04 / total), ncols=len(handles), borderaxespad=0,
        columnspacing=1.4, borderpad=0.1,
    )  # fmt: skip
    return figure


def _size(slide: OutsideSlide) -> tuple[float, float]:
    """Return width and height of a slide's picture, in inches."""
    height, width = slide.thumbnail.shape[:2]
    scale = min(_SLIDE / width, _TALLEST / height)
    return width * scale, height * scale


def _draw_slide(axes: Axes, slide: OutsideSlide) -> None:
    height, width = slide.thumbnail.shape[:2]
    axes.imshow(slide.thumbnail, extent=(0, width, height, 0), interpolation="auto")
    green, tumor = TissueClass.NON_TUMOR, TissueClass.TUMOR
    if slide.taken:  # rings of one path: holes stay free
        area = Outline.make_compound_path(*(Outline(ring, closed=True) for ring in slide.taken))
        axes.add_collection(
            PathCollection([area], facecolors=[(*_share(green), 0.33)], edgecolors=[_line(green)], linewidths=0.5)
        )
    halo = [withStroke(linewidth=2.6, foreground="#ffffff", alpha=0.8)]
    for ring in slide.margin:
        axes.plot(*ring.T, color=_DARK, linewidth=0.9, linestyle=_MARGIN)
    for label in LABELS:
        for ring in slide.outlines.get(label, ()):
            dash = "-" if label is tumor else (0, (3, 1.2))
            axes.plot(*ring.T, color=_line(label), linewidth=1.5, linestyle=dash, path_effects=halo)
    corners = slide.squares[:, None, :2] + np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * slide.squares[:, None, 2:]
    for part, face in ((corners[slide.called :], "none"), (corners[: slide.called], _CALLED)):
        axes.add_collection(
            PolyCollection(list(part), facecolor=face, edgecolor=_DARK, linewidth=0.4, alpha=0.85 if len(part) else 1)
        )
    for number, place in enumerate(slide.places, 1):
        x, y, side = place.at
        axes.annotate(
            str(number), (x + side, y), (2, 2), textcoords="offset points", fontsize=8, weight="bold", color=_DARK,
            path_effects=halo, annotation_clip=False,
        )  # fmt: skip
    frame(axes, "", width, height)


def _draw_place(axes: Axes, place: OutsidePlace) -> None:
    show(axes, place.picture)
    left, right, bottom, top = axes.get_images()[0].get_extent()
    across, down, side = place.frame
    mark_square(axes, left + across * (right - left), top + down * (bottom - top), side * (right - left))


def _share(label: TissueClass) -> tuple[float, float, float]:
    red, green, blue = (channel / 255 for channel in label.rgb)
    return red, green, blue


def _line(label: TissueClass) -> tuple[float, float, float]:
    """Return a class's colour, darker, as lines on tissue need it."""
    red, green, blue = _share(label)
    return 0.62 * red, 0.62 * green, 0.62 * blue
