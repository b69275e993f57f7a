"""Scores with their uncertainty: ROC curves, calibration, slides, patients and groups.

Each function draws one figure within `style()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter

from vitrail.classes import NETWORK_COLOURS, NETWORKS
from vitrail.evaluation.names import ROWS, SINGLE
from vitrail.report.figures.spec import NO_SUCH_FIGURE, FigureSpec
from vitrail.report.style import CITED, DASHES, FIRST, INK, MUTED, PAPER, SECOND, bare, drawable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes

    from vitrail.evaluation.results import Evaluation
    from vitrail.metrics.calibration import Reliability
    from vitrail.report.data import ReportData

_LOOKS: dict[str, dict[str, Any]] = {
    "classifier": {"color": FIRST, "linestyle": DASHES[FIRST]},
    "segmenter": {"color": SECOND, "linestyle": DASHES[SECOND]},
    "voting": {"color": INK, "linestyle": "-"},
    "stacking": {"color": INK, "linestyle": "-"},
    "stacking_validation": {"color": INK, "linestyle": (0, (1, 1.2))},
}
_MARKERS = {"classifier": "o", "segmenter": "s", "voting": "D"}
_ROC = {"a  Both networks": ("classifier", "segmenter"), "b  Voting": ("classifier", "voting"),
        "c  Stacking": ("classifier", "stacking", "stacking_validation")}  # fmt: skip
_SHORT = {"classifier": "Classification", "segmenter": "Segmentation", "voting": "Voting",
          "stacking": "Stacking, test", "stacking_validation": "Stacking, held-out"}  # fmt: skip
_DOTTED: dict[str, Any] = {"color": MUTED, "linewidth": 0.9, "linestyle": (0, (1, 2))}
_LINE = 0.27  # inches of a row
_MOST_PATIENTS = 200
_SHARE = PercentFormatter(1, decimals=0, symbol=" %")


def has_test_tiles(data: ReportData) -> bool:
    """Tell whether anything was tested."""
    return len(data.evaluation.test) > 0


def roc_figure(evaluation: Evaluation) -> Figure:
    """Draw the ROC curves of networks and ensembles on the test tiles (the paper's Fig. 3a-c)."""
    figure = Figure(figsize=(12, 4.3), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, 3), _ROC.items(), strict=True):
        draw_roc(axes, evaluation, names)
        axes.set_title(title)
    return figure


def draw_roc(axes: Axes, evaluation: Evaluation, names: Iterable[str]) -> None:
    """Draw ROC curves of networks or ensembles with their AUC, and a dot at the threshold."""
    axes.plot([0, 1], [0, 1], **_DOTTED)
    for name in names:
        if name not in evaluation.roc:
            axes.plot([], [], label=f"{_SHORT[name]}: not possible", **_LOOKS[name])
            continue
        entry, curve = evaluation.metrics["test"][name], evaluation.roc[name]
        low, high = entry["interval"]["auc"]
        ends = f" ({_written(low)} to {_written(high)})" if np.isfinite(low) else ""
        label = f"{_SHORT[name]}\nAUC {_written(entry['auc'])}{ends}"
        rates = curve["false_positive_rate"].to_numpy(), curve["true_positive_rate"].to_numpy()
        axes.plot(*rates, label=label, clip_on=False, **_LOOKS[name])
        dot: dict[str, Any] = {"color": _LOOKS[name]["color"], "markeredgecolor": PAPER, "markersize": 7.5}
        axes.plot(1 - entry["specificity"], entry["sensitivity"], "o", zorder=5, clip_on=False, **dot)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="1 - specificity", ylabel="Sensitivity")
    axes.legend(loc="lower right", handlelength=2.4, fontsize=8)


def draw_reliability(axes: Axes, evaluation: Evaluation, names: Iterable[str]) -> None:
    """Draw for each network how often tiles with about the same probability are tumor."""
    axes.plot([0, 1], [0, 1], **_DOTTED)
    for name in names:
        look = _LOOKS[name] | {"marker": _MARKERS[name], "markeredgecolor": PAPER, "markersize": 7, "zorder": 4}
        _draw_bins(axes, evaluation.reliability[name]["equal count"], **look)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set(xlabel="Predicted tumor probability", ylabel="Share that is tumor")


