"""The figures of cohort, training and confusion matrices.

Each function draws one figure within `style()`. Nothing touches pyplot.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vitrail.classes import CLASSES, LABELS, NETWORK_COLOURS, NETWORKS, SPLITS
from vitrail.evaluation.groups import count_patients
from vitrail.report.figures.spec import NO_SUCH_FIGURE, FigureSpec
from vitrail.report.style import CITED, INK, MUTED, PAPER, bare, drawable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from vitrail.evaluation.results import Evaluation

_SHADES = LinearSegmentedColormap.from_list("shades", ["#f1f5f9", "#8fb8d8", "#0072b2", "#07385f"])
_ABREAST = 3
_PARTS, _ROW = 2.1, 2.0  # inches
_CELLS, _LEFT, _BELOW, _HEIGHT = 3.38, 0.6, 0.56, 4.3  # inches


def cohort_figure(evaluation: Evaluation) -> Figure:
    """Draw slides and tiles by split, and the patients' attributes (the paper's Fig. 1)."""
    slides = evaluation.slides
    counts = {name: count_patients(groups, slides) for name, groups in evaluation.patient_groups.items()}
    rows = ceil(len(counts) / _ABREAST)
    figure = Figure(figsize=(10, _PARTS + _ROW * rows), layout="constrained")
    parts = figure.subfigures(2, 1, height_ratios=[_PARTS, _ROW * rows], squeeze=False)[:, 0] if rows else [figure]
    left, right = parts[0].subplots(1, 2, width_ratios=[1, 1.6])
    names = [split.capitalize() for split in SPLITS]
    _draw_bars(left, names, [int((slides["split"] == split).sum()) for split in SPLITS])
    left.set_title("Slides in each part")
    totals, y = np.zeros(len(SPLITS)), np.arange(len(SPLITS))
    tiles = slides.groupby("split")[[f"{kind.key}_tiles" for kind in LABELS]].sum().reindex(SPLITS, fill_value=0)
    readable = 0.08 * max(float(tiles.sum(axis=1).max()), 1)  # a bar that has room for its number
    for kind in LABELS:
        widths = tiles[f"{kind.key}_tiles"].to_numpy(np.float64)
        bars = right.barh(y, widths, left=totals, height=0.62, color=kind.colour, label=kind.title, edgecolor=PAPER)
        numbers = [f"{width:,.0f}" if width > readable else "" for width in widths]
        right.bar_label(bars, numbers, label_type="center", color="#101418", fontsize=8)
        totals += widths
    _write_totals(right, totals)
    right.set_yticks(y, names)
    right.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2, handlelength=1)
    right.set_title("Tiles in each part")
    if rows:
        grid = list(parts[1].subplots(rows, _ABREAST, squeeze=False).ravel())
        for axes in grid[len(counts) :]:
            axes.set_visible(False)
        for axes, (name, patients) in zip(grid, counts.items(), strict=False):
            _draw_bars(axes, [drawable(value, 18) for value in patients.index], patients.to_list())
            axes.set_title(f"Patients by {drawable(name, 24)}")
    return figure


def training_figure(history: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw losses and validation scores of both networks by epoch, and mark the epoch whose weights were kept."""
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    grid = figure.subplots(2, len(NETWORKS), sharex="col", squeeze=False)
    for (loss, score), (network, title) in zip(grid.T, NETWORKS.items(), strict=True):
        table = history.get(network, pd.DataFrame({"epoch": [], "train_loss": [], "validation_loss": []}))
        column, measure, named_loss = {
            "classifier": ("validation_accuracy", "accuracy", "Cross-entropy loss"),
            "segmenter": ("validation_jaccard", "mean Jaccard", "Jaccard loss"),
        }[network]
        colour = NETWORK_COLOURS[network]
        curves: list[tuple[Axes, str, str, Any, str]] = [
            (loss, "train_loss", MUTED, (0, (2, 1.2)), "Training"),
            (loss, "validation_loss", colour, "-", "Validation"),
            (score, column, colour, "-", "Validation"),
        ]
        for axes, name, ink, dash, label in curves:
            if name in table and table[name].notna().any():
                axes.plot(table["epoch"], table[name], color=ink, linestyle=dash, label=label, marker="o", markersize=3)
        validated = bool(score.lines)
        if (epoch := kept_epoch(table)) is not None:
            for axes in (loss, score):
                axes.axvline(epoch, color=INK, linewidth=0.9, linestyle=(0, (1, 1.5)), label=f"Kept: epoch {epoch}")
            loss.legend(loc="best")
        if not validated:
            score.text(0.5, 0.5, "no validation tiles", transform=score.transAxes, ha="center", color=MUTED)
            score.set_yticks([])
        loss.set_title(f"{title}: loss and {measure}")
        loss.set_ylabel(named_loss)
        score.set_ylabel(f"Validation {measure}")
        score.set_xlabel("Epoch")
        score.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def kept_epoch(table: pd.DataFrame) -> int | None:
    """Return the epoch with the lowest validation loss, the last one where there was no validation.

    Parameters
    ----------
    table
        The history of one network, see `Evaluation`.
    """
    losses = table["validation_loss"].to_numpy(np.float64)
    if not len(losses):
        return None
    row = int(np.nanargmin(losses)) if np.isfinite(losses).any() else len(losses) - 1
    return int(table["epoch"].iloc[row])


