"""Tiles beside themselves without what a network relies on. The paper has no such figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from scipy.special import expit

from vitrail.classes import NETWORKS
from vitrail.explain.checks.reliance import TITLES
from vitrail.report.figures.heatmap import inch_axes, show
from vitrail.report.figures.spec import NO_SUCH_FIGURE, FigureSpec
from vitrail.report.style import MUTED

if TYPE_CHECKING:
    import pandas as pd

    from vitrail.explain.checks.reliance import Reliance
    from vitrail.report.data import ReportData

STRONGEST = 3
"""Causes of each network that are shown."""

_LEAST = 0.02
"""Share of the score below which there is nothing to look at."""

_WIDTH, _LEFT, _GAP, _HEAD, _NOTE, _TILES = 12.0, 0.34, 0.09, 0.36, 0.19, 6
_CELL = (_WIDTH - _LEFT - (_TILES - 1) * _GAP - 0.02) / _TILES


def figures_of(data: ReportData) -> list[FigureSpec]:
    """Return the figure of a run whose reliance was measured, where anything moves the score."""
    if data.explained is None or (checked := data.explained.checked) is None or checked.reliance is None:
        return []
    reliance, causes = checked.reliance, strongest_causes(checked.summary.get("reliance", {}))
    return [
        FigureSpec(
            name="reliance", number="Figure J", section="reliance",
            draw=lambda _: reliance_figure(reliance, causes),
            caption=lambda _: "The strongest causes of each network: tumor tiles that lose most of their score, "
            "and below each the same tile without the cause. p: the classification network's tumor probability; of the "
            "segmentation network the probability at the mean log odds of its pixels. Tiles as the networks see them. "
            + NO_SUCH_FIGURE,
            applies=lambda _: bool(causes),
        )
    ]  # fmt: skip


def strongest_causes(summary: dict[str, list[dict[str, object]]]) -> list[tuple[str, str]]:
    """Return network and cause of what is shown: those named first, then by their share."""
    chosen = []
    for network, entries in summary.items():
        ranked = sorted(entries, key=lambda entry: not entry["named"])  # their order is by share, and stays
        moving = [entry for entry in ranked if isinstance(entry["share"], float) and entry["share"] > _LEAST]
        chosen += [(network, str(entry["cause"])) for entry in moving[:STRONGEST]]
    return chosen


def reliance_figure(reliance: Reliance, causes: list[tuple[str, str]]) -> Figure:
    """Draw for each network and cause a row of tiles above the same tiles without the cause."""
    block = _HEAD + 2 * (_CELL + _NOTE) + _GAP + 0.1
    figure = Figure(figsize=(_WIDTH, block * len(causes)))
    total = figure.get_figheight()
    for number, (network, cause) in enumerate(causes):
        upper = total - number * block
        title = f"{chr(ord('a') + number)}  {NETWORKS[network]}: {TITLES.get(cause, cause)}"
        figure.text(0, (upper - 0.2) / total, title, va="center", fontsize=10.5, weight="bold")
        table = reliance.table
        own = (table["network"] == network) & (table["cause"] == cause) & (table["picture"] >= 0)
        _draw_pairs(figure, table[own].head(_TILES), reliance, upper - _HEAD)
    return figure


def _draw_pairs(figure: Figure, rows: pd.DataFrame, reliance: Reliance, upper: float) -> None:
    for line, (label, column) in enumerate((("Tile", "before"), ("Without it", "after"))):
        bottom = upper - (line + 1) * (_CELL + _NOTE) - line * _GAP
        middle = (bottom + _CELL / 2) / figure.get_figheight()
        figure.text(0.5 * _LEFT / _WIDTH, middle, label, rotation=90, ha="center", va="center", fontsize=8, color=MUTED)
        for k, (odds, picture) in enumerate(zip(rows[column], rows["picture"], strict=True)):
            axes = inch_axes(figure, _LEFT + k * (_CELL + _GAP), bottom, _CELL, _CELL)
            show(axes, reliance.pictures[picture, line])
            axes.set_title(f"p = {expit(odds):.2f}", fontsize=8, weight="normal", pad=3.5)
