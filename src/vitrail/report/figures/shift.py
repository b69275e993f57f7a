"""Slides of other hospitals beside those of the training, and what shifts do to the scores.

Each function draws one figure within `style()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from vitrail.evaluation.shift import FEWEST_SLIDES, SCORES, plane_of, slide_scores
from vitrail.quality.appearance import GROUPS
from vitrail.report.figures.gallery import draw_ruler
from vitrail.report.figures.heatmap import inch_axes, show
from vitrail.report.figures.spec import NO_SUCH_FIGURE, FigureSpec
from vitrail.report.style import DASHES, FIRST, INK, LINE, MUTED, PAPER, SECOND, drawable
from vitrail.shift.simulate import FAMILIES, SHIFTS, UNCHANGED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes

    from vitrail.report.data import ReportData, ShownShift

_WIDTH, _MAP, _TILE, _GAP, _HEAD = 12.0, 7.0, 1.08, 0.06, 0.34
_SITES = ("#d55e00", "#0072b2", "#009e73", "#b8568f", "#a6761d", "#5e3c99", "#e69f00")
_MARKS = "osD^vPX"
_LOOKS: Mapping[str, Any] = {
    "accuracy": {"color": FIRST, "linestyle": "-", "marker": "o"},
    "auc": {"color": FIRST, "linestyle": DASHES[SECOND], "marker": "D"},
    "mean_jaccard": {"color": SECOND, "linestyle": "-", "marker": "s"},
    "tumor_jaccard": {"color": SECOND, "linestyle": DASHES[SECOND], "marker": "^"},
}
_PLAIN = {"hematoxylin": 1.0, "eosin": 1.0, "hue": 0.0, "focus": 0.0, "jpeg": 100.0, "brightness": 1.0}
"""The strength of each family at which nothing changes."""


def figures_of(data: ReportData) -> list[FigureSpec]:
    """Return the figures of a run whose slides were compared with those of the training."""
    if (shown := data.shift) is None:
        return []
    scores = slide_scores(data.evaluation.test, data.threshold).merge(
        shown.study.slides[["slide_id", "site", "distance", "beyond"]], on="slide_id"
    )
    return [
        FigureSpec(
            name="shift-slides", number="Figure W", section="shift", draw=lambda _: slides_figure(shown),
            caption=lambda _: "Every slide by what it looks like: stain, focus, scanner and compression, in the two "
            "directions in which slides differ most, in spreads of the training slides (differences of a measure of "
            "more than six are cut off). The words say what slides at the ends of the axes have. Letters: the slides "
            "on the right. Their distance is 1 where 99 % of the training slides lie no farther from the others; it "
            f"counts all measures, not only what this plane shows. {NO_SUCH_FIGURE}",
            applies=lambda _: len(shown.study.slides) > 2 and bool(shown.pictures),
        ),
        FigureSpec(
            name="shift-distance", number="Figure X", section="shift", order=1,
            draw=lambda _: distance_figure(scores, shown.metrics),
            caption=lambda _: "Each test slide: how far it lies from the training slides, and how well the networks do "
            "on it. Behind the line lie slides beyond what the training has seen. Above: the rank correlation with its "
            f"95 % interval over patients. {NO_SUCH_FIGURE}",
            applies=lambda _: int(scores["distance"].notna().sum()) >= FEWEST_SLIDES,
        ),
        FigureSpec(
            name="shift-simulated", number="Figure Y", section="shift", order=2,
            draw=lambda _: simulated_figure(shown),
            caption=lambda _: f"{shown.metrics['simulated']['tiles']:,} test tiles of "
            f"{shown.metrics['simulated']['patients']} patients, shown to both networks as another laboratory, "
            "microscope or file format would have made them: the change of each score, with 95 % intervals over "
            "patients (of the same patients before and after). The pictures are one tile with each change. Real slides "
            f"differ in several of these at once, and in more. {NO_SUCH_FIGURE}",
            applies=lambda _: bool(shown.metrics["simulated"]["shifts"]),
        ),
    ]  # fmt: skip


def slides_figure(shown: ShownShift) -> Figure:
    """Draw all slides in a plane, and tiles of a typical training slide and of the farthest test slides.

    Parameters
    ----------
    shown
        What was measured, with pictures.
    """
    slides, plane = shown.study.slides, plane_of(shown.study.slides)
    rows = len(shown.pictures)
    height = max(_MAP - 0.6, rows * (_TILE + _HEAD) + 0.2)
    figure = Figure(figsize=(_WIDTH, height))
    axes = inch_axes(figure, 0.75, 0.75, _MAP - 0.75, height - 1.0)
    looks = _looks(slides)
    for name, (own, look) in looks.items():
        points = plane.points[own]
        axes.scatter(
            points[:, 0], points[:, 1], s=34, label=f"{drawable(name, 24)} ({len(points)})", linewidths=0.9, **look
        )
    names = slides["slide_id"].tolist()
    for number, name in enumerate(shown.pictures):
        point = tuple(plane.points[names.index(name)].tolist())
        axes.plot(*point, marker="o", markersize=11, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=0.9)
        axes.annotate(
            _letter(number), point, (5.5, 4.5), textcoords="offset points", fontsize=9.5, weight="bold", color=INK,
            path_effects=[withStroke(linewidth=2, foreground=PAPER)],
        )  # fmt: skip
    for axis, (down, up), share in zip("xy", plane.ends, plane.share, strict=True):
        words = f"\N{LEFTWARDS ARROW} {down}      {up} \N{RIGHTWARDS ARROW}\n{share:.0%} of what slides differ by"
        axes.set(**{f"{axis}label": words})
    axes.legend(loc="best", fontsize=8, framealpha=0.85)
    for number, (name, tiles) in enumerate(shown.pictures.items()):
        bottom = height - (number + 1) * (_TILE + _HEAD)
        own = slides.iloc[names.index(name)]
        who = "Training, the nearest to all others" if own["split"] == "train" else _where(own)
        left = _MAP + 0.4
        figure.text(
            left / _WIDTH, (bottom + _TILE + 0.06) / height,
            f"{_letter(number)}  {drawable(name, 20)}: {who}; distance {own['distance']:.2f}"
            + ("" if own["split"] == "train" else f", {GROUPS[own['farthest_in']]}"),
            fontsize=8.5, va="bottom",
        )  # fmt: skip
        for column, tile in enumerate(tiles):
            picture = inch_axes(figure, left + column * (_TILE + _GAP), bottom, _TILE, _TILE)
            show(picture, tile)
            if not number and not column:
                draw_ruler(picture, 50, shown.side_um)
    return figure


def distance_figure(scores: pd.DataFrame, metrics: Mapping[str, Any]) -> Figure:
    """Draw the scores of the test slides by their distance from the training.

    Parameters
    ----------
    scores
        What `slide_scores` returns, with `site`, `distance` and `beyond`.
    metrics
        The part `shift` of `metrics.json`.
    """
    figure = Figure(figsize=(_WIDTH, 3.4), layout="constrained")
    panels = figure.subplots(1, len(SCORES))
    for axes, (name, title) in zip(panels, SCORES.items(), strict=True):
        for site, (own, look) in _looks(scores.assign(split="test")).items():
            axes.scatter(scores["distance"][own], scores[name][own], s=26, label=drawable(site, 20), **look)
        own = metrics["by_distance"][name]
        low, high = own["interval"]
        rho = f"rank correlation {own['value']:+.2f}" + ("" if np.isnan(low) else f", {low:+.2f} to {high:+.2f}")
        axes.set_title(f"{title}\n", fontsize=9)
        axes.text(0, 1.03, rho.replace("-", "\N{MINUS SIGN}"), transform=axes.transAxes, fontsize=8, color=MUTED)
        axes.set(xlabel="Distance from training", xscale="log")
        axes.axvline(1, color=MUTED, linewidth=0.9, linestyle=(0, (4, 2)))
        ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if _within(tick, scores["distance"])]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 8), fontsize=8)
    return figure


def simulated_figure(shown: ShownShift) -> Figure:
    """Draw the change of each score with every shift, and a tile with each.

    Parameters
    ----------
    shown
        What was measured, with pictures.
    """
    families, columns = list(FAMILIES), 3
    lines = -(-len(families) // columns)
    wide, tall, tile = _WIDTH / columns, 2.5, 0.6
    height = lines * (tall + tile + 0.85) + 0.35
    figure = Figure(figsize=(_WIDTH, height))
    changes = [own["change"] for shift in shown.metrics["simulated"]["shifts"] for own in shift["scores"].values()]
    ends = [
        end
        for shift in shown.metrics["simulated"]["shifts"]
        for own in shift["scores"].values()
        for end in own["interval"]
    ]
    known = np.array([*changes, *ends], np.float64)
    low, high = (float(np.nanmin(known)), float(np.nanmax(known)))
    low, high = max(low, -0.6), min(high, 0.3)
    for number, family in enumerate(families):
        row, column = divmod(number, columns)
        top = height - 0.35 - row * (tall + tile + 0.85)
        axes = inch_axes(figure, column * wide + 0.8, top - tall - 0.25, wide - 0.95, tall)
        strengths = _strengths(family)
        _draw_changes(axes, shown.metrics["simulated"]["shifts"], family, strengths)
        axes.set_title(FAMILIES[family].replace(" um", " \N{MICRO SIGN}m"), fontsize=9.5)
        axes.set_ylim(low - 0.03, high + 0.03)
        axes.set_xlim(-0.5, len(strengths) - 0.5)
        axes.set_xticks(range(len(strengths)), [_tick(family, strength) for strength in strengths])
        if not column:
            axes.set_ylabel("Change of the score")
        for at, strength in enumerate(strengths):
            name = UNCHANGED.name if strength == _PLAIN[family] else f"{family} {strength:g}"
            if name in shown.changed:
                middle = column * wide + 0.8 + (wide - 0.95) * (at + 0.5) / len(strengths)
                size = min(tile, (wide - 0.95) / len(strengths) - 0.04)
                show(inch_axes(figure, middle - size / 2, top - tall - 0.55 - size, size, size), shown.changed[name])
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(labels), fontsize=8.5, borderaxespad=0.2)
    return figure


def _draw_changes(axes: Axes, shifts: Sequence[Mapping[str, Any]], family: str, strengths: Sequence[float]) -> None:
    own = {shift["strength"]: shift["scores"] for shift in shifts if shift["family"] == family}
    axes.axhline(0, color=LINE, linewidth=1.2)
    for number, (name, title) in enumerate(SCORES.items()):
        at = np.arange(len(strengths)) + 0.1 * (number - 1.5)
        values = [own[each][name]["change"] if each in own else 0.0 for each in strengths]
        axes.plot(at, values, label=title, markersize=5, markeredgecolor=PAPER, **_LOOKS[name])
        for x, each in zip(at, strengths, strict=True):
            if each in own:
                axes.plot((x, x), own[each][name]["interval"], color=_LOOKS[name]["color"], linewidth=1.0)


def _strengths(family: str) -> list[float]:
    """Return the strengths of a family with that of no change, the weakest or the sharpest first."""
    return sorted(
        [*(shift.strength for shift in SHIFTS if shift.family == family), _PLAIN[family]], reverse=family == "jpeg"
    )


def _tick(family: str, strength: float) -> str:
    if strength == _PLAIN[family]:
        return "as it is"
    if family == "hue":
        return "bluer" if strength > 0 else "redder"
    return f"{strength:g}"


def _looks(slides: pd.DataFrame) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return by title which slides are drawn alike, and how: training slides hollow, test slides by site."""
    looks: dict[str, tuple[Any, dict[str, Any]]] = {}
    for split in ("train", "validation"):
        own = (slides["split"] == split).to_numpy()
        if own.any():
            marker = "o" if split == "train" else "s"
            title = "Training" if split == "train" else "Validation"
            looks[title] = (own, {"facecolors": "none", "edgecolors": MUTED, "marker": marker})
    test = (slides["split"] == "test").to_numpy()
    sites = sorted(set(slides.loc[test, "site"]))
    for number, site in enumerate(sites):
        own = test & (slides["site"] == site).to_numpy()
        colour, mark = _SITES[number % len(_SITES)], _MARKS[number % len(_MARKS)]
        looks[f"Test, {site}" if site else "Test"] = (own, {"color": colour, "marker": mark, "edgecolors": PAPER})
    return looks


def _where(slide: pd.Series[Any]) -> str:
    return f"test, {drawable(slide['site'], 16)}" if slide["site"] else "test"


def _letter(number: int) -> str:
    return chr(ord("a") + number)


def _within(tick: float, values: pd.Series[float]) -> bool:
    return bool(values.min() * 0.9 <= tick <= values.max() * 1.1)
