"""How far maps agree: the paper's Fig. S4."""

from __future__ import annotations

from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vitrail.evaluation.explanations import PAPER_MODES
from vitrail.explain.study.store import pairs, split_key
from vitrail.metrics.correlation import histogram
from vitrail.report.figures.gallery import SHORT
from vitrail.report.figures.spec import FigureSpec
from vitrail.report.style import CITED, INK, MUTED

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from vitrail.explain.study.store import Stored
    from vitrail.report.data import ReportData

BINS = 30
"""Equal bins from -1 to 1, as the paper's."""

_EDGES = np.linspace(-1, 1, BINS + 1)
_FILL, _OUTLINE = "#8fb8d8", "#b35000"


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
    )  # fmt: skip


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
    """Draw the distribution of Pearson's coefficient for each pair of maps (the paper's Fig. S4).

    Call it within `style()`.
    """
    titles, summary = pair_titles(stored), stored.summary["agreement"]
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
