"""Whether the explanations are true, in figures. The paper has none of these.

Each function draws one figure within `style()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from vitrail.classes import NETWORK_COLOURS, NETWORKS
from vitrail.evaluation.explanations import perturbation_curves, randomisation_curves, truth_table
from vitrail.explain.checks.results import CASCADES
from vitrail.explain.study.store import split_key
from vitrail.report.figures.gallery import SHORT, map_titles
from vitrail.report.figures.spec import NO_SUCH_FIGURE, FigureSpec
from vitrail.report.select import shown_methods
from vitrail.report.style import INK, MUTED, PAPER, bare, drawable

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from matplotlib.axes import Axes

    from vitrail.report.data import ReportData

REGIONS = {"atypical_nuclei": "Atypical nuclei", "nuclei": "All nuclei", "stroma": "Stroma"}
"""Where the cause of tumor is known on synthetic slides."""

FLOORS = {
    "random": "Random order", "blob": "Centred blob", "edges": "Edge detector", "untrained": "Network without training"
}  # fmt: skip
"""Maps that no network has made, or one that has learnt nothing: what a method has to outdo."""

REPLACEMENTS = {"blur": "blurred", "tissue": "as tissue without its dark half", "donor": "as another, non-tumor tile"}
"""What takes the place of deleted blocks."""

_LOOKS: tuple[tuple[str, Any, str], ...] = (
    ("#d55e00", "-", "o"), ("#5e3c99", (0, (5, 1.6)), "s"), ("#009e73", (0, (10, 2)), "^"),
    ("#0072b2", (0, (2, 1)), "D"), ("#a6761d", (0, (7, 1, 1, 1)), "v"),
)  # fmt: skip
"""Colour, dash and marker of each method, by its position."""

_FLOOR_DASHES: dict[str, Any] = {
    "random": (0, (1, 1.3)), "blob": (0, (3, 1.2, 1, 1.2)), "edges": (0, (6, 2)), "untrained": "-"
}  # fmt: skip
_CHANCE = {"others": ("Maps of other tiles", "s"), "turned": ("The map turned and mirrored", "D")}
_KINDS = {
    "deletion": ("Deletion", "of the tile replaced, what matters most first"),
    "insertion": ("Insertion", "of the tile brought back, what matters most first"),
}
_LONGEST_STEP = 18


def figures_of(data: ReportData) -> list[FigureSpec]:
    """Return the figures of a run whose explanations were checked; what there is nothing to show of is left out."""
    if data.explained is None or (checked := data.explained.checked) is None:
        return []
    stored = data.explained.stored
    methods = {name: stored.methods[name] for name in shown_methods(stored, data.explained.show)}
    return [
        FigureSpec(
            name="why-perturbation", number="Figure G", section="checks",
            draw=lambda _: perturbation_figure(checked.perturbation, methods),
            caption=lambda _: "Deletion: blocks of a tile are replaced one after the other, those first that a map "
            "calls most important; the sooner the network's tumor score falls, the truer the map. Insertion: blocks "
            "are brought back into the replaced tile; the sooner the score rises, the better. Grey: orders that no "
            "trained network gives. Where the two ends of a curve hardly differ, what replaces the blocks takes no "
            "evidence away, and tests nothing. Means over the checked tiles. " + NO_SUCH_FIGURE,
            applies=lambda _: len(checked.perturbation) > 0,
        ),
        FigureSpec(
            name="why-randomisation", number="Figure H", section="checks", order=1,
            draw=lambda _: randomisation_figure(checked.randomisation, methods),
            caption=lambda _: "A map has to change when the network forgets: its weights are randomised from the top "
            "down, and each step's map is correlated with that of the untouched network. Grey: the correlation with "
            "another tile's map, which is what chance gives. Means of the magnitude over tiles and draws: "
            f"{CASCADES} at most for the steps, all for the last. After Adebayo et al. 2018; the paper has no such "
            "figure.",
            applies=lambda _: len(checked.randomisation) > 0,
        ),
        FigureSpec(
            name="why-truth", number="Figure I", section="checks", order=2,
            draw=lambda _: truth_figure(
                checked.summary,
                {key: title for key, title in map_titles(stored).items() if key in (checked.summary["truth"] or {})},
            ),
            caption=lambda _: "On synthetic slides the cause of tumor is known: atypical nuclei. The share of a map's "
            "positive weight (of a map without a zero: above its lowest value) inside these, inside all nuclei and in "
            "stroma, over the share of the area that they fill. Bars: 95 % intervals over patients, cut off at the "
            "frame. Grey: the same of maps that know nothing of the tile, which is what chance gives. "
            + NO_SUCH_FIGURE,
            applies=lambda _: bool(checked.summary["truth"]),
        ),
    ]  # fmt: skip


def perturbation_figure(perturbation: pd.DataFrame, methods: Mapping[str, str]) -> Figure:
    """Draw the deletion and insertion curves of both networks, the mean over the tiles.

    Parameters
    ----------
    perturbation
        As in `Checked`.
    methods
        The title of each method, by its name.
    """
    curves = perturbation_curves(perturbation)
    replacements = [
        name for name in dict.fromkeys((*REPLACEMENTS, *curves["replacement"])) if name in set(curves["replacement"])
    ]
    single = len(replacements) == 1
    figure = Figure(figsize=(10, 6.4) if single else (12.5, 0.7 + 2.7 * len(replacements)), layout="constrained")
    grid = figure.subplots(*((2, 2) if single else (len(replacements), 4)), sharey=True, squeeze=False)
    looks = dict(zip(methods, (_LOOKS[number % len(_LOOKS)] for number in range(len(methods))), strict=True))
    looks |= {floor: (MUTED, dash, "") for floor, dash in _FLOOR_DASHES.items()}
    panels = [(network, kind, name) for name in replacements for network in NETWORKS for kind in _KINDS]
    for axes, (network, kind, name) in zip(grid.T.ravel() if single else grid.ravel(), panels, strict=True):
        own = (curves["network"] == network) & (curves["kind"] == kind) & (curves["replacement"] == name)
        for order, (colour, dash, marker) in looks.items():
            curve = curves[own & (curves["order"] == order)]
            if len(curve):
                axes.plot(
                    curve["fraction"], curve["score"], color=colour, linestyle=dash, marker=marker, markersize=3.2,
                    linewidth=1.8 if marker else 1.2, label=methods.get(order, FLOORS.get(order)), clip_on=False,
                )  # fmt: skip
        kind_title, goes_on = _KINDS[kind]
        title = f"{kind_title}, {SHORT[network].lower()}"
        axes.set_title(title if single else f"{title}\n{REPLACEMENTS.get(name, name)}", fontsize=10 if single else 8.5)
        axes.set(xlabel=f"Share {goes_on}" if single else "Share of the tile, what matters most first", xlim=(0, 1))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axes in grid[:, 0]:
        axes.set_ylabel("Tumor score")
    _common_legend(figure)
    return figure


def _common_legend(figure: Figure) -> None:
    """Draw one legend of all panels below them."""
    entries = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    columns = min(max(len(entries), 1), 5)
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns, handlelength=3)


def randomisation_figure(randomisation: pd.DataFrame, methods: Mapping[str, str]) -> Figure:
    """Draw how similar maps stay to themselves while the network's weights are randomised from the top down.

    Parameters
    ----------
    randomisation
        As in `Checked`.
    methods
        The title of each method, by its name.
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    curves = randomisation_curves(randomisation)
    for axes, (network, title) in zip(figure.subplots(1, 2, sharey=True), NETWORKS.items(), strict=True):
        part = curves[curves["network"] == network]
        for at, (method, name) in enumerate(methods.items()):
            rows, (colour, dash, marker) = part[part["method"] == method], _LOOKS[at % len(_LOOKS)]
            if not len(rows):
                continue
            axes.plot(
                rows["number"], rows["correlation"], label=name, clip_on=False, color=colour,
                linestyle=dash, marker=marker, markersize=3.6,
            )  # fmt: skip
            axes.plot(
                rows["number"], rows["chance"], color=MUTED, linewidth=1.1, linestyle=dash, label=f"{name}, chance"
            )
        ticks = {}
        for number, rows in part.groupby("number", sort=True):
            # the end of a layer's name is what tells layers apart; methods may begin at different ones
            names = [
                name if len(name) <= _LONGEST_STEP else f"\N{HORIZONTAL ELLIPSIS}{name[1 - _LONGEST_STEP :]}"
                for name in dict.fromkeys(rows["step"])
            ]
            ticks[number] = " / ".join(drawable(name) for name in names)
        axes.set_xticks(list(ticks), list(ticks.values()), rotation=35, ha="right")
        axes.set_title(title)
        axes.set(ylim=(0, 1.02), xlabel="Randomised down to")
    figure.axes[0].set_ylabel("Mean |r| with the untouched map")
    _common_legend(figure)
    return figure