def calibration_figure(evaluation: Evaluation) -> Figure:
    """Draw the reliability diagrams of both networks and of voting, and below how their probabilities spread."""
    figure = Figure(figsize=(12, 5.1), layout="constrained")
    grid = figure.subplots(2, len(SINGLE), height_ratios=[3.2, 1], sharex=True)
    for (axes, below), name, letter in zip(grid.T, SINGLE, "abc", strict=True):
        colour, bins = _LOOKS[name]["color"], evaluation.reliability[name]
        axes.plot([0, 1], [0, 1], label="perfect", **_DOTTED)
        look = _LOOKS[name] | {"marker": _MARKERS[name], "markeredgecolor": PAPER, "markersize": 7, "zorder": 4}
        _draw_bins(axes, bins["equal count"], label="tenths of the tiles", **look)
        crosses: dict[str, Any] = {"marker": "x", "linestyle": "", "color": MUTED, "markersize": 5}
        _draw_bins(axes, bins["equal width"], label="bins of equal width", **crosses)
        temperature = evaluation.temperatures["classifier"]
        if name == "classifier" and temperature != 1 and evaluation.calibrated:
            hollow: dict[str, Any] = {"marker": "o", "markerfacecolor": PAPER, "markersize": 5.5, "zorder": 3}
            label = f"before division by T = {temperature:.2f}"
            before = evaluation.reliability["uncalibrated"]["equal count"]
            _draw_bins(axes, before, label=label, color=MUTED, linewidth=1, **hollow)
        axes.legend(loc="best", fontsize=8)
        entry = evaluation.metrics["test"][name]
        errors = f"calibration error {_written(entry['ece'])}, Brier {_written(entry['brier'])}"
        axes.set_title(f"{letter}  {ROWS[name]}\n{errors}", fontsize=9.5)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        (score,) = evaluation.probabilities[name]
        below.hist(score, np.linspace(0, 1, 21), color=colour, edgecolor=PAPER, linewidth=0.6)
        below.set_xlabel("Predicted tumor probability")
    grid[0, 0].set_ylabel("Share that is tumor")
    grid[1, 0].set_ylabel("Tiles")
    return figure


def _draw_bins(axes: Axes, bins: Reliability, **look: Any) -> None:
    filled = bins.count > 0
    axes.plot(bins.predicted[filled], bins.observed[filled], clip_on=False, **look)


def shares_figure(evaluation: Evaluation) -> Figure:
    """Draw the tumor share of each test slide, predicted against annotated, and their difference (Bland-Altman)."""
    figure = Figure(figsize=(10, 8.2), layout="constrained")
    letters = iter("abcd")
    for (left, right), (name, title) in zip(figure.subplots(2, 2), NETWORKS.items(), strict=True):
        entry = evaluation.metrics["test"]["slides"][name]
        columns = [f"{name}_annotated", f"{name}_share"]
        annotated, predicted = evaluation.slide_table[columns].dropna().to_numpy(np.float64).T
        look: dict[str, Any] = {"color": NETWORK_COLOURS[name], "edgecolors": PAPER, "marker": _MARKERS[name]}
        look |= {"linewidths": 0.7, "s": 44, "alpha": 0.85, "zorder": 4, "clip_on": False}
        left.plot([0, 1], [0, 1], **_DOTTED)
        left.scatter(annotated, predicted, **look)
        gaps = predicted - annotated
        for key, dash in (("bias", "-"), ("lower", (0, (5, 2))), ("upper", (0, (5, 2)))):
            low, high = entry["interval"][key]
            if np.isfinite(low):
                right.axhspan(low, high, color=MUTED, alpha=0.13, linewidth=0)
            if np.isfinite(entry[key]):
                right.axhline(entry[key], color=INK, linewidth=1.1, linestyle=dash)
                text = f"{'limit' if key != 'bias' else 'bias'} {_written(entry[key], '+.3f')}"
                right.annotate(text, (1, entry[key]), (-2, 3), xycoords=("axes fraction", "data"),
                               textcoords="offset points", ha="right", fontsize=8, zorder=6)  # fmt: skip
        right.axhline(0, **_DOTTED)
        right.scatter((annotated + predicted) / 2, gaps, **look)
        reach = 1.15 * float(np.nanmax(np.abs([0.1, *gaps, entry["lower"], entry["upper"]])))
        left.set(xlim=(0, 1), ylim=(0, 1))
        right.set(xlim=(0, 1), ylim=(-reach, reach))
        for axes in (left, right):
            axes.xaxis.set_major_formatter(_SHARE)
            axes.yaxis.set_major_formatter(_SHARE)
        unit = {"classifier": "tiles", "segmenter": "annotated pixels"}[name]
        left.set(xlabel=f"Annotated tumor share of the {unit}", ylabel="Predicted")
        right.set(xlabel=f"Mean of both shares of the {unit}", ylabel="Predicted less annotated")
        left.set_title(f"{next(letters)}  {title}: r = {_written(entry['pearson'], '+.3f')}")
        right.set_title(f"{next(letters)}  {title}: bias {_written(entry['bias'], '+.3f')}")
    return figure


