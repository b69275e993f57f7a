"""Scores with their uncertainty: ROC curves, calibration, slides, patients and groups.

Each function draws one figure within `style()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter

from vitrail.metrics import scores
from vitrail.metrics.calibration import equal_count, reliability
from vitrail.report.data import NETWORKS
from vitrail.report.figures.cohort import COLOURS
from vitrail.report.figures.spec import NO_SUCH_FIGURE, FigureSpec
from vitrail.report.scored import is_tumor, patients_table, slides_table, tempered
from vitrail.report.statistics import OPERATED, ROWS
from vitrail.report.style import CITED, DASHES, FIRST, INK, MUTED, PAPER, SECOND, bare, drawable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from vitrail.report.data import ReportData
    from vitrail.report.statistics import Rated

    Measured = dict[str, Any]
    Floats = NDArray[np.float64]

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
          "stacking": "Stacking, test", "stacking_validation": "Stacking, validation"}  # fmt: skip
_STEPS = np.linspace(0, 1, 401)
_LINE = 0.27  # inches of a row
_MOST_PATIENTS = 200
_SHARE = PercentFormatter(1, decimals=0, symbol=" %")


def roc_figure(rated: Rated, measured: Measured) -> Figure:
    """Draw the ROC curves of networks and ensembles on the test tiles (the paper's Fig. 3a-c)."""
    figure = Figure(figsize=(12, 4.3), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, 3), _ROC.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
        for name in names:
            _roc(axes, rated, measured["test"][name], name)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="1 - specificity", ylabel="Sensitivity")
        axes.set_title(title)
        axes.legend(loc="lower right", handlelength=2.4, fontsize=8)
    return figure


def _roc(axes: Axes, rated: Rated, entry: dict[str, Any], name: str) -> None:
    said = rated.said[name]
    if not said:
        axes.plot([], [], label=f"{_SHORT[name]}: not possible", **_LOOKS[name])
        return
    low, high = entry["interval"]["auc"]
    ends = f" ({_decimal(low)} to {_decimal(high)})" if np.isfinite(low) else ""
    label = f"{_SHORT[name]}\nAUC {_decimal(entry['auc'])}{ends}"
    axes.plot(*_curve(is_tumor(rated.test), said), label=label, clip_on=False, **_LOOKS[name])
    point = 1 - entry["specificity"], entry["sensitivity"]
    axes.plot(*point, "o", color=_LOOKS[name]["color"], markeredgecolor=PAPER, markersize=7.5, zorder=5, clip_on=False)