def truth_figure(summary: dict[str, Any], titles: Mapping[str, str]) -> Figure:
    """Draw the weight inside nuclei and stroma over their area, with 95 % intervals, and that of maps without a clue.

    Parameters
    ----------
    summary
        As in `Checked`.
    titles
        The name of each kind of map.
    """
    figure = Figure(figsize=(10, 1 + 0.5 * len(titles)), layout="constrained")
    table = truth_table(summary)
    highest = 2 * float(np.nanmax([*table["ratio"], *table["others"], *table["turned"], 0]))
    for axes, (region, name) in zip(figure.subplots(1, len(REGIONS), sharey=True), REGIONS.items(), strict=True):
        axes.axvline(1, color=INK, linewidth=0.9, linestyle=(0, (1, 1.5)))
        rows = table[table["region"] == region].set_index("maps").reindex(list(titles))
        for position, (key, row) in enumerate(rows.iterrows()):
            _draw_ratio(axes, position, NETWORK_COLOURS[split_key(str(key))[0]], row)
        bare(axes)
        axes.grid(visible=True, axis="x")
        axes.set_yticks(range(len(titles)), list(titles.values()))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        limits = (0, max(1.4, highest))  # wider intervals are cut off
        axes.set(xlim=limits, xlabel="Share of weight over share of area", ylim=(len(titles) - 0.5, -0.5))
        axes.set_title(name)
    _common_legend(figure)
    return figure


def _draw_ratio(axes: Axes, y: int, colour: str, row: pd.Series[float]) -> None:
    """Draw a ratio with its interval, and what chance gives below it."""
    if not np.isfinite(row["ratio"]):
        axes.text(0.05, y, "undefined", va="center", fontsize=8, color=MUTED)
        return
    if np.isfinite([row["low"], row["high"]]).all():
        axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2.2, solid_capstyle="butt")
    axes.plot(row["ratio"], y, "o", color=colour, markeredgecolor=PAPER, markersize=8)
    for name, (label, marker) in _CHANCE.items():
        axes.plot(row[name], y + 0.28, marker, color=MUTED, markersize=5, label=label)
    axes.annotate(f"{row['ratio']:.2f}", (row["ratio"], y), (0, 6), textcoords="offset points", ha="center", fontsize=8)