def patients_figure(evaluation: Evaluation) -> Figure:
    """Draw the accuracy of both networks on the tiles of each test patient, the lowest first."""
    table = evaluation.patient_table
    figure = Figure(figsize=(10, 1.25 + _LINE * len(table)), layout="constrained")
    axes, y = figure.subplots(), np.arange(len(table))
    columns = table[[f"{name}_accuracy" for name in NETWORKS]].to_numpy(np.float64)
    axes.hlines(y, columns.min(1), columns.max(1), color=MUTED, linewidth=1)
    for values, shift, (name, title) in zip(columns.T, (-0.12, 0.12), NETWORKS.items(), strict=True):
        look: dict[str, Any] = {"color": NETWORK_COLOURS[name], "markeredgecolor": PAPER, "markersize": 7.5}
        axes.plot(values, y + shift, _MARKERS[name], label=title, zorder=4, clip_on=False, **look)
    pairs = zip(table["patient_id"], table["tiles"], strict=True)
    axes.set_yticks(y, [f"{drawable(patient, 24)}  ({tiles:,})" for patient, tiles in pairs])
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set(xlim=(0, 1), xlabel="Accuracy on the patient's tiles (their number in brackets)")
    axes.xaxis.set_major_locator(MultipleLocator(0.1))
    axes.xaxis.set_major_formatter(_SHARE)
    figure.legend(loc="outside upper right", ncols=2)
    return figure


