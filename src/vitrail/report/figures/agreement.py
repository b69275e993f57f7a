"""How far maps agree: the paper's Fig. S4, and a matrix of all methods."""

from __future__ import annotations

from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vitrail.classes import NETWORKS
from vitrail.evaluation.explanations import PAPER_MODES
from vitrail.explain.study.store import pairs, split_key
from vitrail.metrics.correlation import histogram
from vitrail.report.figures.gallery import SHORT
from vitrail.report.figures.spec import NO_SUCH_FIGURE, FigureSpec
from vitrail.report.style import CITED, INK, MUTED, bare

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from vitrail.explain.study.store import Stored
    from vitrail.report.data import ReportData

BINS = 30
"""Equal bins from -1 to 1, as the paper's."""

_EDGES = np.linspace(-1, 1, BINS + 1)
_FILL, _OUTLINE = "#8fb8d8", "#b35000"
_CELLS = LinearSegmentedColormap.from_list("agreement", ["#7b3294", "#f7f5f7", "#1b7837"])  # of -1, 0 and 1
_FEWEST = 3  # methods that a matrix is worth its place for
_DARK, _PALE = "#101418", "#7a8590"  # on the cells, whatever the page's colours


def figures_of(data: ReportData) -> tuple[FigureSpec, ...]:
    """Return the figure of a run with explanations."""
    if (explained := data.explained) is None:
        return ()
    return (
        FigureSpec(
            name="why-agreement", number="Figure S4", section="agreement",
            draw=lambda _: agreement_figure(explained.stored),
            caption=lambda _: "How Pearson's coefficient of two maps over a tile's pixels is distributed over the test "
            "tiles, in 30 equal bins. Filled: the maps as they are; outline: after ReLU, without what speaks against "
            "tumor, where both are signed. The mode is the centre of the fullest bin of the former; dots: their mean, "
            "with its 95 % interval over patients. Tiles with a constant map have no coefficient and are left out. "
            f"Triangles mark the modes that {CITED} report for their own data. Corresponds to Fig. S4 there.",
            applies=lambda _: bool(pairs(explained.stored.keys)),
        ),
        FigureSpec(
            name="why-matrix", number="Figure K", section="agreement", order=1,
            draw=lambda _: matrix_figure(explained.stored),
            caption=lambda _: "How far the maps of any two methods agree on a network, and those of one method on the "
            "two networks. Above the diagonal: the mean of Pearson's coefficient, as the paper has it, which also "
            "counts what maps of all tiles share. Below: Spearman's coefficient, of the ranks at 32 x 32 points of a "
            "tile, beyond that with the second map of another tile; pale where its 95 % interval over patients holds "
            f"0. The share of the strongest tenth that two maps have in common is in the table. {NO_SUCH_FIGURE}",
            applies=lambda _: len(explained.stored.methods) >= _FEWEST and has_null(explained.stored),
        ),
    )  # fmt: skip


def has_null(stored: Stored) -> bool:
    """Tell whether agreement was measured beside maps of other tiles; older runs have not."""
    return any("spearman" in measured for measured in stored.summary["agreement"].values())


def pair_titles(stored: Stored) -> dict[str, tuple[str, str]]:
    """Return how each pair of maps is called in the figure, and in the table; the paper's first, in its order."""
    titles = {}
    for pair, (first, second) in pairs(stored.keys).items():
        (network, method), (other_network, other_method) = split_key(first), split_key(second)
        if network == other_network:
            methods = f"{stored.methods[method]} and {stored.methods[other_method]}"
            titles[pair] = f"{SHORT[network]}: {methods}", f"{SHORT[network]} network: {methods}"
        else:
            networks = f"{SHORT[network].lower()} and {SHORT[other_network].lower()}"
            titles[pair] = f"{stored.methods[method]}: {networks}", f"{stored.methods[method]}: both networks"
    return {pair: titles[pair] for pair in dict.fromkeys((*PAPER_MODES, *titles)) if pair in titles}


