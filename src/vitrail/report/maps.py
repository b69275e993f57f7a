"""Slides beside what was drawn on them and what the networks found (the paper's Fig. 4)."""

from __future__ import annotations

from math import floor, log10
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path as Outline
from PIL import Image, ImageDraw

from vitrail.classes import CLASSES, LABELS, TissueClass
from vitrail.report.style import INK, LINE, MUTED, drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from vitrail.report.data import SlideMaps

PANELS = ("Slide", "Annotation", "Classification", "Segmentation")

_WIDTH, _SIDE, _GAP, _TALLEST = 12.0, 0.015, 0.2, 4.6  # inches
_HEAD, _FOOT = 0.64, 0.56  # inches
_NOTHING = 255
_FAINTEST = 0.3
_NEAREST_UM = 1000


def slide_figure(maps: SlideMaps, threshold: float) -> Figure:
    """Draw slide, annotation, classification and segmentation side by side, with a scale bar and a legend."""
    height, width = maps.thumbnail.shape[:2]
    slot = (_WIDTH - 2 * _SIDE - (len(PANELS) - 1) * _GAP) / len(PANELS)
    tall = min(slot * height / width, _TALLEST)
    figure = Figure(figsize=(_WIDTH, tall + _HEAD + _FOOT))
    figure.text(
        _SIDE / _WIDTH, 1 - 0.16 / figure.get_figheight(), _heading(maps), va="center", fontsize=11, weight="bold"
    )
    wide, total = tall * width / height, figure.get_figheight()
    grid = (0.0, maps.classifier.shape[1] * maps.tile_side, maps.classifier.shape[0] * maps.tile_side, 0.0)
    whole = (0.0, float(width), float(height), 0.0)
    pictures = (
        (maps.thumbnail, whole),
        (annotated(maps), whole),
        (classified(maps.classifier, threshold), grid),
        (segmented(maps.segmenter), grid),
    )
    for number, (title, (picture, extent)) in enumerate(zip(PANELS, pictures, strict=True)):
        left = _SIDE + number * (slot + _GAP) + (slot - wide) / 2
        axes = figure.add_axes((left / _WIDTH, _FOOT / total, wide / _WIDTH, tall / total))
        axes.imshow(picture, extent=extent, interpolation="nearest" if title == "Classification" else "auto")
        _frame(axes, f"{'abcd'[number]}  {title}", (width, height))
    _trace(figure.axes[1], maps)
    _scale_bar(figure.axes[0], maps, tall)
    _legend(figure, threshold)
    return figure


def annotated(maps: SlideMaps) -> NDArray[np.uint8]:
    """Return the thumbnail in grey with its outlines filled, `[h, w, 3]`."""
    grey = np.asarray(maps.thumbnail @ np.array([0.299, 0.587, 0.114]), np.float64)
    canvas = np.repeat((255 - (255 - grey) * 0.75)[..., None], 3, axis=2)
    for tissue, rings in maps.outlines.items():
        inside = _inside(rings, canvas.shape[:2])
        canvas[inside] = 0.4 * canvas[inside] + 0.6 * np.array(tissue.rgb)
    return np.rint(canvas).astype(np.uint8)


def classified(probability: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """Return the class of each tile as a colour, the paler the nearer to the threshold, `[rows, columns, 3]`.

    Tiles without a prediction are white.
    """
    known = np.isfinite(probability)
    values = np.where(known, probability, threshold).astype(np.float64)
    tumor = values >= threshold
    room = np.where(tumor, max(1 - threshold, 1e-9), max(threshold, 1e-9))
    strength = _FAINTEST + (1 - _FAINTEST) * np.clip(np.abs(values - threshold) / room, 0, 1) ** 0.5
    colours = np.where(tumor[..., None], *(np.array(tissue.rgb, np.float64) for tissue in LABELS))
    painted = 255 + (colours - 255) * (strength * known)[..., None]
    return np.rint(painted).astype(np.uint8)


def segmented(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the class of each pixel as a colour, white where nothing was predicted, `[H, W, 3]`."""
    palette = np.full((256, 3), 255, np.uint8)
    palette[: len(CLASSES)] = [tissue.rgb for tissue in CLASSES]
    picture: NDArray[np.uint8] = palette[classes]
    return picture


def scale_bar_um(width_um: float) -> float:
    """Return the largest 1, 2 or 5 times a power of ten that is at most a third of the width."""
    power = 10.0 ** floor(log10(width_um / 3))
    return max(step * power for step in (1, 2, 5) if step * power <= width_um / 3)


def _inside(rings: list[NDArray[np.float64]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Fill rings by the even-odd rule, a hole being a ring within a ring, to within a pixel."""
    inside = np.zeros(shape, bool)
    for ring in rings:
        canvas = Image.new("1", (shape[1], shape[0]))
        ImageDraw.Draw(canvas).polygon([(float(x) - 0.5, float(y) - 0.5) for x, y in ring], fill=1)
        inside ^= np.asarray(canvas, bool)
    return inside


def _trace(axes: Axes, maps: SlideMaps) -> None:
    """Draw the outlines as lines, dashed for all but tumor, so that they differ without colour."""
    for tissue, rings in maps.outlines.items():
        dash = "-" if tissue is TissueClass.TUMOR else (0, (3, 1.2))
        colour = [channel / 255 * 0.62 for channel in tissue.rgb]
        for ring in rings:
            outline = PathPatch(
                Outline(ring, closed=False), fill=False, edgecolor=colour, linewidth=1.0, linestyle=dash
            )
            axes.add_patch(outline)


def _heading(maps: SlideMaps) -> str:
    right = (
        f"{maps.accuracy:.1%} of its tiles classified correctly" if np.isfinite(maps.accuracy) else "no labelled tiles"
    )
    return f"Slide {drawable(maps.slide_id, 32)}, patient {drawable(maps.patient_id, 20)}: {right}"


def _frame(axes: Axes, title: str, size: tuple[int, int]) -> None:
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0), xticks=[], yticks=[], facecolor="#ffffff")
    axes.set_title(title, fontsize=9.5, pad=5)
    axes.grid(visible=False)
    axes.spines[:].set(visible=True, color=LINE, linewidth=0.8)


def _scale_bar(axes: Axes, maps: SlideMaps, tall: float) -> None:
    length = scale_bar_um(maps.width_um)
    name = f"{length / 1000:g} mm" if length >= _NEAREST_UM else f"{length:g} \N{MICRO SIGN}m"
    end, below = length / maps.width_um, -0.16 / tall
    axes.plot(
        [0, end], [below, below], transform=axes.transAxes, color=INK, linewidth=3, clip_on=False, solid_capstyle="butt"
    )
    axes.text(end, below, f"  {name}", transform=axes.transAxes, va="center_baseline", fontsize=8.5)


def _legend(figure: Figure, threshold: float) -> None:
    handles = [Patch(facecolor=kind.colour, edgecolor=MUTED, linewidth=0.5, label=kind.title) for kind in CLASSES]
    right, total = 1 - _SIDE / _WIDTH, figure.get_figheight()
    figure.legend(
        handles=handles, loc="upper right", bbox_to_anchor=(right, (_FOOT - 0.07) / total), ncols=len(handles),
        borderaxespad=0, handlelength=1.1, handleheight=1.1, columnspacing=1.4, borderpad=0.1,
    )  # fmt: skip
    note = f"c: the paler a tile, the nearer its tumor probability to the threshold {threshold:g}; white: no tissue"
    figure.text(right, 0.14 / total, note, ha="right", va="center", fontsize=8, color=MUTED)
