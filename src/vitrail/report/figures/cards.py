"""Small pictures of single things, for notebooks: each function draws one figure within `style()`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vitrail.classes import NETWORKS
from vitrail.report.figures.heatmap import (
    colour_bar,
    common_scale,
    contour_scale,
    draw_contours,
    inch_axes,
    overlay,
    paint,
    show,
)
from vitrail.report.figures.scores import draw_reliability, draw_roc
from vitrail.report.figures.slide_maps import scale_bar
from vitrail.report.style import MUTED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from vitrail.classes import RGB, TissueClass
    from vitrail.evaluation.results import Evaluation
    from vitrail.explain.saliency import Saliency

    Image = NDArray[np.uint8]

_SIDE, _EDGE, _FOOT = 4.2, 0.03, 0.3  # inches
_TILE, _GAP = 0.78, 0.06  # inches
_ACROSS = 8
"""Tiles in a line."""


def slide_picture(thumbnail: Image, width_um: float) -> Figure:
    """Draw a slide `[h, w, 3]` with a bar of its scale."""
    figure, axes = _fitted(thumbnail.shape[0], thumbnail.shape[1])
    show(axes, thumbnail)
    scale_bar(axes, width_um, axes.get_position().height * figure.get_figheight())
    return figure


def map_picture(saliency: Saliency) -> Figure:
    """Draw a map in the colours of all maps: over its image, with its contours beside it, where the image is there."""
    height, width = saliency.frame.image_px
    scale, wide = common_scale([saliency]), 2.6
    tall = min(max(wide * height / width, 0.4), 4.0)
    left = wide + 0.1 if saliency.image is not None else 0.0
    figure = Figure(figsize=(left + wide + 2 * _EDGE, tall + 0.3 + _EDGE))
    axes = inch_axes(figure, _EDGE + left, 0.3, wide, tall)
    if saliency.image is None:
        values = saliency.upsample().astype(np.float64)
        show(axes, paint(np.full((*values.shape, 3), 255.0), values, scale))
    else:
        show(axes, overlay(saliency.image, saliency, scale))
        beside = inch_axes(figure, _EDGE, 0.3, wide, tall)
        show(beside, saliency.image)
        draw_contours(beside, saliency, contour_scale([saliency]))
    colour_bar(inch_axes(figure, _EDGE + left, 0.18, wide, 0.09), scale, "", saliency.target)
    return figure


def scores_picture(evaluation: Evaluation) -> Figure:
    """Draw the ROC curves of both networks, and beside them whether their probabilities mean what they say."""
    figure = Figure(figsize=(7.4, 3.7), layout="constrained")
    roc, calibration = figure.subplots(1, 2)
    draw_roc(roc, evaluation, NETWORKS)
    draw_reliability(calibration, evaluation, NETWORKS)
    return figure


def tiles_picture(images: Sequence[Image], labels: Sequence[TissueClass]) -> Figure:
    """Draw tiles line by line, each in a frame of its label's colour."""
    lines = -(-len(images) // _ACROSS)
    across = min(len(images), _ACROSS) * (_TILE + _GAP) + _GAP
    figure = Figure(figsize=(max(across, 3.2), lines * (_TILE + _GAP) + _GAP + _FOOT))
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        line, column = divmod(number, _ACROSS)
        bottom = figure.get_figheight() - (line + 1) * (_TILE + _GAP)
        axes = inch_axes(figure, _GAP + column * (_TILE + _GAP), bottom, _TILE, _TILE)
        show(axes, image)
        axes.spines[:].set(color=label.colour, linewidth=2.2)
    _legend(figure, {label.title: label.colour for label in sorted(set(labels))})
    return figure


def masks_picture(masks: Mapping[str, NDArray[np.bool_]], colours: Mapping[str, RGB]) -> Figure:
    """Draw masks `[h, w]` of one slide over each other, by their names each in its colour."""
    height, width = next(iter(masks.values())).shape
    picture = np.full((height, width, 3), 255, np.uint8)
    for name, mask in masks.items():
        picture[mask] = colours[name]
    figure, axes = _fitted(height, width)
    show(axes, picture)
    _legend(figure, {name: "#{:02x}{:02x}{:02x}".format(*colours[name]) for name in masks if masks[name].any()})
    return figure


def _fitted(height: int, width: int) -> tuple[Figure, Axes]:
    """Return a figure with room for a picture of this shape and a line below it."""
    across, tall = (_SIDE, _SIDE * height / width) if width >= height else (_SIDE * width / height, _SIDE)
    across, tall = max(across, 0.3), max(tall, 0.3)
    figure = Figure(figsize=(max(across, 2.4) + 2 * _EDGE, tall + _FOOT + _EDGE))
    return figure, inch_axes(figure, _EDGE, _FOOT, across, tall)


def _legend(figure: Figure, colours: dict[str, str]) -> None:
    handles = [Patch(facecolor=colour, edgecolor=MUTED, linewidth=0.5, label=name) for name, colour in colours.items()]
    if handles:
        figure.legend(handles=handles, loc="lower left", ncols=3, borderaxespad=0.2, handlelength=1.1, fontsize=8)