def confusion_figure(evaluation: Evaluation) -> Figure:
    """Draw three row-normalised confusion matrices with their counts (the paper's Fig. 3d-f)."""
    figure = Figure(figsize=(12, _HEIGHT))
    matrices = {
        "classifier": ("d  Classification network, tiles", LABELS),
        "segmenter": ("e  Segmentation network, tiles", LABELS),
        "pixels": ("f  Segmentation network, pixels", CLASSES),
    }
    for number, (name, (title, classes)) in enumerate(matrices.items()):
        left = (_LEFT + number * (_LEFT + _CELLS)) / 12
        axes = figure.add_axes((left, _BELOW / _HEIGHT, _CELLS / 12, _CELLS / _HEIGHT))
        counts = np.asarray(evaluation.metrics["test"][name]["confusion"])
        _draw_matrix(axes, counts, [kind.title for kind in classes])
        axes.set_title(title)
    return figure


def _draw_bars(axes: Axes, names: Sequence[str], counts: Sequence[int]) -> None:
    y = np.arange(len(names))
    axes.barh(y, counts, height=0.62, color="#8796a5")
    _write_totals(axes, np.asarray(counts, np.float64))
    axes.set_yticks(y, list(names))


def _write_totals(axes: Axes, totals: NDArray[np.float64]) -> None:
    """Write each bar's total at its end, and leave room for it."""
    for y, total in enumerate(totals):
        axes.annotate(f"{total:,.0f}", (total, y), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
    bare(axes)
    axes.set_xlim(0, max(float(totals.max(initial=0)), 1) * 1.18)
    axes.set_xticks([])
    axes.invert_yaxis()


def _draw_matrix(axes: Axes, counts: NDArray[np.int64], names: Sequence[str]) -> None:
    rows = counts.sum(1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros(counts.shape), where=rows > 0)
    axes.pcolormesh(shares, cmap=_SHADES, vmin=0, vmax=1, edgecolors=PAPER, linewidth=2)
    for (row, column), cell in np.ndenumerate(counts):
        share = f"{shares[row, column]:.1%}" if rows[row, 0] else "\N{EN DASH}"
        count = f"{cell / 1e6:,.1f} M" if cell >= 10_000_000 else f"{int(cell):,}"
        look: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center"}
        look["color"] = "#ffffff" if shares[row, column] > 0.5 else "#10161d"
        axes.annotate(share, (column + 0.5, row + 0.5), (0, 6), fontsize=10.5, weight="bold", **look)
        axes.annotate(count, (column + 0.5, row + 0.5), (0, -8), fontsize=8, **look)
    bare(axes)
    ticks = np.arange(len(names)) + 0.5
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names, rotation=90, va="center")
    axes.set(xlabel="Predicted", ylabel="Annotated")
    axes.invert_yaxis()


FIGURES = (
    FigureSpec(
        name="cohort", number="Figure 1", section="cohort",
        draw=lambda data: cohort_figure(data.evaluation),
        caption=lambda _: (
            "Slides and tiles in each part of the cohort, and the patients' characteristics where slides.csv gives "
            f"any. Corresponds to Fig. 1 of {CITED}."
        ),
    ),
    FigureSpec(
        name="confusion", number="Figure 3 d\N{EN DASH}f", section="scores", order=1,
        draw=lambda data: confusion_figure(data.evaluation),
        caption=lambda _: (
            "Confusion matrices on the test data; each row sums to 100 %, counts below. (d) Classification network, "
            "tiles. (e) Segmentation network, tiles. (f) Segmentation network, every pixel of the same tiles, in all "
            f"four classes. Corresponds to Fig. 3d, e and f of {CITED}."
        ),
    ),
    FigureSpec(
        name="training", number="Figure E", section="training",
        draw=lambda data: training_figure(data.evaluation.history),
        caption=lambda _: (
            "Loss and validation score of each epoch. The dotted line marks the epoch whose weights were kept, the one "
            f"with the lowest validation loss. {NO_SUCH_FIGURE}"
        ),
    ),
)  # fmt: skip
