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
from vitrail.report.figures.heatmap import grey, inch_axes, mark_square, show
from vitrail.report.figures.slide_maps import frame, scale_bar
from vitrail.report.figures.spec import NO_SUCH_FIGURE, FigureSpec
from vitrail.report.style import MUTED, drawable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from vitrail.report.data import OutsidePlace, OutsideSlide, ReportData

    Rings = Sequence[NDArray[np.float64]]

_WIDTH, _SIDE, _GAP, _BETWEEN, _TALLEST = 12.0, 0.02, 0.14, 0.28, 4.2  # inches
_PLACE, _TITLE, _HEAD, _FOOT, _LEGEND = 1.62, 0.24, 0.58, 0.34, 0.34  # inches
_COLUMNS = 2
_SLOT = (_WIDTH - 2 * _SIDE - _COLUMNS * _PLACE - _GAP - 2 * _BETWEEN) / 2
_CALLED, _DARK = "#7b1fa2", "#101418"
"""Of tiles that networks call tumor: no class has this colour."""

_DOTS: Any = (0, (1, 1.4))


def figures_of(data: ReportData) -> tuple[FigureSpec, ...]:
    """Return the figure of a run whose tissue outside the outlines counted as non-tumor."""
    slides, margin = data.outside, f"{data.margin_um:g} \N{MICRO SIGN}m"
    if not slides:
        return ()
    caption = (
        "Are the outlines exhaustive? The slides first in which both networks call most tiles outside them tumor. (a) "
        "The slide with what was outlined as tumor (solid), and such tiles in frames. (b) What counted: outlined tumor "
        f"in its colour, the margin of {margin} around it up to the dotted line, beyond that in green the tissue that "
        "counted as non-tumor, without artefacts; and the tiles outside the outlines that the networks were asked "
        "about, filled where both call it tumor. Right, the strongest of these, numbered as in (a), in surroundings "
        "three times as wide, with the tumor probability of the classification network and the share of pixels that "
        "the segmentation network calls tumor. Carcinoma there was missed by the outlines, and puts all others in "
        f"doubt. {NO_SUCH_FIGURE}"
    )
    return (
        FigureSpec(
            name="outside-outlines", number="Figure U", section="unlabelled", draw=lambda _: outside_figure(slides),
            caption=lambda _: Markup.escape(caption),
        ),
    )  # fmt: skip


def outside_figure(slides: Sequence[OutsideSlide]) -> Figure:
    """Draw slides with what counted as non-tumor, and their most suspicious tiles; call it within `style()`."""
    sizes = [_size(slide) for slide in slides]
    rows = [_HEAD + max(tall, 2 * _PLACE + _TITLE) + _FOOT for _, tall in sizes]
    figure = Figure(figsize=(_WIDTH, sum(rows) + _LEGEND))
    total = top = figure.get_figheight()
    for slide, (wide, tall), row in zip(slides, sizes, rows, strict=True):
        words = (
            f"Slide {drawable(slide.slide_id, 32)}, patient {drawable(slide.patient_id, 20)}: {slide.called:,} of "
            f"{slide.asked:,} tiles outside the outlines called tumor; {slide.taken_mm2:.3g} mm\N{SUPERSCRIPT TWO} "
            "counted as non-tumor"
        )
        figure.text(_SIDE / _WIDTH, (top - 0.16) / total, words, va="center", fontsize=10, weight="bold")
        first, second = (
            inch_axes(figure, _SIDE + number * (_SLOT + _BETWEEN), top - _HEAD - tall, wide, tall) for number in (0, 1)
        )
        _draw_slide(first, slide)
        _draw_counted(second, slide)
        scale_bar(first, slide.width_um, tall)
        for number, place in enumerate(slide.places):
            down, across = divmod(number, _COLUMNS)
            left = _SIDE + 2 * (_SLOT + _BETWEEN) + across * (_PLACE + _GAP)
            bottom = top - _HEAD - _PLACE - down * (_PLACE + _TITLE)
            axes = inch_axes(figure, left, bottom, _PLACE, _PLACE)
            _draw_place(axes, place)
            axes.set_title(f"{number + 1}  p = {place.classifier:.2f}, pixels {place.segmenter:.0%}", fontsize=8, pad=3)
            if number == 0:
                draw_ruler(axes, 100, place.width_um)
        top -= row
    handles = [
        Line2D([], [], color=_line(TissueClass.TUMOR), linewidth=1.6, label="outlined as tumor"),
        Line2D([], [], color=_DARK, linewidth=1, linestyle=_DOTS, label="end of the margin"),
        Patch(facecolor=TissueClass.NON_TUMOR.colour, edgecolor=MUTED, linewidth=0.5, label="counted as non-tumor"),
        Patch(facecolor="none", edgecolor=_DARK, linewidth=0.5, label="tile that was asked about"),
        Patch(facecolor=_CALLED, edgecolor=_DARK, linewidth=0.5, label="called tumor by both networks"),
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1, 0.04 / total), ncols=len(handles), borderaxespad=0,
        columnspacing=1.4, borderpad=0.1,
    )  # fmt: skip
    return figure


