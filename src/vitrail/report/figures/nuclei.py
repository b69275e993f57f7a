"""Which nuclei the networks look at. The paper has no such figures; it names them as its future work.

Each function draws one figure within `style()`.
"""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from vitrail.classes import NETWORK_COLOURS, NETWORKS
from vitrail.explain.nuclei.contrasts import FEWEST, SHARE
from vitrail.nuclei.features import FEATURES
from vitrail.report.figures.gallery import draw_ruler
from vitrail.report.figures.heatmap import AGAINST, FOR, PERCENTILE, colour_bar, inch_axes, ramp_colours, scale_of, show
from vitrail.report.figures.spec import NO_SUCH_FIGURE, FigureSpec
from vitrail.report.select_nuclei import SAME_SIZE, single_effects
from vitrail.report.style import INK, LINE, MUTED, PAPER, drawable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from vitrail.explain.nuclei.results import NucleiStudy
    from vitrail.report.data import NucleusCrop, ReportData, ShownNuclei
    from vitrail.report.figures.heatmap import Scale

_WIDTH = 12.0
_METHODS = 2  # beside the effect there is room for so many
_OUTLINE = "#101418"
_OPEN = 100  # an interval whose ends differ by this factor says nothing
_UP_TO_1 = {"circularity", "solidity", "eccentricity"}


def figures_of(data: ReportData) -> list[FigureSpec]:
    """Return the figures of a run whose nuclei were looked at; what there is nothing to show of is left out."""
    if (shown := data.nuclei) is None or not len(shown.study.tiles):
        return []
    return [
        FigureSpec(
            name="nuclei-tiles", number="Figure L", section="nuclei", draw=lambda _: tiles_figure(shown),
            caption=lambda _: "Tiles in their own colours, and the same tiles with each nucleus outlined by what the "
            "logit of tumor loses when it is painted over with the tissue around it: orange spoke for tumor, blue "
            "against it, and thin white hardly for either (less than a tenth of full colour). Full colour stands for "
            f"the {PERCENTILE}th percentile of the magnitudes of all nuclei of a network's two tiles. Nuclei without "
            "an outline were not removed one by one. Of the tiles that both networks call rightly, those with the "
            f"median number of nuclei. {NO_SUCH_FIGURE}",
            applies=lambda _: bool(shown.pictures),
        ),
        FigureSpec(
            name="nuclei-gallery", number="Figure M", section="nuclei", order=1, draw=lambda _: gallery_figure(shown),
            caption=lambda _: "Nuclei that matter to a network on tiles that it rightly calls tumor, as the slide was "
            f"scanned, {shown.crop_um:g} \N{MICRO SIGN}m wide: those without which its logit of tumor falls most; "
            f"below each that of the same tile and size (areas within {100 * (SAME_SIZE - 1):.0f} %) without which "
            "it changes least; and those without which it rises most. Above each the fall of the logit, and the "
            "area. Each tile gives one nucleus before any gives a second. How a nucleus looks plays no part in the "
            f"choice. {NO_SUCH_FIGURE}",
            applies=lambda _: bool(shown.galleries),
        ),
        FigureSpec(
            name="nuclei-features", number="Figure N", section="nuclei", order=2,
            draw=lambda _: features_figure(shown),
            caption=lambda _: "Features of the tenth of the nuclei of each tile without which the logit of tumor falls "
            "most (filled), and of the tenth without which it falls least, or rises (line); tiles that the network "
            "rightly calls tumor. Dots: the means. Above: how many times as much, or how much more, the first have, "
            f"with the 95 % interval over patients; in bold where that leaves out no difference. {NO_SUCH_FIGURE}",
            applies=lambda _: bool(len(_effect_contrasts(shown))),
        ),
        FigureSpec(
            name="nuclei-forest", number="Figure O", section="nuclei", order=3, draw=lambda _: forest_figure(shown),
            caption=lambda _: "What goes with a nucleus's effect, and with its relevance in maps, on all tiles: the "
            "coefficient of each feature alone, in standard deviations within tiles, with its 95 % interval over "
            "patients. Grey: where coefficients lie when nothing can be known of the nucleus, of the null that comes "
            "closest: effects exchanged among nuclei of similar area, or of networks with random weights; maps that "
            "are moved, turned, of other tiles, or of such networks. Filled: beyond that, and q < 0.05 (Benjamini and "
            "Hochberg). "
            f"{NO_SUCH_FIGURE}",
            applies=lambda _: bool(len(shown.study.associations)),
        ),
        FigureSpec(
            name="nuclei-dependence", number="Figure P", section="nuclei", order=4,
            draw=lambda _: dependence_figure(shown),
            caption=lambda _: "How the effect of a nucleus follows a feature, all tiles: the nuclei of each tile in "
            "five bins of equal number by the feature, and the mean fall of the logit above the tile's mean, with 95 % "
            f"intervals over patients; long ones are cut off. {NO_SUCH_FIGURE}",
            applies=lambda _: bool((shown.study.dependence["outcome"] == "effect").any()),
        ),
    ]  # fmt: skip


