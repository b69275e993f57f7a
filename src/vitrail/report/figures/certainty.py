"""How sure the networks are, and how true the labels are, in figures. The paper has no such figures.

Each function draws one figure within `style()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MultipleLocator, PercentFormatter

from vitrail.classes import LABELS, NETWORK_COLOURS, NETWORKS
from vitrail.evaluation.certainty import GOALS
from vitrail.evaluation.names import CERTAINTIES, ROWS, SINGLE
from vitrail.report.figures.gallery import draw_ruler
from vitrail.report.figures.heatmap import inch_axes, mark_square, show
from vitrail.report.figures.slide_maps import class_legend, class_patches
from vitrail.report.figures.spec import NO_SUCH_FIGURE, FigureSpec
from vitrail.report.style import INK, MUTED, PAPER, SECOND, drawable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from vitrail.evaluation.certainty import Certainty
    from vitrail.metrics.calibration import Reliability
    from vitrail.report.data import DoubtedTile, ReportData

_COLOURS = NETWORK_COLOURS | {"voting": INK, "pixels": SECOND}
_DASHES: dict[str, Any] = {"probability": "-", "spread": (0, (5, 1.6)), "disagreement": (0, (1, 1.2))}
_DOTTED: dict[str, Any] = {"color": MUTED, "linewidth": 0.9, "linestyle": (0, (1, 2))}
_SHARE = PercentFormatter(1, decimals=0, symbol=" %")
_MOST_NAMES = 60
_LINE = 0.2  # inches of a slide
_COLUMNS, _WIDTH, _GAP, _HEAD, _FOOT = 4, 12.0, 0.12, 0.52, 0.34  # of the gallery, in inches


def figures_of(data: ReportData) -> list[FigureSpec]:
    """Return the figures of a study with test tiles; what there is nothing to show of is left out."""
    if (certainty := data.evaluation.certainty) is None:
        return []
    bins, doubted = certainty.pixel_reliability, data.doubted
    specs = [
        FigureSpec(
            name="certainty", number="Figure Q", section="certainty", draw=lambda _: certainty_figure(certainty),
            caption=lambda _: "What is right of the test tiles that are kept when the least certain are left to a "
            "person, from all (left) to a few (right). Lines: ordered by "
            f"{', by '.join(CERTAINTIES[kind] for kind in _kinds(certainty))}; shaded: 95 % interval over patients of "
            "the first. Dotted: kept by chance, and below the upper edge the ideal order, which leaves out errors "
            f"alone. Grey lines: {GOALS[0]:.0%} and {GOALS[1]:.0%}. {NO_SUCH_FIGURE}",
        ),
        FigureSpec(
            name="slide-calibration", number="Figure R", section="certainty", order=1,
            draw=lambda _: slides_figure(certainty),
            caption=lambda _: "Mean predicted probability of tumor less the share of tumor tiles, for each test slide: "
            "to the right more tumor is predicted than there is. Grey: where 95 % of such differences lie by chance "
            "alone, if every probability is right. Filled: beyond that; large: many tiles. The segmentation network's "
            f"probability is its share of tumor pixels. {NO_SUCH_FIGURE}",
        ),
    ]  # fmt: skip
    if bins is not None:
        specs.append(
            FigureSpec(
                name="pixel-calibration", number="Figure S", section="certainty", order=2, width="narrow",
                draw=lambda _: pixels_figure(bins),
                caption=lambda _: "How often the segmentation network is right about a pixel of the test tiles, by the "
                "probability of the class that it calls. On the dotted line it is as sure as it is right; below, it is "
                f"too sure. Below: how many pixels have which probability. {NO_SUCH_FIGURE}",
            )
        )  # fmt: skip
    if doubted:
        wide = 1 / doubted[0].frame[2]
        around = f", in surroundings {wide:g} times as wide, with the outlines" if wide > 1 else ""
        specs.append(
            FigureSpec(
                name="doubted-labels", number="Figure T", section="labels", draw=lambda _: doubted_figure(doubted),
                caption=lambda _: "The tiles whose label both networks contradict most, of those that they had not "
                f"seen (framed{around}: tumor solid, non-tumor dashed). Above each its label, the tumor probability of "
                "the classification network, and the share of its pixels that the segmentation network calls tumor; "
                f"below, how much of the tile was outlined at all. {NO_SUCH_FIGURE}",
            )
        )  # fmt: skip
    return specs


def certainty_figure(certainty: Certainty) -> Figure:
    """Draw accuracy against the share that is kept, for networks, voting and pixels."""
    curves = certainty.curves
    names = [name for name in (*SINGLE, "pixels") if (curves["network"] == name).any()]
    figure = Figure(figsize=(12, 4.1), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(names)))
    for axes, name, letter in zip(panels, names, "abcd", strict=False):
        own = curves[curves["network"] == name]
        everything = float(own["accuracy"].iloc[0])
        kept = np.linspace(0.02, 1, 200)
        axes.axhline(everything, **_DOTTED)
        axes.plot(kept, np.minimum(everything / kept, 1), **_DOTTED)
        for goal in GOALS:
            axes.axhline(goal, color=MUTED, linewidth=0.5, alpha=0.6)
        lowest = everything
        for kind, line in own.groupby("certainty", sort=False):
            axes.plot(
                line["coverage"], line["accuracy"], color=_COLOURS[name], linestyle=_DASHES[str(kind)],
                label=f"by {CERTAINTIES[str(kind)]}".replace(" over", "\nover").replace(" of both", "\nof both"),
            )  # fmt: skip
            lowest = min(lowest, float(line["accuracy"].min()))
        first = own[own["certainty"] == "probability"]
        ends = first[["coverage", "accuracy_low", "accuracy_high"]].to_numpy(np.float64).T
        axes.fill_between(*ends, color=_COLOURS[name], alpha=0.14, linewidth=0)
        bottom = np.nanmin([lowest, *ends[1]])
        axes.set(xlim=(1, 0), ylim=(max(0.0, np.floor(bottom * 20) / 20 - 0.02), 1.004))
        axes.xaxis.set_major_formatter(_SHARE)
        axes.yaxis.set_major_formatter(_SHARE)
        axes.yaxis.set_major_locator(MultipleLocator(0.02 if bottom > 0.88 else 0.05 if bottom > 0.7 else 0.1))
        axes.set_title(f"{letter}  {ROWS.get(name, 'Pixels')}")
        axes.set_xlabel(f"{'Pixels' if name == 'pixels' else 'Tiles'} kept")
        axes.legend(loc="lower right", fontsize=7.5)
    panels[0].set_ylabel("Right among those kept")
    return figure


def slides_figure(certainty: Certainty) -> Figure:
    """Draw by how much each test slide's mean probability misses its share of tumor tiles, and what chance does."""
    count = len(certainty.slides["classifier"].names)
    named = count <= _MOST_NAMES
    figure = Figure(figsize=(12, 1.5 + _LINE * max(min(count, 2 * _MOST_NAMES), 4)), layout="constrained")
    for axes, (name, title), letter in zip(figure.subplots(1, 2), NETWORKS.items(), "ab", strict=True):
        found, colour = certainty.slides[name], NETWORK_COLOURS[name]
        order = np.argsort(found.gap, kind="stable")
        gap, low, high, tiles = (each[order] for each in (found.gap, found.low, found.high, found.count))
        y, beyond = np.arange(count), (gap < low) | (gap > high)
        axes.hlines(y, low, high, color=MUTED, alpha=0.35, linewidth=5)
        size = 14 + 60 * tiles / tiles.max()
        axes.scatter(gap[beyond], y[beyond], size[beyond], color=colour, edgecolors=PAPER, linewidths=0.5, zorder=4)
        axes.scatter(gap[~beyond], y[~beyond], size[~beyond], facecolor=PAPER, edgecolors=colour, zorder=4)
        axes.axvline(0, **_DOTTED)
        if named:
            axes.set_yticks(
                y, [f"{drawable(slide, 22)}  ({n:,})" for slide, n in zip(found.names[order], tiles, strict=True)]
            )
        else:
            axes.set_yticks([])
        axes.set_ylim(-0.8, count - 0.2)
        reach = 1.1 * float(np.abs([*gap, *low, *high, 0.05]).max())
        axes.set_xlim(-reach, reach)
        axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=""))
        axes.set_title(f"{letter}  {title}: {int(beyond.sum())} of {count} beyond chance")
        axes.set_xlabel("Predicted less observed tumor share, percentage points")
    return figure


