"""The figures of cohort, training and scores.

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

from vitrail.classes import CLASSES, LABELS
from vitrail.report.attributes import attributes, patients_by
from vitrail.report.data import NETWORKS, SPLITS
from vitrail.report.figures.spec import NO_SUCH_FIGURE, FigureSpec
from vitrail.report.style import CITED, FIRST, INK, MUTED, PAPER, SECOND, bare, drawable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from vitrail.classes import TissueClass

COLOURS = dict(zip(NETWORKS, (FIRST, SECOND), strict=True))
_NAMES = {"accuracy": "accuracy", "jaccard": "mean Jaccard"}
_SHADES = LinearSegmentedColormap.from_list("shades", ["#f1f5f9", "#8fb8d8", "#0072b2", "#07385f"])
_ABREAST = 3
_PARTS, _ROW = 2.1, 2.0  # inches
_CELLS, _LEFT, _BELOW, _HEIGHT = 3.38, 0.6, 0.56, 4.3  # inches
_DARK = 0.5
_MANY = 10_000_000


def cohort_figure(slides: pd.DataFrame) -> Figure:
    """Draw slides and tiles by split, and the patients' attributes (the paper's Fig. 1)."""
    counted = {name: patients_by(groups, slides) for name, groups in attributes(slides).items()}
    rows = ceil(len(counted) / _ABREAST)
    figure = Figure(figsize=(10, _PARTS + _ROW * rows), layout="constrained")
    parts = figure.subfigures(2, 1, height_ratios=[_PARTS, _ROW * rows], squeeze=False)[:, 0] if rows else [figure]
    left, right = parts[0].subplots(1, 2, width_ratios=[1, 1.6])
    _slides_by_split(left, slides)
    _tiles_by_split(right, slides)
    if rows:
        for axes, (name, counts) in zip(_grid(parts[1], rows, len(counted)), counted.items(), strict=True):
            _bars(axes, [drawable(value, 18) for value in counts.index], counts.to_list())
            axes.set_title(f"Patients by {drawable(name, 24)}")
    return figure


def training_figure(history: dict[str, pd.DataFrame]) -> Figure:
    """Draw losses and validation scores of both networks by epoch, the kept epoch marked."""
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    grid = figure.subplots(2, len(NETWORKS), sharex="col", squeeze=False)
    for (loss, score), (network, title) in zip(grid.T, NETWORKS.items(), strict=True):
        table = history.get(network, pd.DataFrame({"epoch": [], "train_loss": [], "validation_loss": []}))
        measure = {"classifier": "accuracy", "segmenter": "jaccard"}[network]
        _curve(loss, table, "train_loss", (MUTED, (0, (2, 1.2)), "Training"))
        _curve(loss, table, "validation_loss", (COLOURS[network], "-", "Validation"))
        _curve(score, table, f"validation_{measure}", (COLOURS[network], "-", "Validation"))
        _mark_kept(loss, score, table)
        loss.set_title(f"{title}: loss and {_NAMES[measure]}")
        loss.set_ylabel({"classifier": "Cross-entropy loss", "segmenter": "Jaccard loss"}[network])
        score.set_ylabel(f"Validation {_NAMES[measure]}")
        score.set_xlabel("Epoch")
        score.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def kept_epoch(table: pd.DataFrame) -> int | None:
    """Return the epoch with the lowest validation loss, the last one where there was no validation."""
    losses = table["validation_loss"].to_numpy(np.float64)
    if not len(losses):
        return None
    row = int(np.nanargmin(losses)) if np.isfinite(losses).any() else len(losses) - 1
    return int(table["epoch"].iloc[row])


def confusion_figure(measured: dict[str, Any]) -> Figure:
    """Draw three row-normalised confusion matrices with their counts (the paper's Fig. 3d-f)."""
    figure = Figure(figsize=(12, _HEIGHT))
    wanted: list[tuple[str, str, Sequence[TissueClass]]] = [
        ("classifier", "d  Classification network, tiles", LABELS),
        ("segmenter", "e  Segmentation network, tiles", LABELS),
        ("pixels", "f  Segmentation network, pixels", CLASSES),
    ]
    for number, (name, title, classes) in enumerate(wanted):
        left = (_LEFT + number * (_LEFT + _CELLS)) / 12
        axes = figure.add_axes((left, _BELOW / _HEIGHT, _CELLS / 12, _CELLS / _HEIGHT))
        _matrix(axes, np.asarray(measured["test"][name]["confusion"]), [kind.title for kind in classes])
        axes.set_title(title)
    return figure


def _grid(part: Any, rows: int, wanted: int) -> list[Axes]:
    axes = list(part.subplots(rows, _ABREAST, squeeze=False).ravel())
    for empty in axes[wanted:]:
        empty.set_visible(False)
    return axes[:wanted]


def _slides_by_split(axes: Axes, slides: pd.DataFrame) -> None:
    counts = [int((slides["split"] == split).sum()) for split in SPLITS]
    _bars(axes, [split.capitalize() for split in SPLITS], counts)
    axes.set_title("Slides in each part")


def _tiles_by_split(axes: Axes, slides: pd.DataFrame) -> None:
    left = np.zeros(len(SPLITS))
    places = np.arange(len(SPLITS))
    for kind in LABELS:
        widths = np.array([slides.loc[slides["split"] == split, f"{kind.key}_tiles"].sum() for split in SPLITS], float)
        bars = axes.barh(places, widths, left=left, height=0.62, color=kind.colour, label=kind.title, edgecolor=PAPER)
        named = [f"{width:,.0f}" if width > 0.08 * max(_largest(slides), 1) else "" for width in widths]
        axes.bar_label(bars, named, label_type="center", color="#101418", fontsize=8)
        left += widths
    _ends(axes, left)
    axes.set_yticks(places, [split.capitalize() for split in SPLITS])
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2, handlelength=1)
    axes.set_title("Tiles in each part")


