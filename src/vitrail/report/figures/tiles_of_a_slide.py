"""From a slide to tiles, masks and labels (the paper's Fig. 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vitrail.classes import CLASSES, LABELS, TissueClass
from vitrail.report.figures.heatmap import show
from vitrail.report.figures.slide_maps import frame, scale_bar, segmented, trace
from vitrail.report.style import INK, MUTED, drawable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from vitrail.report.data import CutExample

EACH = 2
"""Tiles of each label that are shown."""

_WIDTH, _SIDE, _GAP, _BESIDE, _APART = 12.0, 0.02, 0.4, 0.06, 0.3  # inches
_HEAD, _FOOT, _ABOVE, _BELOW = 0.64, 0.56, 0.2, 0.26  # inches
_WIDEST = 5.4  # inches
_ROOMY = 0.3  # inches: a tile that has room for its number
_LEAST_SHARE = 0.005


def choose_tiles(rows: pd.DataFrame) -> tuple[int, ...]:
    """Choose up to two tiles of each label, tumor first: those with the most mixed masks and much tissue.

    Parameters
    ----------
    rows
        One row a tile: `label`, and the shares of the mask's pixels under each class's key.

    Returns
    -------
    Their places in `rows`. How mixed a mask is, is the entropy of its shares times its share that is no background.
    """
    shares = rows[[kind.key for kind in CLASSES]].to_numpy(np.float64)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1)
    mixed = (entropy * (1 - shares[:, TissueClass.BACKGROUND])).round(9)
    chosen: list[int] = []
    for label in LABELS:
        places = np.flatnonzero(rows["label"] == label.key)
        chosen += [int(place) for place in places[np.argsort(-mixed[places], kind="stable")][:EACH]]
    return tuple(chosen)


def cut_figure(cut: CutExample) -> Figure:
    """Draw a slide with its outlines and tiles, and some tiles with their masks; call it within `style()`."""
    height, width = cut.thumbnail.shape[:2]
    cell, wide = _sizes(width / height)
    tall, row = wide * height / width, _ABOVE + cell + _BELOW
    figure = Figure(figsize=(_WIDTH, _HEAD + _FOOT + len(LABELS) * row - _BELOW))
    total = figure.get_figheight()
    figure.text(_SIDE / _WIDTH, 1 - 0.16 / total, _heading(cut), va="center", fontsize=11, weight="bold")
    box = (_SIDE / _WIDTH, (total - _HEAD - tall) / total, wide / _WIDTH, tall / total)
    _slide(figure.add_axes(box), cut, wide)
    scale_bar(figure.axes[0], cut.width_um, tall)
    first = _SIDE + wide + _GAP
    heading = f"b  Tiles, {cut.side_um:g} \N{MICRO SIGN}m wide, with masks and labels"
    figure.text(first / _WIDTH, 1 - (_HEAD - 0.07) / total, heading, va="baseline", fontsize=9.5, weight="bold")
    for number, place in enumerate(_places(cut)):
        column, line = place
        corner = (first + column * (2 * cell + _BESIDE + _APART), total - _HEAD - _ABOVE - cell - line * row)
        _tile(figure, cut, number, (*corner, cell))
    _legend(figure)
    return figure


def _sizes(aspect: float) -> tuple[float, float]:
    """Return the side of a tile's picture and the width of the slide's, so that both are equally high, in inches."""
    rest = _WIDTH - 2 * _SIDE - _GAP - len(LABELS) * _BESIDE - _APART
    between = len(LABELS) * (_ABOVE + _BELOW) - _BELOW
    cell = (rest - between * aspect) / (2 * EACH + len(LABELS) * aspect)
    wide = (len(LABELS) * cell + between) * aspect
    return (cell, wide) if wide <= _WIDEST else ((rest - _WIDEST) / (2 * EACH), _WIDEST)


def _heading(cut: CutExample) -> str:
    counts = " and ".join(f"{cut.labels.count(label)} {label.title.lower()}" for label in LABELS)
    return f"Slide {drawable(cut.slide_id, 32)}, patient {drawable(cut.patient_id, 20)}: {counts} tiles"


def _places(cut: CutExample) -> list[tuple[int, int]]:
    """Return column and line of each tile that is shown: a line for each label."""
    labels = [cut.labels[row] for row in cut.shown]
    return [(labels[:number].count(label), LABELS.index(label)) for number, label in enumerate(labels)]


def _slide(axes: Axes, cut: CutExample, wide: float) -> None:
    """Show the slide, its outlines, its tiles in the colours of their labels, and which of them are shown."""
    height, width = cut.thumbnail.shape[:2]
    axes.imshow(cut.thumbnail, extent=(0, width, height, 0), interpolation="auto")
    corners = _corners(cut.squares)
    for label in LABELS:
        mine = corners[[one is label for one in cut.labels]]
        hatch = "" if label is TissueClass.TUMOR else "////"
        axes.add_collection(
            PolyCollection(
                list(mine), facecolor=(*(c / 255 for c in label.rgb), 0.2), edgecolor=label.colour, linewidth=0.7,
                hatch=hatch, hatch_linewidth=0.4,
            )
        )  # fmt: skip
    trace(axes, cut.outlines)
    axes.add_collection(PolyCollection(list(corners[list(cut.shown)]), facecolor="none", edgecolor=INK, linewidth=1.6))
    inch = wide / width
    for number, row in enumerate(cut.shown, 1):
        x, y, side = cut.squares[row]
        _number(axes, number, (x, y) if side * inch > _ROOMY else (x + side, y + side))
    frame(axes, "a  Slide, outlines and tiles", (width, height))


def _corners(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the corners of squares, `[n, 4, 2]`."""
    unit = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64)
    corners: NDArray[np.float64] = squares[:, None, :2] + unit * squares[:, None, 2:]
    return corners