def pixels_figure(bins: Reliability) -> Figure:
    """Draw how often pixels are called rightly, by the probability of the called class."""
    figure = Figure(figsize=(5.4, 5.1), layout="constrained")
    axes, below = figure.subplots(2, 1, height_ratios=[3.2, 1], sharex=True)
    axes.plot([0, 1], [0, 1], label="perfect", **_DOTTED)
    filled = bins.count > 0
    look: dict[str, Any] = {"color": SECOND, "marker": "s", "markeredgecolor": PAPER, "markersize": 6}
    axes.plot(bins.predicted[filled], bins.observed[filled], label="pixels", clip_on=False, **look)
    axes.legend(loc="upper left", fontsize=8)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="Share that is right")
    axes.set_title(f"Pixels: calibration error {bins.error:.3f}")
    shares = bins.count / bins.count.sum()
    below.bar(bins.edges[:-1], shares, np.diff(bins.edges), align="edge", color=SECOND, edgecolor=PAPER)
    below.yaxis.set_major_formatter(_SHARE)
    below.set(xlabel="Probability of the called class", ylabel="Pixels")
    return figure


def doubted_figure(doubted: Sequence[DoubtedTile]) -> Figure:
    """Draw tiles whose label both networks contradict, in their surroundings, with the outlines."""
    side = (_WIDTH - (_COLUMNS - 1) * _GAP) / _COLUMNS
    lines = -(-len(doubted) // _COLUMNS)
    figure = Figure(figsize=(_WIDTH, lines * (_HEAD + side + _FOOT) + 0.3))
    total = figure.get_figheight()
    for number, tile in enumerate(doubted):
        row, column = divmod(number, _COLUMNS)
        left, bottom = column * (side + _GAP), total - row * (_HEAD + side + _FOOT) - _HEAD - side
        axes = inch_axes(figure, left, bottom, side, side)
        show(axes, tile.picture)
        _draw_outlines(axes, tile)
        said = f"p = {tile.classifier:.2f}, pixels {tile.segmenter:.0%}"
        axes.set_title(f"{number + 1}  Labelled {tile.label.title.lower()}\n{said}", fontsize=9, pad=4)
        if number == 0:
            draw_ruler(axes, 100, tile.width_um)
        outlined = f", {tile.annotated:.0%} outlined" if np.isfinite(tile.annotated) else ""
        words = f"{drawable(tile.slide_id, 30)}{outlined}"
        figure.text(left / _WIDTH, (bottom - 0.12) / total, words, va="center", fontsize=8, color=MUTED)
    class_legend(figure, class_patches(LABELS), 1, 0.05 / total)
    return figure


def _draw_outlines(axes: Axes, tile: DoubtedTile) -> None:
    """Draw the outlines around a tile, in a white halo, and its frame."""
    left, right, bottom, top = axes.get_images()[0].get_extent()
    size = right - left
    for tissue, rings in tile.outlines.items():
        for ring in rings:
            axes.plot(
                *(np.array([left, top]) + ring * size).T, color=tissue.colour, linewidth=1.8, scalex=False,
                scaley=False, linestyle="-" if tissue is LABELS[0] else (0, (4, 1.6)),
                path_effects=[withStroke(linewidth=3.2, foreground="#101418", alpha=0.75)],
            )  # fmt: skip
    across, down, side = tile.frame
    if side < 1:
        mark_square(axes, left + across * size, top + down * (bottom - top), side * size)


def _kinds(certainty: Certainty) -> list[str]:
    present = set(certainty.curves["certainty"])
    return [kind for kind in CERTAINTIES if kind in present]