def _curve(truth: NDArray[np.bool_], said: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Return the curve of one prediction, or the mean curve of several, along sensitivity."""
    curves = [scores.roc_curve(truth, one)[:2] for one in said]
    if len(curves) == 1:
        return curves[0]
    return _STEPS, np.mean([np.interp(_STEPS, false, true) for false, true in curves], axis=0)


def calibration_figure(rated: Rated, measured: Measured) -> Figure:
    """Draw the reliability diagrams of both networks and of voting, and below how their probabilities spread."""
    figure = Figure(figsize=(12, 5.1), layout="constrained")
    grid = figure.subplots(2, len(OPERATED), height_ratios=[3.2, 1], sharex=True)
    for (axes, below), name, letter in zip(grid.T, OPERATED, "abc", strict=True):
        (score,) = rated.said[name]
        _reliable(axes, name, (is_tumor(rated.test), score))
        if name == "classifier":
            _uncalibrated(axes, rated)
        axes.legend(loc="best", fontsize=8)
        axes.set_title(f"{letter}  {_title(name)}\n{_error(measured['test'][name])}", fontsize=9.5)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        below.hist(score, np.linspace(0, 1, 21), color=_LOOKS[name]["color"], edgecolor=PAPER, linewidth=0.6)
        below.set_xlabel("Predicted tumor probability")
    grid[0, 0].set_ylabel("Share that is tumor")
    grid[1, 0].set_ylabel("Tiles")
    return figure


def _reliable(axes: Axes, name: str, found: tuple[NDArray[np.bool_], Floats]) -> None:
    truth, score = found
    bins = reliability(truth, score, equal_count(score))
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)), label="perfect")
    known = bins.count > 0
    look = _LOOKS[name] | {"marker": _MARKERS[name], "markeredgecolor": PAPER, "markersize": 7, "clip_on": False}
    axes.plot(bins.predicted[known], bins.observed[known], zorder=4, label="tenths of the tiles", **look)
    wide = reliability(truth, score, np.linspace(0, 1, 11))
    known = wide.count > 0
    axes.plot(
        wide.predicted[known], wide.observed[known], "x", color=MUTED, markersize=5, label="bins of equal width",
        clip_on=False,
    )  # fmt: skip


def _uncalibrated(axes: Axes, rated: Rated) -> None:
    """Draw the classifier's tenths as they were before its logits were divided by the temperature."""
    temperature = rated.temperatures["classifier"]
    if temperature == 1 or not rated.calibrated:
        return
    score = tempered(rated.test)
    bins = reliability(is_tumor(rated.test), score, equal_count(score))
    known = bins.count > 0
    axes.plot(
        bins.predicted[known], bins.observed[known], color=MUTED, linewidth=1, marker="o", markerfacecolor=PAPER,
        markersize=5.5, zorder=3, clip_on=False, label=f"before division by T = {temperature:.2f}",
    )  # fmt: skip


def _error(entry: dict[str, Any]) -> str:
    return f"calibration error {_decimal(entry['ece'])}, Brier {_decimal(entry['brier'])}"


def shares_figure(rated: Rated, measured: Measured) -> Figure:
    """Draw the tumor share of each test slide, predicted against annotated, and their difference (Bland-Altman)."""
    figure = Figure(figsize=(10, 8.2), layout="constrained")
    table = slides_table(rated.test, rated.evaluation.threshold)
    letters = iter("abcd")
    for (left, right), (name, title) in zip(figure.subplots(2, 2), NETWORKS.items(), strict=True):
        entry = measured["test"]["slides"][name]
        pairs = table[[f"{name}_annotated", f"{name}_share"]].dropna().to_numpy(np.float64)
        _scatter(left, pairs, name)
        _differences(right, pairs, entry, name)
        unit = {"classifier": "tiles", "segmenter": "annotated pixels"}[name]
        left.set(xlabel=f"Annotated tumor share of the {unit}", ylabel="Predicted")
        right.set(xlabel=f"Mean of both shares of the {unit}", ylabel="Predicted less annotated")
        left.set_title(f"{next(letters)}  {title}: r = {_signed(entry['pearson'])}")
        right.set_title(f"{next(letters)}  {title}: bias {_signed(entry['bias'])}")
    return figure


def _points(axes: Axes, places: Floats, name: str) -> None:
    look: dict[str, Any] = {"color": COLOURS[name], "edgecolors": PAPER, "linewidths": 0.7, "marker": _MARKERS[name]}
    axes.scatter(places[:, 0], places[:, 1], s=44, alpha=0.85, zorder=4, clip_on=False, **look)


def _scatter(axes: Axes, pairs: Floats, name: str) -> None:
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
    _points(axes, pairs, name)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    _percent(axes)


def _differences(axes: Axes, pairs: Floats, entry: dict[str, Any], name: str) -> None:
    gaps = pairs[:, 1] - pairs[:, 0]
    for key, dash in (("bias", "-"), ("lower", (0, (5, 2))), ("upper", (0, (5, 2)))):
        low, high = entry["interval"][key]
        if np.isfinite(low):
            axes.axhspan(low, high, color=MUTED, alpha=0.13, linewidth=0)
        if np.isfinite(entry[key]):
            axes.axhline(entry[key], color=INK, linewidth=1.1, linestyle=dash)
            said = f"{'limit' if key != 'bias' else 'bias'} {_signed(entry[key])}"
            axes.annotate(said, (1, entry[key]), (-2, 3), xycoords=("axes fraction", "data"),
                          textcoords="offset points", ha="right", fontsize=8, zorder=6)  # fmt: skip
    axes.axhline(0, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
    _points(axes, np.column_stack([pairs.mean(1), gaps]), name)
    furthest = np.abs([0.1, *gaps, entry["lower"], entry["upper"]])
    reach = 1.15 * float(np.nanmax(furthest))
    axes.set(xlim=(0, 1), ylim=(-reach, reach))
    _percent(axes)


def _percent(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(_SHARE)
    axes.yaxis.set_major_formatter(_SHARE)


def patients_figure(rated: Rated) -> Figure:
    """Draw the accuracy of both networks on the tiles of each test patient, the lowest first."""
    table = patients_table(rated.test, rated.evaluation.threshold)
    tall = _LINE * len(table)
    figure = Figure(figsize=(10, 1.25 + tall), layout="constrained")
    axes, places = figure.subplots(), np.arange(len(table))
    columns = table[[f"{name}_accuracy" for name in NETWORKS]].to_numpy(np.float64)
    axes.hlines(places, columns.min(1), columns.max(1), color=MUTED, linewidth=1)
    for values, shift, (name, title) in zip(columns.T, (-0.12, 0.12), NETWORKS.items(), strict=True):
        look: dict[str, Any] = {"color": COLOURS[name], "markeredgecolor": PAPER, "markersize": 7.5, "clip_on": False}
        axes.plot(values, places + shift, _MARKERS[name], label=title, zorder=4, **look)
    names = [f"{drawable(one, 24)}  ({n:,})" for one, n in zip(table["patient_id"], table["tiles"], strict=True)]
    axes.set_yticks(places, names)
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set(xlim=(0, 1), xlabel="Accuracy on the patient's tiles (their number in brackets)")
    axes.xaxis.set_major_locator(MultipleLocator(0.1))
    axes.xaxis.set_major_formatter(_SHARE)
    figure.legend(loc="outside upper right", ncols=2)
    return figure


def groups_figure(measured: Measured) -> Figure:
    """Draw accuracy and AUC of both networks in each group of patients, with their intervals."""
    test = measured["test"]
    lines: list[tuple[str, dict[str, Any] | None]] = [("All test tiles", test | {"warning": None})]
    for attribute, groups in test["groups"].items():
        lines.append((drawable(attribute, 28), None))
        lines += [(_group_name(group), group) for group in groups]
    figure = Figure(figsize=(10, 1.3 + 1.35 * _LINE * len(lines)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, score in zip(panels, ("accuracy", "auc"), strict=True):
        _forest(axes, lines, score)
        axes.set_title({"accuracy": "Accuracy", "auc": "AUC"}[score])
    places = np.arange(len(lines))
    panels[0].set_yticks(places, [name for name, _ in lines])
    for label, (_, entry) in zip(panels[0].get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if entry is None or entry is lines[0][1] else "normal")
    panels[0].set_ylim(len(lines) - 0.4, -0.6)
    handles, labels = panels[0].get_legend_handles_labels()
    named = dict(zip(labels[::-1], handles[::-1], strict=True))  # the first, which is filled
    figure.legend([named[title] for title in NETWORKS.values()], NETWORKS.values(), loc="outside upper right", ncols=2)
    return figure


def _group_name(group: dict[str, Any]) -> str:
    warned = "\N{WHITE UP-POINTING TRIANGLE} " if group["warning"] else ""
    patients = "patient" if group["patients"] == 1 else "patients"
    return f"{warned}{drawable(group['group'], 26)}  ({group['patients']} {patients}, {group['tiles']:,} tiles)"


def _forest(axes: Axes, lines: Sequence[tuple[str, dict[str, Any] | None]], score: str) -> None:
    for place, (_, entry) in enumerate(lines):
        for shift, (name, title) in zip((-0.16, 0.16), NETWORKS.items(), strict=True):
            if entry is not None:
                look: dict[str, Any] = {"color": COLOURS[name], "clip_on": False}
                low, high = entry[name]["interval"][score]
                if np.isfinite(low):
                    axes.plot([low, high], [place + shift] * 2, linewidth=1.6, **look)
                face = PAPER if entry["warning"] else COLOURS[name]
                axes.plot(
                    entry[name][score], place + shift, _MARKERS[name], markersize=6, markerfacecolor=face, label=title,
                    zorder=4, **look,
                )  # fmt: skip
    first = lines[0][1]
    if first is not None and np.isfinite(first["classifier"][score]):
        axes.axvline(first["classifier"][score], color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
    bare(axes)
    axes.grid(visible=True, axis="x")
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_locator(MultipleLocator(0.2))


def _title(name: str) -> str:
    return ROWS[name]


def _decimal(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "undefined"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}") if np.isfinite(value) else "undefined"


def _tested(data: ReportData) -> bool:
    return len(data.rated.test) > 0


FIGURES = (
    FigureSpec(
        name="roc",
        number="Figure 3 a\N{EN DASH}c",
        section="scores",
        draw=lambda data: roc_figure(data.rated, data.measured),
        caption=lambda data: (
            "Receiver operating characteristic on the test tiles, and the area under each curve (AUC) with its 95 % "
            "interval over patients. (a) Both networks; the segmentation network's score is the fraction of a tile's "
            "pixels that it calls tumor. (b) Voting: the mean of both. (c) Stacking: a logistic regression on both; "
            "its curve by cross-validation on the test tiles is the mean over the iterations. Dots mark the threshold "
            f"{data.threshold:g}. Corresponds to Fig. 3a, b and c of {CITED}."
        ),
    ),
    FigureSpec(
        name="calibration",
        number="Figure A",
        section="calibration",
        applies=_tested,
        draw=lambda data: calibration_figure(data.rated, data.measured),
        caption=lambda _: (
            "Reliability on the test tiles: what share of the tiles with about the same predicted probability is "
            "tumor. On the dotted line a network is as sure as it is right; above it, it is tumor more often than "
            "predicted. Hollow: before the classification network's logits were divided by its temperature, which the "
            "validation tiles chose; voting takes the probabilities before that. The segmentation network's is its "
            f"share of tumor pixels. Below: how many tiles have which probability. {NO_SUCH_FIGURE}"
        ),
    ),
    FigureSpec(
        name="shares",
        number="Figure B",
        section="per-slide",
        applies=_tested,
        draw=lambda data: shares_figure(data.rated, data.measured),
        caption=lambda _: (
            "Tumor share of each test slide, predicted against annotated (a, c), and the difference of the two "
            "against their mean (b, d; Bland and Altman 1986). Solid: bias; dashed: limits of agreement, between which "
            "95 % of slides are expected; shaded: their 95 % intervals over patients. Classification network: share of "
            "the tiles called and labelled tumor. Segmentation network: share of the pixels annotated tumor or "
            f"non-tumor. Shares are of the tiles that were cut, whose number for each class is capped. {NO_SUCH_FIGURE}"
        ),
    ),
    FigureSpec(
        name="patients",
        number="Figure C",
        section="per-patient",
        applies=lambda data: _tested(data) and data.measured["test"]["patients"] <= _MOST_PATIENTS,
        draw=lambda data: patients_figure(data.rated),
        caption=lambda _: (
            "Share of each test patient's tiles that the networks call correctly, the lowest of the classification "
            f"network first. {NO_SUCH_FIGURE}"
        ),
    ),
    FigureSpec(
        name="groups",
        number="Figure D",
        section="groups",
        applies=lambda data: _tested(data) and bool(data.measured["test"]["groups"]),
        draw=lambda data: groups_figure(data.measured),
        caption=lambda _: (
            "Accuracy and AUC on the test tiles of each group of patients, with 95 % intervals over its patients. A "
            "triangle and hollow marks: too small a group to say anything. The dotted line is the classification "
            f"network's value on all test tiles. {NO_SUCH_FIGURE}"
        ),
    ),
)
