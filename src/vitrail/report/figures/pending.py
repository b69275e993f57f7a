"""The figures of slides and explanations, until each is in the module that draws it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from vitrail.report.figures.predictions_over_slide import overlaid_figure
from vitrail.report.figures.slide_maps import probability_figure, slide_figure
from vitrail.report.figures.spec import FigureSpec
from vitrail.report.figures.tiles_of_a_slide import cut_figure
from vitrail.report.sections.explanations import planned_figures
from vitrail.report.style import CITED

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from vitrail.report.data import CutExample, Overlaid, ReportData, SlideMaps
    from vitrail.report.figures.spec import Section

_WHY: dict[str, tuple[str, Section, int]] = {
    "why-correct": ("Figure 5", "why", 0),
    "why-agreement": ("Figure S4", "agreement", 0),
    "why-disagreement": ("Figure 6", "agreement", 1),
    "why-wrong": ("Figure F", "agreement", 2),
    "why-perturbation": ("Figure G", "checks", 0),
    "why-randomisation": ("Figure H", "checks", 1),
    "why-truth": ("Figure I", "checks", 2),
}


def figures_of(data: ReportData) -> list[FigureSpec]:
    """Return the figures that are not yet where they belong."""
    specs: list[FigureSpec] = []
    for order, (name, maps) in enumerate(data.slide_figures.items()):
        specs += _slide_specs(name, maps, order)
    if data.overlaid is not None:
        specs += _overlaid_specs(data.overlaid)
    if data.cut is not None:
        specs += _cut_specs(data.cut)
    if data.explained is not None:
        specs += [_why_spec(name, *plan) for name, plan in planned_figures(data.explained).items()]
    return specs


def _slide_specs(name: str, maps: SlideMaps, order: int) -> list[FigureSpec]:
    beside = FigureSpec(
        name=name, number="Figure 4", section="slides", order=order, width="wide slide",
        draw=lambda data: slide_figure(maps, data.threshold),
        caption=lambda data: slide_caption(maps, data.threshold),
    )  # fmt: skip
    probability = FigureSpec(
        name=f"{name}-probability", number="Figure S3", section="slides", order=order, width="wide slide",
        draw=lambda _: probability_figure(maps), caption=lambda _: probability_caption(maps),
    )  # fmt: skip
    return [beside, probability] if np.isfinite(maps.classifier).any() else [beside]


def _overlaid_specs(overlaid: Overlaid) -> list[FigureSpec]:
    return [
        FigureSpec(
            name="overlaid", number="Figure S2", section="overlay",
            draw=lambda data: overlaid_figure(overlaid, data.threshold),
            caption=lambda data: overlaid_caption(overlaid, data.threshold),
        )
    ]  # fmt: skip


def _cut_specs(cut: CutExample) -> list[FigureSpec]:
    return [
        FigureSpec(
            name="cut", number="Figure 2", section="tiles", draw=lambda _: cut_figure(cut),
            caption=lambda _: cut_caption(cut),
        )
    ]  # fmt: skip


def _why_spec(name: str, draw: Callable[[], Figure], caption: str) -> FigureSpec:
    number, section, order = _WHY[name]
    return FigureSpec(
        name=name, number=number, section=section, order=order, draw=lambda _: draw(), caption=lambda _: caption
    )


def slide_caption(maps: SlideMaps, threshold: float) -> Markup:
    """Say what a slide's figure shows; its name stands apart, so that no character in it can turn the text around."""
    return Markup(
        "Slide <bdi>{}</bdi>: (a) the slide; (b) its annotation, with tissue that was not annotated in grey; (c) the "
        "class of each tile, tumor where the classification network's probability reaches {:g}, tiles without tissue "
        "left out; (d) the class of each pixel to which the segmentation network gives the highest probability. "
        "Artefacts are dark grey. Corresponds to Fig. 4 of {}."
    ).format(maps.slide_id, threshold, CITED)


def probability_caption(maps: SlideMaps) -> Markup:
    """Say what a slide's figure of probabilities shows."""
    return Markup(
        "Slide <bdi>{}</bdi>: (a) the slide; (b) its annotation; then the tumor probability of each tile by the "
        "classification network, without and, where they were predicted (predict.background), with background tiles. "
        "Corresponds to Fig. S3 of {}."
    ).format(maps.slide_id, CITED)


def cut_caption(cut: CutExample) -> Markup:
    """Say what the figure of a slide's tiles, masks and labels shows."""
    return Markup(
        "From slide to tiles, masks and labels. (a) Slide <bdi>{}</bdi> with its outlines, tumor solid and non-tumor "
        "dashed, and a square for each tile that was cut; tiles of non-tumor are hatched. (b) Up to two tiles of each "
        "label, those with the most mixed masks, as the networks get them; beside each its mask, in which every "
        "pixel has one of four classes, and their shares. The label is the outlined class with the most pixels. "
        "Corresponds to Fig. 2 of {}."
    ).format(cut.slide_id, CITED)


def overlaid_caption(overlaid: Overlaid, threshold: float) -> Markup:
    """Say what the figure of a slide beneath its maps shows."""
    letters = "cde"[: len(overlaid.sections)]
    enlarged = {0: "", 1: f" ({letters}) A section of both maps, enlarged."}.get(
        len(letters), f" ({letters[:1]}) to ({letters[-1:]}) Sections of both maps, enlarged."
    )
    return Markup(
        "Predictions over slide <bdi>{}</bdi>, as a viewer such as QuPath shows them; the slide is in grey. (a) "
        "Classification map: a tile is tumor where its probability reaches {:g}. (b) Segmentation map: the likeliest "
        "class of each pixel.{} Around tumor runs a dark line. Background is left out. Corresponds to Fig. S2 of {}."
    ).format(overlaid.maps.slide_id, threshold, enlarged, CITED)