def tiles_figure(shown: ShownNuclei) -> Figure:
    """Draw tiles beside themselves with their nuclei outlined by what removing each does to either network."""
    networks, gap, head, bar = [*NETWORKS], 0.1, 0.32, 0.62
    side = (_WIDTH - gap * len(networks)) / (1 + len(networks))
    effects = {network: single_effects(shown.study, network) for network in networks}
    values = {
        network: {
            (int(tile), int(number)): float(effect)
            for tile, number, effect in zip(table["tile"], table["nucleus"], table["effect"], strict=True)
            if tile in shown.pictures
        }
        for network, table in effects.items()
    }
    scales = {network: scale_of([np.array([*own.values()])]) for network, own in values.items()}
    figure = Figure(figsize=(_WIDTH, len(shown.pictures) * (head + side) + bar))
    tiles = {int(row["tile"]): row for row in shown.study.tiles.to_dict("records")}
    for line, (tile, picture) in enumerate(shown.pictures.items()):
        bottom = figure.get_figheight() - (line + 1) * (head + side)
        plain = inch_axes(figure, 0, bottom, side, side)
        show(plain, picture)
        row = tiles[tile]
        plain.set_title(
            f"{chr(ord('a') + line)}  {'Tumor' if row['label'] == 'tumor' else 'Non-tumor'}, "
            f"{drawable(row['patient_id'], 16)}: {int(row['nuclei'])} nuclei", fontsize=9, pad=4
        )  # fmt: skip
        draw_ruler(plain, 50, shown.side_um)
        for column, network in enumerate(networks, 1):
            axes = inch_axes(figure, column * (side + gap), bottom, side, side)
            show(axes, picture)
            score = f"p = {row[network]:.2f}"
            axes.set_title(f"{NETWORKS[network]}, {score}", fontsize=9, weight="normal", pad=4)
            own = {number: value for (of, number), value in values[network].items() if of == tile}
            draw_outlines(axes, shown.rings[tile], own, scales[network])
    for column, network in enumerate(networks, 1):
        axes = inch_axes(figure, column * (side + gap) + 0.1, 0.24, side - 0.2, 0.1)
        colour_bar(axes, scales[network], "Fall of the logit of tumor without a nucleus")
    return figure


def draw_outlines(
    axes: Axes,
    rings: Mapping[int, Sequence[NDArray[np.float64]]],
    values: Mapping[int, float],
    scale: Scale,
) -> None:
    """Outline nuclei on a picture that `show` has drawn, each in the colour of its value, in a white halo.

    Parameters
    ----------
    axes
        With the picture.
    rings
        By number, as shares of the picture's side.
    values
        By number; nuclei without one are not outlined.
    scale
        What full colour stands for.
    """
    left, right, bottom, top = axes.get_images()[0].get_extent()
    corner, size = np.array([left, top]), np.array([right - left, bottom - top])
    strongest_last = sorted(values.items(), key=lambda item: abs(item[1]))
    lines, colours, widths = [], [], []
    for number, value in strongest_last:
        strength = 0.0 if scale.empty else min(abs(value) / scale.limit, 1.0)
        rgb = ramp_colours(FOR if value > 0 else AGAINST, np.array(strength)) / 255
        weak = strength < 0.1
        for ring in rings.get(number, ()):
            lines.append(corner + ring * size)
            colours.append((1.0, 1.0, 1.0) if weak else tuple(rgb))
            widths.append(0.5 if weak else 0.9 + 1.1 * strength)
    drawn = LineCollection(lines, colors=colours, linewidths=widths, capstyle="round", joinstyle="round")
    halo = LineCollection(
        lines, colors="white", linewidths=[0 if width == 0.5 else width + 1.1 for width in widths], alpha=0.8
    )
    for collection in (halo, drawn):
        axes.add_collection(collection, autolim=False)