def _size(slide: OutsideSlide) -> tuple[float, float]:
    """Return width and height of a slide's picture, in inches."""
    height, width = slide.thumbnail.shape[:2]
    scale = min(_SLOT / width, _TALLEST / height)
    return width * scale, height * scale


def _draw_slide(axes: Axes, slide: OutsideSlide) -> None:
    """Show the slide as it is: nothing lies on the tissue but lines."""
    height, width = slide.thumbnail.shape[:2]
    axes.imshow(slide.thumbnail, extent=(0, width, height, 0), interpolation="auto")
    for label in LABELS:
        for ring in slide.outlines.get(label, ()):
            dash = "-" if label is TissueClass.TUMOR else (0, (3, 1.2))
            axes.plot(*ring.T, color=_line(label), linewidth=1.5, linestyle=dash, path_effects=_halo())
    called = list(_corners(slide.squares[: slide.called]))
    axes.add_collection(
        PolyCollection(called, facecolor="none", edgecolor=_CALLED, linewidth=1.1, path_effects=_halo(2.2))
    )
    for number, place in enumerate(slide.places, 1):
        x, y, side = place.at
        axes.annotate(
            str(number), (x + side / 2, y + side / 2), ha="center", va="center", fontsize=8, weight="bold",
            color=_DARK, path_effects=_halo(),
        )  # fmt: skip
    frame(axes, "a  Slide", width, height)


def _draw_counted(axes: Axes, slide: OutsideSlide) -> None:
    """Show what counted as what, on the slide in grey."""
    height, width = slide.thumbnail.shape[:2]
    axes.imshow(np.rint(grey(slide.thumbnail, contrast=0.6)).astype(np.uint8), extent=(0, width, height, 0))
    areas = {TissueClass.NON_TUMOR: slide.taken, TissueClass.TUMOR: slide.outlines.get(TissueClass.TUMOR, [])}
    for label, rings in areas.items():
        if rings:  # one path: what lies in a ring within a ring is free
            area = Outline.make_compound_path(*(Outline(ring, closed=True) for ring in rings))
            axes.add_collection(PathCollection([area], facecolors=[label.colour], alpha=0.55, linewidths=0))
    for ring in slide.margin:
        axes.plot(*ring.T, color=_DARK, linewidth=0.9, linestyle=_DOTS)
    for part, face in ((slide.squares[slide.called :], "none"), (slide.squares[: slide.called], _CALLED)):
        axes.add_collection(PolyCollection(list(_corners(part)), facecolor=face, edgecolor=_DARK, linewidth=0.4))
    frame(axes, "b  What counted as non-tumor", width, height)


def _corners(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the corners of squares `[n, 3]`, left, top and side, as `[n, 4, 2]`."""
    return squares[:, None, :2] + np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64) * squares[:, None, 2:]


def _halo(width: float = 2.6) -> list[withStroke]:
    return [withStroke(linewidth=width, foreground="#ffffff", alpha=0.8)]


def _draw_place(axes: Axes, place: OutsidePlace) -> None:
    show(axes, place.picture)
    left, right, bottom, top = axes.get_images()[0].get_extent()
    across, down, side = place.frame
    mark_square(axes, left + across * (right - left), top + down * (bottom - top), side * (right - left))


def _line(label: TissueClass) -> tuple[float, float, float]:
    """Return a class's colour, darker, as lines on tissue need it."""
    red, green, blue = (0.62 * channel / 255 for channel in label.rgb)
    return red, green, blue