def _number(axes: Axes, number: int, place: tuple[float, float]) -> None:
    box = {"facecolor": "#ffffff", "edgecolor": INK, "linewidth": 0.6, "boxstyle": "square,pad=0.15"}
    axes.annotate(
        str(number), place, (3, -3), textcoords="offset points", ha="left", va="top", fontsize=8, weight="bold",
        color="#101418", bbox=box, annotation_clip=False,
    )  # fmt: skip


def _tile(figure: Figure, cut: CutExample, number: int, place: tuple[float, float, float]) -> None:
    """Show a tile and its mask, its number and label above, the shares of the classes below."""
    left, bottom, cell = place
    total, mask = figure.get_figheight(), cut.masks[number]
    for step, picture in enumerate((cut.pictures[number], segmented(mask))):
        x = left + step * (cell + _BESIDE)
        show(figure.add_axes((x / _WIDTH, bottom / total, cell / _WIDTH, cell / total)), picture)
    label = cut.labels[cut.shown[number]].title
    figure.text(
        left / _WIDTH,
        (bottom + cell + 0.08) / total,
        f"{number + 1}  Label: {label.lower()}",
        va="center",
        fontsize=8.5,
    )
    shares = np.bincount(mask.ravel(), minlength=len(CLASSES)) / mask.size
    named = [f"{kind.title.lower()} {shares[kind]:.0%}" for kind in CLASSES if shares[kind] >= _LEAST_SHARE]
    figure.text(left / _WIDTH, (bottom - 0.1) / total, ", ".join(named), va="center", fontsize=7.5, color=MUTED)


def _legend(figure: Figure) -> None:
    handles = [Patch(facecolor=kind.colour, edgecolor=MUTED, linewidth=0.5, label=kind.title) for kind in CLASSES]
    figure.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1 - _SIDE / _WIDTH, 0.04 / figure.get_figheight()),
        ncols=len(handles), borderaxespad=0, handlelength=1.1, handleheight=1.1, columnspacing=1.4, borderpad=0.1,
    )  # fmt: skip