def gallery_figure(shown: ShownNuclei) -> Figure:
    """Draw for each network the nuclei that matter most, their matched ones, and those that speak against tumor."""
    columns = max(len(row) for rows in shown.galleries.values() for row in rows.values())
    left, gap, note, head = 1.0, 0.08, 0.2, 0.4
    side = min((_WIDTH - left - (columns - 1) * gap) / columns, 1.6)
    blocks = {network: head + len(rows) * (note + side + gap) for network, rows in shown.galleries.items()}
    figure = Figure(figsize=(_WIDTH, sum(blocks.values())))
    upper = total = figure.get_figheight()
    for letter, (network, rows) in zip("ab", shown.galleries.items(), strict=False):
        title = f"{letter}  {NETWORKS[network]}"
        figure.text(0, (upper - 0.2) / total, title, va="center", fontsize=10.5, weight="bold")
        for line, (row_title, row) in enumerate(rows.items()):
            bottom = upper - head - (line + 1) * (note + side + gap) + gap
            words = "\n".join(wrap(row_title, 12))
            figure.text(0, (bottom + side / 2) / total, words, va="center", fontsize=8.5, color=MUTED)
            for column, crop in enumerate(row):
                axes = inch_axes(figure, left + column * (side + gap), bottom, side, side)
                _draw_crop(axes, crop, shown.crop_um if column == line == 0 else 0.0)
        upper -= blocks[network]
    return figure


def _draw_crop(axes: Axes, crop: NucleusCrop, ruler_um: float) -> None:
    show(axes, crop.picture)
    size = np.array(crop.picture.shape[1::-1])
    for ring in crop.rings:
        (line,) = axes.plot(*(ring * size - 0.5).T, color=PAPER, linewidth=0.7, scalex=False, scaley=False)
        line.set_path_effects([withStroke(linewidth=1.5, foreground=_OUTLINE, alpha=0.55)])
    effect = f"{crop.effect:+.2g}".replace("-", "\N{MINUS SIGN}")
    area = f"{crop.area_um2:.0f} \N{MICRO SIGN}m\N{SUPERSCRIPT TWO}"
    axes.set_title(f"{effect}, {area}", fontsize=7.5, weight="normal", pad=3)
    if ruler_um:
        draw_ruler(axes, 5, ruler_um)


def _effect_contrasts(shown: ShownNuclei) -> pd.DataFrame:
    table = shown.study.contrasts
    return table[(table["outcome"] == "effect") & (table["tiles"] == "tumor")]


SHOWN_FEATURES = (
    "area_um2", "circularity", "solidity", "hematoxylin_mean", "hematoxylin_std", "texture_contrast", "nearest_um",
    "anisokaryosis_50um",
)  # fmt: skip
"""Features whose distributions are drawn: size, outline, stain, chromatin, surroundings."""