def agreement_figure(stored: Stored) -> Figure:
    """Draw the distribution of Pearson's coefficient for the paper's pairs of maps (its Fig. S4); else the first four.

    Call it within `style()`.
    """
    titles, summary = pair_titles(stored), stored.summary["agreement"]
    own = [pair for pair in titles if pair in PAPER_MODES] or list(titles)[: len(PAPER_MODES)]
    titles = {pair: titles[pair] for pair in own}
    rows = -(-len(titles) // 2)
    figure = Figure(figsize=(10, 3.3 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    for number, (pair, (title, _)) in enumerate(titles.items()):
        axes = panels[number]
        after_relu = stored.agreement.get(f"{pair}_relu")
        _draw_counts(axes, stored.agreement[pair].to_numpy(), None if after_relu is None else after_relu.to_numpy())
        if not summary[pair]["n"]:
            axes.text(0.5, 0.5, "no tile has two maps that vary", transform=axes.transAxes, ha="center", color=MUTED)
        _draw_marks(axes, summary[pair], PAPER_MODES.get(pair))
        axes.set_title(f"{ascii_lowercase[number]}  {title}")
        axes.set(xlim=(-1, 1), xlabel="Pearson's r of a tile's two maps", ylabel="Tiles")
    for axes in panels[len(titles) :]:
        axes.remove()
    entries: dict[str, Artist] = {}  # of all panels: those that the paper lacks have no mode of its
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=len(entries))
    return figure


def _draw_counts(axes: Axes, r: np.ndarray[Any, Any], after_relu: np.ndarray[Any, Any] | None) -> None:
    """Draw how many tiles have which coefficient, and how many have none because a map is constant."""
    constant = np.isnan(r)
    counts = histogram(np.asarray(r, np.float64), BINS)
    axes.stairs(counts, _EDGES, fill=True, facecolor=_FILL, edgecolor=_FILL, label="Maps as they are")
    lines, highest = [f"n = {int((~constant).sum()):,}, constant {int(constant.sum()):,}"], int(counts.max())
    if after_relu is not None:
        constant = np.isnan(after_relu)
        counts = histogram(np.asarray(after_relu, np.float64), BINS)
        axes.stairs(counts, _EDGES, color=_OUTLINE, linewidth=1.2, label="After ReLU")
        lines.append(f"after ReLU: n = {int((~constant).sum()):,}, constant {int(constant.sum()):,}")
        highest = max(highest, int(counts.max()))
    axes.set_ylim(0, 1.5 * max(highest, 1))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.text(0.015, 0.975, "\n".join(lines), transform=axes.transAxes, va="top", fontsize=8, color=MUTED)


def _draw_marks(axes: Axes, measured: dict[str, Any], paper_mode: float | None) -> None:
    """Mark the mode, the mean with its interval, and the paper's mode on the axis."""
    if paper_mode is not None:
        axes.plot(
            [paper_mode], [0], "^", color=INK, markerfacecolor="none", markersize=7, clip_on=False, zorder=5,
            label="Mode in the paper",
        )  # fmt: skip
    if measured["mode"] is None:
        return
    mode, mean, top = measured["mode"], measured["mean"], axes.get_ylim()[1]
    axes.vlines(mode, 0, 0.76 * top, color=INK, linewidth=1.1, linestyle=(0, (3, 2)), label="Mode")
    low, high = measured["interval"]
    if low is not None:
        axes.errorbar(
            mean, 0.68 * top, xerr=[[mean - low], [high - mean]], color=INK, fmt="o", markersize=3.5, capsize=3,
            linewidth=1.1, label="Mean, 95 % interval",
        )  # fmt: skip
    axes.annotate(
        f"{mode:.2f}".replace("-", "\N{MINUS SIGN}"), (mode, 0.76 * top), (0, 4), textcoords="offset points",
        ha="center", fontsize=8.5, weight="bold",
    )  # fmt: skip


def matrix_figure(stored: Stored) -> Figure:
    """Draw how far each two methods agree on either network, and each method on both; call it within `style()`."""
    summary, methods = stored.summary["agreement"], list(stored.methods)
    side = max(0.42 * len(methods), 2.6)
    figure = Figure(figsize=(2 * side + 4.6, side + 1.7), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True, width_ratios=[len(methods), len(methods), 2])
    names = [stored.methods[method] for method in methods]
    for axes, (network, title) in zip(panels, NETWORKS.items(), strict=False):
        _start_cells(axes, (len(methods), len(methods)), f"{title}: Pearson above,\nSpearman beyond chance below")
        for row, column in np.ndindex(len(methods), len(methods)):
            first, second = methods[min(row, column)], methods[max(row, column)]
            measured = summary.get(f"{network}_{first}_{second}")
            if row != column and measured is not None:
                _draw_cell(axes, row, column, _cell(measured, beyond=row > column))
        axes.set_xticks(range(len(methods)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(methods)), names)
    _start_cells(panels[2], (len(methods), 2), "Both\nnetworks")
    for row, method in enumerate(methods):
        pair = next((name for name in summary if name.startswith(f"{method}_") and name in pairs(stored.keys)), None)
        for column in range(2):
            if pair is not None:
                _draw_cell(panels[2], row, column, _cell(summary[pair], beyond=column == 1))
    panels[2].set_xticks(range(2), ["Pearson", "Spearman\nbeyond"], rotation=45, ha="right")
    return figure


def _start_cells(axes: Axes, cells: tuple[int, int], title: str) -> None:
    bare(axes)
    axes.set(xlim=(-0.5, cells[1] - 0.5), ylim=(cells[0] - 0.5, -0.5), aspect="equal")
    axes.set_title(title, fontsize=8.5, pad=5)


def _cell(measured: dict[str, Any], *, beyond: bool) -> tuple[float | None, bool]:
    """Return what a cell shows, and whether chance explains it."""
    if not beyond:
        return measured["mean"], False
    value, low, high = measured.get("spearman", {}).get("beyond", [None] * 3)
    return value, low is None or high is None or low <= 0 <= high


def _draw_cell(axes: Axes, row: int, column: int, content: tuple[float | None, bool]) -> None:
    value, chance = content
    if value is None:
        axes.text(column, row, "\N{EN DASH}", ha="center", va="center", fontsize=7, color=MUTED)
        return
    colour = _CELLS((value + 1) / 2)
    axes.fill_between([column - 0.48, column + 0.48], row - 0.48, row + 0.48, color=colour, linewidth=0)
    dark = sum(colour[:3]) > 1.6
    axes.text(
        column, row, f"{round(value, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}"), ha="center", va="center",
        fontsize=6.5, color=(_PALE if chance else _DARK) if dark else "#ffffff",
    )  # fmt: skip
