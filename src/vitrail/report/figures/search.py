"""The figure of the grid search (the paper's Fig. S1)."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from vitrail.report.figures.spec import FigureSpec
from vitrail.report.style import INK, MUTED, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vitrail.report.data import ReportData
    from vitrail.search.results import Combination, SearchResult

LINES = (("#0072b2", "o", "-"), ("#b8568f", "s", (0, (5, 1.6))), ("#7a8b2f", "^", (0, (1.2, 1.4))),
         ("#07385f", "D", (0, (6, 1.6, 1.2, 1.6))))  # fmt: skip
"""Colour, marker and dash of each tile size, in turn; told apart without colour by the latter two."""

_APART = 0.03
"""How far lines are moved apart, in doublings of the resolution, so that their bars do not hide each other."""


def search_figure(result: SearchResult) -> Figure:
    """Draw mean validation accuracy by resolution, one line a tile size, its spread as bars; a ring marks the choice.

    Call it within `style()`.
    """
    figure = Figure(figsize=(6.6, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    sizes = sorted({one.side_um for one in result.combinations})
    middle = (len(sizes) - 1) / 2
    for number, (side_um, look) in enumerate(zip(sizes, cycle(LINES), strict=False)):
        own = [one for one in result.combinations if one.side_um == side_um and one.n]
        shift = 2 ** ((number - middle) * _APART)
        _line(axes, own, look, shift)
    _ring(axes, result.chosen, 2 ** ((sizes.index(result.chosen.side_um) - middle) * _APART))
    _label(axes, result)
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


def _line(axes: Axes, own: list[Combination], look: tuple[str, str, Any], shift: float) -> None:
    colour, marker, dash = look
    if not own:
        return
    sides, means = [one.side_px * shift for one in own], [one.accuracy for one in own]
    spreads = [one.spread if one.n > 1 else 0.0 for one in own]
    axes.errorbar(sides, means, spreads, fmt="none", ecolor=colour, elinewidth=1, capsize=3)
    label = f"{own[0].side_um:g} \N{MICRO SIGN}m"
    axes.plot(sides, means, color=colour, marker=marker, linestyle=dash, markersize=6, label=label)
    early = [(side, one.accuracy) for side, one in zip(sides, own, strict=True) if one.state != "complete"]
    if early:
        axes.plot(*zip(*early, strict=True), color=colour, marker=marker, linestyle="", markersize=6, mfc=PAPER)


def _ring(axes: Axes, chosen: Combination, shift: float) -> None:
    place = ([chosen.side_px * shift], [chosen.accuracy])
    axes.plot(*place, "o", markersize=14, mfc="none", mec=INK, mew=1.4, label="chosen")


def _label(axes: Axes, result: SearchResult) -> None:
    sides = sorted({one.side_px for one in result.combinations})
    axes.xaxis.set_major_locator(FixedLocator(sides))
    axes.xaxis.set_major_formatter(FixedFormatter([str(side) for side in sides]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(sides[0] / 1.12, sides[-1] * 1.12)
    axes.set_xlabel("tile resolution (pixels a side)")
    axes.set_ylabel("mean validation accuracy")
    axes.tick_params(axis="x", color=MUTED)
    axes.legend(title="tile size", loc="best", handlelength=3.2)


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
