"""From a slide to tiles, masks and labels (the paper's Fig. 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from vitrail.classes import CLASSES, LABELS, TissueClass
from vitrail.report.figures.heatmap import inch_axes, show
from vitrail.report.figures.slide_maps import class_legend, class_patches, frame, scale_bar, segmented, trace
from vitrail.report.figures.spec import FigureSpec
from vitrail.report.style import CITED, INK, MUTED, drawable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from vitrail.report.data import CutExample, ReportData

EACH = 2
"""Tiles of each label that are shown."""

_WIDTH, _SIDE, _GAP, _BESIDE, _APART = 12.0, 0.02, 0.4, 0.06, 0.3  # inches
_HEAD, _FOOT, _ABOVE, _BELOW = 0.64, 0.56, 0.2, 0.26  # inches
_WIDEST = 5.4  # inches
_ROOMY = 0.3  # inches: a tile that has room for its number
_LEAST_SHARE = 0.005


def figures_of(data: ReportData) -> tuple[FigureSpec, ...]:
    """Return the figure of a run that has a slide with tiles to show."""
    if (cut := data.cut) is None:
        return ()
    caption = Markup(
        "From slide to tiles, masks and labels. (a) Slide <bdi>{}</bdi> with its outlines, tumor solid and non-tumor "
        "dashed, and a square for each tile that was cut; tiles of non-tumor are hatched. (b) Up to two tiles of each "
        "label, those with the most mixed masks, as the networks get them; beside each its mask, in which every "
        "pixel has one of four classes, and their shares. The label is the outlined class with the most pixels. "
        "Corresponds to Fig. 2 of {}."
    ).format(cut.slide_id, CITED)
    return (
        FigureSpec(
            name="cut", number="Figure 2", section="tiles", draw=lambda _: cut_figure(cut), caption=lambda _: caption
        ),
    )


def choose_tiles(rows: pd.DataFrame) -> tuple[int, ...]:
    """Choose up to two tiles of each label, tumor first: those with the most mixed masks and much tissue.

    Parameters
    ----------
    rows
        One row a tile: `label`, and the shares of the mask's pixels under each class's key.

    Returns
    -------
    tuple[int, ...]
        Their positions in `rows`. How mixed a mask is, is the entropy of its shares times its share that is no
        background.
    """
    shares = rows[[kind.key for kind in CLASSES]].to_numpy(np.float64)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1)
    mixed = (entropy * (1 - shares[:, TissueClass.BACKGROUND])).round(9)
    chosen: list[int] = []
    for label in LABELS:
        candidates = np.flatnonzero(rows["label"] == label.key)
        chosen += candidates[np.argsort(-mixed[candidates], kind="stable")][:EACH].tolist()
    return tuple(chosen)


def cut_figure(cut: CutExample) -> Figure:
    """Draw a slide with its outlines and tiles, and some tiles with their masks; call it within `style()`."""
    height, width = cut.thumbnail.shape[:2]
    # the side of a tile's picture and the width of the slide's, so that both are equally high
    rest = _WIDTH - 2 * _SIDE - _GAP - len(LABELS) * _BESIDE - _APART
    between = len(LABELS) * (_ABOVE + _BELOW) - _BELOW
    cell = (rest - between * (width / height)) / (2 * EACH + len(LABELS) * (width / height))
    wide = (len(LABELS) * cell + between) * (width / height)
    if wide > _WIDEST:
        cell, wide = (rest - _WIDEST) / (2 * EACH), _WIDEST
    tall, row = wide * height / width, _ABOVE + cell + _BELOW
    figure = Figure(figsize=(_WIDTH, _HEAD + _FOOT + len(LABELS) * row - _BELOW))
    total = figure.get_figheight()
    counts = " and ".join(f"{cut.labels.count(label)} {label.title.lower()}" for label in LABELS)
    heading = f"Slide {drawable(cut.slide_id, 32)}, patient {drawable(cut.patient_id, 20)}: {counts} tiles"
    figure.text(_SIDE / _WIDTH, 1 - 0.16 / total, heading, va="center", fontsize=11, weight="bold")
    _draw_slide(inch_axes(figure, _SIDE, total - _HEAD - tall, wide, tall), cut, wide)
    scale_bar(figure.axes[0], cut.width_um, tall)
    first = _SIDE + wide + _GAP
    heading = f"b  Tiles, {cut.side_um:g} \N{MICRO SIGN}m wide, with masks and labels"
    figure.text(first / _WIDTH, 1 - (_HEAD - 0.07) / total, heading, va="baseline", fontsize=9.5, weight="bold")
    labels = [cut.labels[tile] for tile in cut.shown]
    for number, label in enumerate(labels):  # a line for each label
        left = first + labels[:number].count(label) * (2 * cell + _BESIDE + _APART)
        bottom = total - _HEAD - _ABOVE - cell - LABELS.index(label) * row
        mask = cut.masks[number]
        for step, picture in enumerate((cut.pictures[number], segmented(mask))):
            show(inch_axes(figure, left + step * (cell + _BESIDE), bottom, cell, cell), picture)
        text = f"{number + 1}  Label: {label.title.lower()}"
        figure.text(left / _WIDTH, (bottom + cell + 0.08) / total, text, va="center", fontsize=8.5)
        shares = np.bincount(mask.ravel(), minlength=len(CLASSES)) / mask.size
        text = ", ".join(f"{kind.title.lower()} {shares[kind]:.0%}" for kind in CLASSES if shares[kind] >= _LEAST_SHARE)
        figure.text(left / _WIDTH, (bottom - 0.1) / total, text, va="center", fontsize=7.5, color=MUTED)
    class_legend(figure, class_patches(CLASSES), 1 - _SIDE / _WIDTH, 0.04 / total)
    return figure


def _draw_slide(axes: Axes, cut: CutExample, wide: float) -> None:
    """Show the slide, its outlines, its tiles in the colours of their labels, and which of them are shown."""
    height, width = cut.thumbnail.shape[:2]
    axes.imshow(cut.thumbnail, extent=(0, width, height, 0), interpolation="auto")
    corners = (
        cut.squares[:, None, :2] + np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64) * cut.squares[:, None, 2:]
    )
    for label in LABELS:
        mine = corners[[other is label for other in cut.labels]]
        hatch = "" if label is TissueClass.TUMOR else "////"
        axes.add_collection(
            PolyCollection(
                list(mine), facecolor=(*(c / 255 for c in label.rgb), 0.2), edgecolor=label.colour, linewidth=0.7,
                hatch=hatch, hatch_linewidth=0.4,
            )
        )  # fmt: skip
    trace(axes, cut.outlines)
    axes.add_collection(PolyCollection(list(corners[list(cut.shown)]), facecolor="none", edgecolor=INK, linewidth=1.6))
    box = {"facecolor": "#ffffff", "edgecolor": INK, "linewidth": 0.6, "boxstyle": "square,pad=0.15"}
    for number, tile in enumerate(cut.shown, 1):
        x, y, side = cut.squares[tile]
        inside = side * wide / width > _ROOMY
        axes.annotate(
            str(number), (x, y) if inside else (x + side, y + side), (3, -3), textcoords="offset points", ha="left",
            va="top", fontsize=8, weight="bold", color="#101418", bbox=box, annotation_clip=False,
        )  # fmt: skip
    frame(axes, "a  Slide, outlines and tiles", width, height)
