"""How far maps agree: the paper's Fig. S4.

The function draws its figure within `style()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vitrail.metrics.correlation import histogram
from vitrail.report.sections.agreement import PAPER_MODES
from vitrail.report.style import INK, MUTED

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

BINS = 30
"""Equal bins from -1 to 1, as the paper's."""

PANELS = {
    "classifier_gradcam_hrcam": "Classification: Grad-CAM and HR-CAM",
    "gradcam_classifier_segmenter": "Grad-CAM: classification and segmentation",
    "segmenter_gradcam_hrcam": "Segmentation: Grad-CAM and HR-CAM",
    "hrcam_classifier_segmenter": "HR-CAM: classification and segmentation",
}
"""The pairs of maps in the order of the paper's figure, and their titles."""

_EDGES = np.linspace(-1, 1, BINS + 1)
_FILL, _OUTLINE = "#8fb8d8", "#b35000"


def agreement_figure(agreement: pd.DataFrame, summary: dict[str, Any]) -> Figure:
    """Draw the distribution of Pearson's coefficient for the four pairs of maps (the paper's Fig. S4).

    Parameters
    ----------
    agreement, summary
        As in `Stored`.
    """
    figure = Figure(figsize=(10, 6.6), layout="constrained")
    for axes, letter, (pair, title) in zip(figure.subplots(2, 2).ravel(), "abcd", PANELS.items(), strict=True):
        _panel(axes, agreement[pair], agreement.get(f"{pair}_relu"), summary["agreement"][pair])
        _mark(axes, summary["agreement"][pair], PAPER_MODES[pair])
        axes.set_title(f"{letter}  {title}")
        axes.set(xlim=(-1, 1), xlabel="Pearson's r of a tile's two maps", ylabel="Tiles")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
    return figure


def _panel(axes: Axes, r: pd.Series[float], after_relu: pd.Series[float] | None, found: dict[str, Any]) -> None:
    counts = histogram(r.to_numpy(np.float64), BINS)
    axes.stairs(counts, _EDGES, fill=True, facecolor=_FILL, edgecolor=_FILL, label="Maps as they are")
    lines, highest = [f"n = {found['n']:,}, constant {found['constant']:,}"], int(counts.max())
    if after_relu is not None:
        relu = histogram(after_relu.to_numpy(np.float64), BINS)
        axes.stairs(relu, _EDGES, color=_OUTLINE, linewidth=1.2, label="After ReLU")
        lines.append(f"after ReLU: n = {int(after_relu.notna().sum()):,}, constant {int(after_relu.isna().sum()):,}")
        highest = max(highest, int(relu.max()))
    axes.set_ylim(0, 1.5 * max(highest, 1))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.text(0.015, 0.975, "\n".join(lines), transform=axes.transAxes, va="top", fontsize=8, color=MUTED)
    if not found["n"]:
        axes.text(0.5, 0.5, "no tile has two maps that vary", transform=axes.transAxes, ha="center", color=MUTED)


def _mark(axes: Axes, found: dict[str, Any], paper: float) -> None:
    """Mark the mode, the mean with its interval, and the paper's mode on the axis."""
    axes.plot(
        [paper],
        [0],
        "^",
        color=INK,
        markerfacecolor="none",
        markersize=7,
        clip_on=False,
        zorder=5,
        label="Mode in the paper",
    )
    if found["mode"] is None:
        return
    top = axes.get_ylim()[1]
    axes.vlines(found["mode"], 0, 0.76 * top, color=INK, linewidth=1.1, linestyle=(0, (3, 2)), label="Mode")
    low, high = found["interval"]
    if low is not None:
        axes.errorbar(
            found["mean"], 0.68 * top, xerr=[[found["mean"] - low], [high - found["mean"]]], color=INK, fmt="o",
            markersize=3.5, capsize=3, linewidth=1.1, label="Mean, 95 % interval",
        )  # fmt: skip
    axes.annotate(
        f"{found['mode']:.2f}".replace("-", "\N{MINUS SIGN}"), (found["mode"], 0.76 * top), (0, 4),
        textcoords="offset points", ha="center", fontsize=8.5, weight="bold",
    )  # fmt: skip
