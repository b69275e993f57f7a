"""The figure of the grid search (the paper's Fig. S1)."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from vitrail.report.figures.spec import FigureSpec
from vitrail.report.style import INK, MUTED, PAPER

if TYPE_CHECKING:
    from vitrail.report.data import ReportData
    from vitrail.search.results import SearchResult

LINES = (("#0072b2", "o", "-"), ("#b8568f", "s", (0, (5, 1.6))), ("#7a8b2f", "^", (0, (1.2, 1.4))),
         ("#07385f", "D", (0, (6, 1.6, 1.2, 1.6))))  # fmt: skip
"""Colour, marker and dash of each tile size, in turn; told apart without colour by the latter two."""

_APART = 0.03
"""How far lines are moved apart, in doublings of the resolution, so that their bars do not hide each other."""


def search_figure(result: SearchResult) -> Figure:
    """Draw mean validation accuracy by resolution, one line a tile size, its spread as bars; a ring marks the choice.

    Call it within `style()`.

    Parameters
    ----------
    result
        What the search found.
    """
    figure = Figure(figsize=(6.6, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    sizes = sorted({combination.side_um for combination in result.combinations})
    shifts = {size: 2 ** ((number - (len(sizes) - 1) / 2) * _APART) for number, size in enumerate(sizes)}
    for side_um, (colour, marker, dash) in zip(sizes, cycle(LINES), strict=False):
        own = [each for each in result.combinations if each.side_um == side_um and each.n]
        if not own:
            continue
        sides_px, means = [each.side_px * shifts[side_um] for each in own], [each.accuracy for each in own]
        spreads = [each.spread if each.n > 1 else 0.0 for each in own]
        axes.errorbar(sides_px, means, spreads, fmt="none", ecolor=colour, elinewidth=1, capsize=3)
        look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 6}
        axes.plot(sides_px, means, linestyle=dash, label=f"{side_um:g} \N{MICRO SIGN}m", **look)
        early = [
            point
            for point, each in zip(zip(sides_px, means, strict=True), own, strict=True)
            if each.state != "complete"
        ]
        if early:
            axes.plot(*zip(*early, strict=True), linestyle="", mfc=PAPER, **look)
    chosen = result.chosen
    centre = [chosen.side_px * shifts[chosen.side_um]], [chosen.accuracy]
    axes.plot(*centre, "o", markersize=14, mfc="none", mec=INK, mew=1.4, label="chosen")
    ticks = sorted({each.side_px for each in result.combinations})
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([str(tick) for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(ticks[0] / 1.12, ticks[-1] * 1.12)
    axes.set_xlabel("tile resolution (pixels a side)")
    axes.set_ylabel("mean validation accuracy")
    axes.tick_params(axis="x", color=MUTED)
    axes.legend(title="tile size", loc="best", handlelength=3.2)
    return figure


def search_caption(result: SearchResult) -> str:
    """Say what the figure shows, in plain text."""
    chosen = result.chosen
    return (
        f"Mean validation accuracy of the classifier by tile size and resolution, from {result.iterations} x "
        f"{result.folds}-fold cross-validation over the {len(result.patients)} patients of train and validation "
        f"(folds by patient, stratified); bars are one standard deviation over folds and iterations. The ring marks "
        f"the choice, {chosen.side_um:g} \N{MICRO SIGN}m at {chosen.side_px} pixels: the fewest pixels within "
        f"{result.tolerance:g} of the best mean. Open markers were abandoned early or lack a training. The fold that "
        f"scores a network also chose its best epoch, so that all values are slightly optimistic, alike for all."
    )


def figures_of(data: ReportData) -> tuple[FigureSpec, ...]:
    """Return the figure of a run with a grid search."""
    if (result := data.search) is None:
        return ()
    return (
        FigureSpec(
            name="search",
            number="Figure S1",
            section="search",
            width="narrow",
            draw=lambda _: search_figure(result),
            caption=lambda _: search_caption(result),
        ),
    )