def _largest(slides: pd.DataFrame) -> float:
    tiles = slides["tumor_tiles"] + slides["non_tumor_tiles"]
    return max((float(tiles[slides["split"] == split].sum()) for split in SPLITS), default=0.0)


def _bars(axes: Axes, names: Sequence[str], counts: Sequence[int]) -> None:
    places = np.arange(len(names))
    axes.barh(places, counts, height=0.62, color="#8796a5")
    _ends(axes, np.asarray(counts, float))
    axes.set_yticks(places, list(names))


def _ends(axes: Axes, totals: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    """Write each bar's total at its end, and leave room for it."""
    for place, total in enumerate(totals):
        axes.annotate(f"{total:,.0f}", (total, place), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
    bare(axes)
    axes.set_xlim(0, max(float(totals.max(initial=0)), 1) * 1.18)
    axes.set_xticks([])
    axes.invert_yaxis()


def _curve(axes: Axes, table: pd.DataFrame, column: str, look: tuple[str, Any, str]) -> None:
    colour, dash, label = look
    if column in table and table[column].notna().any():
        axes.plot(table["epoch"], table[column], color=colour, linestyle=dash, label=label, marker="o", markersize=3)


def _mark_kept(loss: Axes, score: Axes, table: pd.DataFrame) -> None:
    epoch = kept_epoch(table)
    if epoch is not None:
        for axes in (loss, score):
            axes.axvline(epoch, color=INK, linewidth=0.9, linestyle=(0, (1, 1.5)), label=f"Kept: epoch {epoch}")
        loss.legend(loc="best")
    if not score.lines or score.lines[0].get_label() != "Validation":
        score.text(0.5, 0.5, "no validation tiles", transform=score.transAxes, ha="center", color=MUTED)
        score.set_yticks([])


def _matrix(axes: Axes, counts: np.ndarray[Any, np.dtype[np.int64]], names: Sequence[str]) -> None:
    rows = counts.sum(1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros(counts.shape), where=rows > 0)
    axes.pcolormesh(shares, cmap=_SHADES, vmin=0, vmax=1, edgecolors=PAPER, linewidth=2)
    for (row, column), count in np.ndenumerate(counts):
        colour = "#ffffff" if shares[row, column] > _DARK else "#10161d"
        share = f"{shares[row, column]:.1%}" if rows[row, 0] else "\N{EN DASH}"
        place: dict[str, Any] = {"ha": "center", "va": "center", "color": colour}
        for text, rise, size, weight in ((share, 6, 10.5, "bold"), (_short(int(count)), -8, 8, "normal")):
            centre, offset = (column + 0.5, row + 0.5), (0, rise)
            axes.annotate(text, centre, offset, textcoords="offset points", fontsize=size, weight=weight, **place)
    bare(axes)
    ticks = np.arange(len(names)) + 0.5
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names, rotation=90, va="center")
    axes.set(xlabel="Predicted", ylabel="Annotated")
    axes.invert_yaxis()


def _short(count: int) -> str:
    """Write a count with separators, millions with one decimal."""
    return f"{count / 1e6:,.1f} M" if count >= _MANY else f"{count:,}"


FIGURES = (
    FigureSpec(
        name="cohort",
        number="Figure 1",
        section="cohort",
        draw=lambda data: cohort_figure(data.slides),
        caption=lambda _: (
            "Slides and tiles in each part of the cohort, and the patients' characteristics where slides.csv gives "
            f"any. Corresponds to Fig. 1 of {CITED}."
        ),
    ),
    FigureSpec(
        name="confusion",
        number="Figure 3 d\N{EN DASH}f",
        section="scores",
        order=1,
        draw=lambda data: confusion_figure(data.measured),
        caption=lambda _: (
            "Confusion matrices on the test data; each row sums to 100 %, counts below. (d) Classification network, "
            "tiles. (e) Segmentation network, tiles. (f) Segmentation network, every pixel of the same tiles, in all "
            f"four classes. Corresponds to Fig. 3d, e and f of {CITED}."
        ),
    ),
    FigureSpec(
        name="training",
        number="Figure E",
        section="training",
        draw=lambda data: training_figure(data.history),
        caption=lambda _: (
            "Loss and validation score of each epoch. The dotted line marks the epoch whose weights were kept, the one "
            f"with the lowest validation loss. {NO_SUCH_FIGURE}"
        ),
    ),
)