def groups_figure(evaluation: Evaluation) -> Figure:
    """Draw accuracy and AUC of both networks in each group of patients, with their intervals."""
    test = evaluation.metrics["test"]
    lines: list[tuple[str, dict[str, Any] | None]] = [("All test tiles", test | {"warning": None})]
    for attribute, groups in test["groups"].items():
        lines.append((drawable(attribute, 28), None))
        for group in groups:
            triangle = "\N{WHITE UP-POINTING TRIANGLE} " if group["warning"] else ""
            patients = f"{group['patients']} {'patient' if group['patients'] == 1 else 'patients'}"
            name = f"{triangle}{drawable(group['group'], 26)}  ({patients}, {group['tiles']:,} tiles)"
            lines.append((name, group))
    figure = Figure(figsize=(10, 1.3 + 1.35 * _LINE * len(lines)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (score, title) in zip(panels, (("accuracy", "Accuracy"), ("auc", "AUC")), strict=True):
        for y, (_, entry) in enumerate(lines):
            if entry is not None:
                _draw_group(axes, y, entry, score)
        overall = test["classifier"][score]
        if np.isfinite(overall):
            axes.axvline(overall, zorder=0, **_DOTTED | {"linewidth": 0.8})
        bare(axes)
        axes.grid(visible=True, axis="x")
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_locator(MultipleLocator(0.2))
        axes.set_title(title)
    panels[0].set_yticks(np.arange(len(lines)), [name for name, _ in lines])
    for label, (_, entry) in zip(panels[0].get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if entry is None or entry is lines[0][1] else "normal")
    panels[0].set_ylim(len(lines) - 0.4, -0.6)
    handles, labels = panels[0].get_legend_handles_labels()
    first = dict(zip(labels[::-1], handles[::-1], strict=True))  # of each network, and so a filled one
    figure.legend([first[title] for title in NETWORKS.values()], NETWORKS.values(), loc="outside upper right", ncols=2)
    return figure


def _draw_group(axes: Axes, y: float, entry: dict[str, Any], score: str) -> None:
    """Draw a group's score by both networks, with its interval; hollow where the group is too small."""
    for shift, (name, title) in zip((-0.16, 0.16), NETWORKS.items(), strict=True):
        colour, (low, high) = NETWORK_COLOURS[name], entry[name]["interval"][score]
        if np.isfinite(low):
            axes.plot([low, high], [y + shift] * 2, linewidth=1.6, color=colour, clip_on=False)
        look: dict[str, Any] = {"markersize": 6, "markerfacecolor": PAPER if entry["warning"] else colour}
        value = entry[name][score]
        axes.plot(value, y + shift, _MARKERS[name], label=title, color=colour, zorder=4, clip_on=False, **look)


def _written(value: float, pattern: str = ".3f") -> str:
    return format(value, pattern).replace("-", "\N{MINUS SIGN}") if np.isfinite(value) else "undefined"


FIGURES = (
    FigureSpec(
        name="roc", number="Figure 3 a\N{EN DASH}c", section="scores",
        draw=lambda data: roc_figure(data.evaluation),
        caption=lambda data: (
            "Receiver operating characteristic on the test tiles, and the area under each curve (AUC) with its 95 % "
            "interval over patients. (a) Both networks; the segmentation network's score is the fraction of a tile's "
            "pixels that it calls tumor. (b) Voting: the mean of both. (c) Stacking: a logistic regression on both; "
            "its curve by cross-validation on the test tiles is the mean over the iterations. Dots mark the threshold "
            f"{data.threshold:g}. Corresponds to Fig. 3a, b and c of {CITED}."
        ),
    ),
    FigureSpec(
        name="calibration", number="Figure A", section="calibration",
        applies=has_test_tiles,
        draw=lambda data: calibration_figure(data.evaluation),
        caption=lambda _: (
            "Reliability on the test tiles: what share of the tiles with about the same predicted probability is "
            "tumor. On the dotted line a network is as sure as it is right; above it, it is tumor more often than "
            "predicted. Hollow: before the classification network's logits were divided by its temperature, which the "
            "validation tiles chose; voting takes the probabilities before that. The segmentation network's is its "
            f"share of tumor pixels. Below: how many tiles have which probability. {NO_SUCH_FIGURE}"
        ),
    ),
    FigureSpec(
        name="shares", number="Figure B", section="per-slide",
        applies=has_test_tiles,
        draw=lambda data: shares_figure(data.evaluation),
        caption=lambda _: (
            "Tumor share of each test slide, predicted against annotated (a, c), and the difference of the two "
            "against their mean (b, d; Bland and Altman 1986). Solid: bias; dashed: limits of agreement, between which "
            "95 % of slides are expected; shaded: their 95 % intervals over patients. Classification network: share of "
            "the tiles called and labelled tumor. Segmentation network: share of the pixels annotated tumor or "
            f"non-tumor. Shares are of the tiles that were cut, whose number for each class is capped. {NO_SUCH_FIGURE}"
        ),
    ),
    FigureSpec(
        name="patients", number="Figure C", section="per-patient",
        applies=lambda data: 0 < len(data.evaluation.patient_table) <= _MOST_PATIENTS,
        draw=lambda data: patients_figure(data.evaluation),
        caption=lambda _: (
            "Share of each test patient's tiles that the networks call correctly, the lowest of the classification "
            f"network first. {NO_SUCH_FIGURE}"
        ),
    ),
    FigureSpec(
        name="groups", number="Figure D", section="groups",
        applies=lambda data: has_test_tiles(data) and bool(data.evaluation.patient_groups),
        draw=lambda data: groups_figure(data.evaluation),
        caption=lambda _: (
            "Accuracy and AUC on the test tiles of each group of patients, with 95 % intervals over its patients. A "
            "triangle and hollow marks: too small a group to say anything. The dotted line is the classification "
            f"network's value on all test tiles. {NO_SUCH_FIGURE}"
        ),
    ),
)  # fmt: skip
