"""Whether the explanations are true, in figures. The paper has none of these.

Each function draws one figure within `style()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from vitrail.classes import NETWORK_COLOURS, NETWORKS
from vitrail.report.figures.heatmap import METHODS
from vitrail.report.sections.checks import KINDS, REGIONS, perturbation_curves, randomisation_curves, truth_table
from vitrail.report.style import INK, MUTED, PAPER, bare, drawable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes

_ORDERS = {
    "gradcam": (METHODS["gradcam"], "-", "o"),
    "hrcam": (METHODS["hrcam"], (0, (5, 1.6)), "s"),
    "blob": ("Centred blob", (0, (3, 1.2, 1, 1.2)), None),
    "random": ("Random order", (0, (1, 1.3)), None),
}
_CHANCE = {"others": ("Maps of other tiles", "s"), "turned": ("The map turned and mirrored", "D")}
_KIND_LABELS = {
    "deletion": "of the tile blurred, what matters most first",
    "insertion": "of the tile brought back, what matters most first",
}


def perturbation_figure(perturbation: pd.DataFrame) -> Figure:
    """Draw the deletion and insertion curves of both networks, the mean over the tiles."""
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    curves = perturbation_curves(perturbation)
    for column, (network, title) in zip(figure.subplots(2, 2, sharey="row").T, NETWORKS.items(), strict=True):
        for axes, (kind, name) in zip(column, KINDS.items(), strict=True):
            part = curves[(curves["network"] == network) & (curves["kind"] == kind)]
            for order in _ORDERS:
                _curve(axes, part[part["order"] == order], network, order)
            axes.set_title(f"{name}, {title.lower()}")
            axes.set(xlabel=f"Share {_KIND_LABELS[kind]}", xlim=(0, 1))
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.legend(loc="best", handlelength=2.8)
    for axes in figure.axes[::2]:
        axes.set_ylabel("Tumor score")
    return figure


def _curve(axes: Axes, curve: pd.DataFrame, network: str, order: str) -> None:
    name, dash, marker = _ORDERS[order]
    if len(curve):
        axes.plot(
            curve["fraction"], curve["score"], color=NETWORK_COLOURS[network] if marker else MUTED, linestyle=dash,
            marker=marker, markersize=3.2, label=name, clip_on=False,
        )  # fmt: skip


def randomisation_figure(randomisation: pd.DataFrame) -> Figure:
    """Draw how similar maps stay to themselves while the network's weights are randomised from the top down."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    curves = randomisation_curves(randomisation)
    for axes, (network, title) in zip(figure.subplots(1, 2, sharey=True), NETWORKS.items(), strict=True):
        part = curves[curves["network"] == network]
        for method, (name, dash, marker) in list(_ORDERS.items())[:2]:
            rows = part[part["method"] == method]
            look = {"color": NETWORK_COLOURS[network], "linestyle": dash, "marker": marker, "markersize": 3.6}
            axes.plot(rows["number"], rows["correlation"], label=name, clip_on=False, **look)
            axes.plot(
                rows["number"], rows["chance"], color=MUTED, linewidth=1.1, linestyle=dash, label=f"{name}, chance"
            )
        steps = {number: list(dict.fromkeys(rows["step"])) for number, rows in part.groupby("number", sort=True)}
        axes.set_xticks(list(steps), [_step(names) for names in steps.values()], rotation=35, ha="right")
        axes.set_title(title)
        axes.set(ylim=(0, 1.02), xlabel="Randomised down to")
        axes.legend(loc="best", handlelength=2.8)
    figure.axes[0].set_ylabel("Mean |r| with the untouched map")
    return figure


def _step(names: Sequence[str]) -> str:
    """Name a step by the end of its layer's name, which is what tells layers apart; methods may begin differently."""
    long = 18
    return " / ".join(
        drawable(name if len(name) <= long else f"\N{HORIZONTAL ELLIPSIS}{name[1 - long :]}") for name in names
    )


def truth_figure(summary: dict[str, Any], titles: dict[str, str]) -> Figure:
    """Draw the weight inside nuclei and stroma over their area, with 95 % intervals, and that of maps without a clue.

    Parameters
    ----------
    summary
        As in `Checked`.
    titles
        The name of each kind of map.
    """
    figure = Figure(figsize=(10, 3.0), layout="constrained")
    table = truth_table(summary)
    highest = max(
        1.4, 2 * float(np.nanmax([*table["ratio"], *table["others"], *table["turned"], 0]))
    )  # wider intervals are cut off
    for axes, (region, name) in zip(figure.subplots(1, len(REGIONS), sharey=True), REGIONS.items(), strict=True):
        axes.axvline(1, color=INK, linewidth=0.9, linestyle=(0, (1, 1.5)))
        rows = table[table["region"] == region].set_index("maps").reindex(list(titles))
        for place, (key, found) in enumerate(rows.iterrows()):
            _dot(axes, place, NETWORK_COLOURS[str(key).split("_")[0]], found)
        bare(axes)
        axes.grid(visible=True, axis="x")
        axes.set_yticks(range(len(titles)), list(titles.values()))
        axes.set(xlim=(0, highest), xlabel="Share of weight over share of area", ylim=(len(titles) - 0.5, -0.5))
        axes.set_title(name)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=max(len(named), 1))
    return figure


def _dot(axes: Axes, place: int, colour: str, found: pd.Series[float]) -> None:
    if not np.isfinite(found["ratio"]):
        axes.text(0.05, place, "undefined", va="center", fontsize=8, color=MUTED)
        return
    if np.isfinite([found["low"], found["high"]]).all():
        axes.plot([found["low"], found["high"]], [place, place], color=colour, linewidth=2.2, solid_capstyle="butt")
    axes.plot(found["ratio"], place, "o", color=colour, markeredgecolor=PAPER, markersize=8)
    for name, (label, marker) in _CHANCE.items():
        axes.plot(found[name], place + 0.28, marker, color=MUTED, markersize=5, label=label)
    axes.annotate(
        f"{found['ratio']:.2f}", (found["ratio"], place), (0, 6), textcoords="offset points", ha="center", fontsize=8
    )