def features_figure(shown: ShownNuclei) -> Figure:
    """Draw how features of the nuclei that matter most and least are distributed, a row a network."""
    contrasts = _effect_contrasts(shown)
    networks = [network for network in NETWORKS if (contrasts["network"] == network).any()]
    names = [name for name in SHOWN_FEATURES if (contrasts["feature"] == name).any()]
    figure = Figure(figsize=(_WIDTH, 0.35 + 2.0 * len(networks)), layout="constrained")
    axes = figure.subplots(len(networks), len(names), squeeze=False)
    for line, network in zip(axes, networks, strict=True):
        most, least = extremes(shown.study, network)
        own = contrasts[contrasts["network"] == network].set_index("feature")
        for panel, name in zip(line, names, strict=True):
            highest = 1.0 if name in _UP_TO_1 else np.inf
            _draw_distributions(panel, most[name], least[name], NETWORK_COLOURS[network], highest)
            row = own.loc[name]
            ratio = row["kind"] == "ratio"
            pattern, none = ("\N{MULTIPLICATION SIGN} {:.2f}", 1.0) if ratio else ("{:+.2g}", 0.0)
            words = pattern.format(row["value"])
            if np.isfinite(row["low"]):
                open_end = ratio and row["high"] > _OPEN * row["low"]
                ends = "\n({:.2f} to {:.2f})" if ratio else "\n({:+.2g} to {:+.2g})"
                words += "\n(interval open)" if open_end else ends.format(row["low"], row["high"])
            sure = row["low"] > none or row["high"] < none
            weight = "bold" if sure else "normal"
            panel.set_title(words.replace("-", "\N{MINUS SIGN}"), fontsize=7.5, weight=weight, pad=6, loc="center")
            if network == networks[-1]:
                panel.set_xlabel("\n".join(wrap(_in_um(FEATURES[name].label), 16)), fontsize=8)
        line[0].set_ylabel(NETWORKS[network].replace(" ", "\n"), fontsize=8.5, weight="bold")
    return figure


def _in_um(title: str) -> str:
    return title.replace(" um", " \N{MICRO SIGN}m")


def extremes(study: NucleiStudy, network: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the nuclei of the tenths of each tile with the largest and the least effect, as contrasts take them.

    Parameters
    ----------
    study
        What was measured.
    network
        Whose score.

    Returns
    -------
    tuple[pd.DataFrame, pd.DataFrame]
        Rows of `single_effects`.
    """
    tumor = study.tiles.loc[study.tiles[f"{network}_group"] == "tumor", "tile"]
    nuclei = single_effects(study, network)
    parts = [own for tile, own in nuclei.groupby("tile") if tile in set(tumor) and len(own) >= FEWEST]
    most, least = (
        [pick(own, max(1, round(SHARE * len(own))), "effect") for own in parts]
        for pick in (pd.DataFrame.nlargest, pd.DataFrame.nsmallest)
    )
    return pd.concat([nuclei[:0], *most]), pd.concat([nuclei[:0], *least])


def _draw_distributions(
    axes: Axes, most: pd.Series[float], least: pd.Series[float], colour: str, highest: float
) -> None:
    both = np.concatenate([most.dropna(), least.dropna()])
    if not len(both):
        return
    quartiles = np.percentile(both, (25, 75))
    spread = min(both.std(), float(np.ptp(quartiles)) / 1.34 or both.std())
    width = 0.9 * spread * len(both) ** -0.2 or 1.0  # Silverman's rule, of both alike
    low, high = np.percentile(both, (1, 99))
    ends = low - 2.5 * width, high + 2.5 * width
    grid = np.linspace(max(ends[0], 0), min(ends[1], highest), 160)
    for values, filled in ((least.dropna(), False), (most.dropna(), True)):
        if not len(values):
            continue
        density = np.exp(-0.5 * ((grid[:, None] - values.to_numpy()) / width) ** 2).mean(axis=1)
        if filled:
            axes.fill_between(grid, density, color=colour, alpha=0.45, linewidth=0)
        axes.plot(grid, density, color=colour if filled else INK, linewidth=1.2)
        axes.plot(values.mean(), 0, marker="o", markersize=5, color=colour if filled else INK, clip_on=False, zorder=5,
                  markerfacecolor=colour if filled else PAPER)  # fmt: skip
    axes.set(yticks=[], xlim=(grid[0], grid[-1]))
    axes.set_ylim(bottom=0)
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=3)


def forest_figure(shown: ShownNuclei) -> Figure:
    """Draw the coefficients of both networks, of effects and of the relevance under each network's first method."""
    table = shown.study.associations.query("tiles == 'all'")
    names = [name for name in FEATURES if (table["feature"] == name).any()]
    outcomes = ["effect", *[name for name in dict.fromkeys(table["outcome"]) if name != "effect"][:_METHODS]]
    figure = Figure(figsize=(_WIDTH, 0.95 + 0.3 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(outcomes), sharey=True, squeeze=False)[0]
    for panel, outcome in zip(panels, outcomes, strict=True):
        for number, network in enumerate(NETWORKS):
            own = table[(table["outcome"] == outcome) & (table["network"] == network)].set_index("feature")
            _draw_coefficients(panel, own, names, network, 0.19 * (1 - 2 * number))
        panel.axvline(0, color=MUTED, linewidth=0.8, zorder=0)
        titles = shown.study.summary["methods"]
        panel.set_title("Effect of removal" if outcome == "effect" else f"Relevance, {titles.get(outcome, outcome)}")
        panel.grid(visible=False, axis="y")
        panel.set_xlabel("Less with the feature \N{LEFTWARDS ARROW} 0 \N{RIGHTWARDS ARROW} more", fontsize=8)
    panels[0].set_yticks(range(len(names)), [_in_um(FEATURES[name].title) for name in names])
    panels[0].set_ylim(len(names) - 0.45, -0.55)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _draw_coefficients(axes: Axes, own: pd.DataFrame, names: Sequence[str], network: str, offset: float) -> None:
    colour = NETWORK_COLOURS[network]
    for at, name in enumerate(names):
        if name not in own.index:
            continue
        row, y = own.loc[name], at - offset
        if np.isfinite(row["marginal_null_low"]):
            axes.barh(
                y, row["marginal_null_high"] - row["marginal_null_low"], left=row["marginal_null_low"], height=0.3,
                color=LINE, zorder=1, label="Null" if at == 0 and offset < 0 else None,
            )  # fmt: skip
        axes.plot([row["marginal_low"], row["marginal_high"]], [y, y], color=colour, linewidth=1.3, zorder=2)
        found = row["marginal_verdict"] in {"more", "less"}
        axes.plot(
            row["marginal_coefficient"], y, marker="o" if offset > 0 else "s", markersize=5, color=colour,
            linestyle="none", zorder=3, markerfacecolor=colour if found else PAPER,
            label=NETWORKS[network] if at == 0 else None,
        )  # fmt: skip


def dependence_figure(shown: ShownNuclei) -> Figure:
    """Draw how the effect of nuclei follows each feature, in bins, a row a network."""
    table = shown.study.dependence
    table = table[table["outcome"] == "effect"]
    networks = [network for network in NETWORKS if (table["network"] == network).any()]
    names = [name for name in SHOWN_FEATURES if (table["feature"] == name).any()]
    figure = Figure(figsize=(_WIDTH, 0.35 + 1.75 * len(networks)), layout="constrained")
    axes = figure.subplots(len(networks), len(names), squeeze=False, sharey="row")
    for line, network in zip(axes, networks, strict=True):
        means = table.loc[(table["network"] == network) & table["feature"].isin(names), "mean"].abs()
        largest = 2.5 * float(means.max()) or 1.0  # intervals of few patients would leave nothing of the means to see
        for panel, name in zip(line, names, strict=True):
            own = table[(table["network"] == network) & (table["feature"] == name)].dropna(subset=["value", "mean"])
            reach = np.abs(own[["low", "high"]].to_numpy() - own[["mean"]].to_numpy()).T
            panel.axhline(0, color=MUTED, linewidth=0.8, zorder=0)
            panel.errorbar(
                own["value"], own["mean"], yerr=np.nan_to_num(reach), color=NETWORK_COLOURS[network], marker="o",
                markersize=4, linewidth=1.3, elinewidth=1,
            )  # fmt: skip
            panel.locator_params(axis="x", nbins=3)
            panel.set_ylim(-largest, largest)
            if network == networks[-1]:
                panel.set_xlabel("\n".join(wrap(_in_um(FEATURES[name].label), 16)), fontsize=8)
        line[0].set_ylabel(NETWORKS[network].replace(" ", "\n"), fontsize=8.5, weight="bold")
    return figure
