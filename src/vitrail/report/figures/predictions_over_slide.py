"""Predictions laid over a slide, as a viewer shows them (the paper's Additional file 1, Fig. S2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import binary_erosion

from vitrail.classes import ARTEFACT_CLASS, CLASSES, LABELS, TissueClass
from vitrail.report.data import Section
from vitrail.report.figures.heatmap import grey, show
from vitrail.report.figures.slide_maps import SPOILT, frame, scale_bar, segmented
from vitrail.report.style import MUTED, drawable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from vitrail.report.data import Overlaid, SlideMaps

    Picture = NDArray[np.uint8]
    Floats = NDArray[np.float64]

SECTION_PX = 480
"""Side of the picture of a section."""

_NOTHING, _ARTEFACT = 255, len(CLASSES)
_FEWEST, _MOST = 2, 4  # tiles across a section
_SHOWN = (TissueClass.TUMOR, TissueClass.NON_TUMOR, TissueClass.OTHER)
_STRENGTH, _EDGE, _EDGE_PX = 0.42, (60, 24, 0), 2
_WIDTH, _SIDE, _GAP, _BESIDE, _TALLEST = 12.0, 0.02, 0.24, 0.05, 4.4  # inches
_HEAD, _BETWEEN, _UNDER, _FOOT = 0.64, 0.62, 0.22, 0.4  # inches
_SECTIONS = 3


def choose_slide(slides: Sequence[SlideMaps]) -> SlideMaps | None:
    """Choose the first slide with the most of both tumor and non-tumor among those of which both networks have maps."""
    fit = [maps for maps in slides if (np.isfinite(maps.classifier) & ~maps.background).any()]
    fit = [maps for maps in fit if np.isin(maps.segmenter, _SHOWN).any()]
    return max(fit, key=lambda maps: min((maps.segmenter == kind).mean() for kind in LABELS), default=None)


def choose_sections(maps: SlideMaps) -> tuple[Section, ...]:
    """Choose up to three sections that do not overlap: tumor beside non-tumor, other, and where the networks differ.

    Sections are squares of 2 to 4 whole tiles, a third of the slide's shorter side where that lies between.
    """
    height, width = (int(length / maps.tile_side + 1e-6) for length in maps.thumbnail.shape[:2])
    side = min(max(_FEWEST, min(height, width) // _SECTIONS), _MOST)
    if min(height, width) < side:
        return ()
    sections: list[Section] = []
    free = np.ones((height - side + 1, width - side + 1), bool)
    for title, values in _reasons(maps).items():
        score = sliding_window_view(values[..., :height, :width], (side, side), axis=(-2, -1)).mean((-2, -1))
        score = np.where(free, score.min(axis=0).round(9), 0)
        if score.any():
            row, column = (int(place) for place in np.unravel_index(score.argmax(), score.shape))
            sections.append(Section(title=title, row=row, column=column, tiles=side))
            free[max(row - side + 1, 0) : row + side, max(column - side + 1, 0) : column + side] = False
    return tuple(sections)


def _reasons(maps: SlideMaps) -> dict[str, Floats]:
    """Return what makes a section worth showing, by tile: `[k, rows, columns]`, of which the least counts."""
    rows, columns = maps.classifier.shape
    pixels = maps.segmenter.reshape(rows, maps.segmenter.shape[0] // rows, columns, -1)
    tumor, non_tumor, other = ((pixels == kind).mean(axis=(1, 3)) for kind in _SHOWN)
    tissue = tumor + non_tumor + other
    share = np.divide(tumor, tissue, out=np.zeros_like(tissue), where=tissue > 0)
    both = np.isfinite(maps.classifier) & ~maps.background & (tissue > 0) & (maps.artefacts < SPOILT)
    differ = np.where(both, np.abs(np.nan_to_num(maps.classifier) - share), 0)
    return {
        "Tumor beside non-tumor": np.stack([tumor, non_tumor]),
        "Where other is most frequent": other[None],
        "Where the networks differ": differ[None],
    }


def called(maps: SlideMaps, threshold: float) -> Picture:
    """Return the class of each tile as in `SlideMaps.segmenter`, `[rows, columns]`."""
    tumor = maps.classifier >= threshold
    classes = np.where(tumor, TissueClass.TUMOR, TissueClass.NON_TUMOR).astype(np.uint8)
    classes[maps.artefacts >= SPOILT] = _ARTEFACT
    classes[maps.background | ~np.isfinite(maps.classifier)] = _NOTHING
    return classes


def laid_over(picture: Picture, classes: Picture, cells: tuple[float, float]) -> Picture:
    """Lay classes over a picture in grey; background and what was not predicted stay free.

    Parameters
    ----------
    picture
        `[h, w, 3]`, RGB.
    classes
        `[H, W]`, as in `SlideMaps.segmenter`.
    cells
        How many rows and columns of `classes` the picture covers, from the first.

    Returns
    -------
    `[h, w, 3]`, RGB, with a dark line around tumor.
    """
    there = np.ix_(*(_nearest(*each) for each in zip(picture.shape[:2], cells, classes.shape, strict=True)))
    sampled = classes[there]
    base, tumor = grey(picture), sampled == TissueClass.TUMOR
    free = (sampled == TissueClass.BACKGROUND) | (sampled == _NOTHING)
    strength = np.where(free, 0, _STRENGTH)[..., None]
    painted = base + strength * (segmented(sampled) - base)
    painted[tumor & ~binary_erosion(tumor, iterations=_EDGE_PX, border_value=1)] = _EDGE
    return np.rint(painted).astype(np.uint8)


def _nearest(pixels: int, cells: float, most: int) -> NDArray[np.int64]:
    """Return which cell lies beneath each pixel."""
    return np.minimum((np.arange(pixels) + 0.5) * cells / pixels, most - 1).astype(np.int64)


def overlaid_figure(overlaid: Overlaid, threshold: float) -> Figure:
    """Draw both maps over a slide, and sections of them enlarged; call it within `style()`."""
    maps = overlaid.maps
    height, width = maps.thumbnail.shape[:2]
    slot = (_WIDTH - 2 * _SIDE - _GAP) / 2
    tall = min(slot * height / width, _TALLEST)
    cell = (_WIDTH - 2 * _SIDE - (_SECTIONS - 1) * _GAP - _SECTIONS * _BESIDE) / (2 * _SECTIONS)
    lower = _BETWEEN + cell + _UNDER if overlaid.sections else _UNDER
    figure = Figure(figsize=(_WIDTH, _HEAD + tall + lower + _FOOT))
    total = figure.get_figheight()
    heading = (
        f"Slide {drawable(maps.slide_id, 32)}, patient {drawable(maps.patient_id, 20)}: predictions over the slide"
    )
    figure.text(_SIDE / _WIDTH, 1 - 0.16 / total, heading, va="center", fontsize=11, weight="bold")
    wide = tall * width / height
    for number, (title, classes) in enumerate(_both(maps, threshold).items()):
        left = _SIDE + number * (slot + _GAP) + (slot - wide) / 2
        box = (left / _WIDTH, (total - _HEAD - tall) / total, wide / _WIDTH, tall / total)
        _whole(figure.add_axes(box), overlaid, classes, f"{'ab'[number]}  {title}")
    scale_bar(figure.axes[0], maps.width_um, tall)
    for number in range(len(overlaid.sections)):
        left = _SIDE + number * (2 * cell + _BESIDE + _GAP)
        _section(figure, overlaid, (number, threshold), (left, _FOOT + _UNDER, cell))
    _legend(figure)
    return figure


def _both(maps: SlideMaps, threshold: float) -> dict[str, Picture]:
    return {"Classification": called(maps, threshold), "Segmentation": maps.segmenter}


def _whole(axes: Axes, overlaid: Overlaid, classes: Picture, title: str) -> None:
    """Show a map over the whole slide, and where the sections are."""
    maps = overlaid.maps
    height, width = maps.thumbnail.shape[:2]
    cell = maps.tile_side * maps.classifier.shape[0] / classes.shape[0]
    axes.imshow(
        laid_over(maps.thumbnail, classes, (height / cell, width / cell)),
        extent=(0, width, height, 0),
        interpolation="auto",
    )
    for letter, one in zip("cde", overlaid.sections, strict=False):
        x, y, side = (number * maps.tile_side for number in (one.column, one.row, one.tiles))
        axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor="#ffffff", linewidth=2.6))
        axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor="#101418", linewidth=1.3))
        axes.annotate(
            letter, (x, y), (3, -3), textcoords="offset points", ha="left", va="top", fontsize=8, weight="bold",
            color="#101418", bbox={"facecolor": "#ffffff", "edgecolor": "none", "boxstyle": "square,pad=0.15"},
        )  # fmt: skip
    frame(axes, title, (width, height))


def _section(figure: Figure, overlaid: Overlaid, which: tuple[int, float], place: tuple[float, float, float]) -> None:
    """Show a section beneath both maps, side by side."""
    (number, threshold), (left, bottom, cell) = which, place
    one, picture, total = overlaid.sections[number], overlaid.pictures[number], figure.get_figheight()
    for step, (title, classes) in enumerate(_both(overlaid.maps, threshold).items()):
        fine = classes.shape[0] // overlaid.maps.classifier.shape[0]
        rows, columns = (slice(start * fine, (start + one.tiles) * fine) for start in (one.row, one.column))
        x = left + step * (cell + _BESIDE)
        axes = figure.add_axes((x / _WIDTH, bottom / total, cell / _WIDTH, cell / total))
        show(axes, laid_over(picture, classes[rows, columns], (one.tiles * fine, one.tiles * fine)))
        figure.text(x / _WIDTH, (bottom - 0.1) / total, title.lower(), va="center", fontsize=7.5, color=MUTED)
    side_um = one.tiles * overlaid.maps.tile_side * overlaid.maps.width_um / overlaid.maps.thumbnail.shape[1]
    heading = f"{'cde'[number]}  {one.title}, {side_um:.0f} \N{MICRO SIGN}m wide"
    figure.text(left / _WIDTH, (bottom + cell + 0.12) / total, heading, va="center", fontsize=9.5, weight="bold")


def _legend(figure: Figure) -> None:
    """Name the colours, as they look over bright tissue."""
    handles = [_key(kind.title, kind.rgb, edged=kind is TissueClass.TUMOR) for kind in _SHOWN]
    handles.append(_key(ARTEFACT_CLASS.title, ARTEFACT_CLASS.rgb, edged=False))
    figure.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1 - _SIDE / _WIDTH, 0.05 / figure.get_figheight()),
        ncols=len(handles), borderaxespad=0, handlelength=1.1, handleheight=1.1, columnspacing=1.4, borderpad=0.1,
    )  # fmt: skip


def _key(title: str, rgb: tuple[int, int, int], *, edged: bool) -> Patch:
    red, green, blue = ((1 - _STRENGTH) * 0.9 + _STRENGTH * channel / 255 for channel in rgb)
    edge, width = ("#{:02x}{:02x}{:02x}".format(*_EDGE), 1.4) if edged else (MUTED, 0.5)
    return Patch(facecolor=(red, green, blue), edgecolor=edge, linewidth=width, label=title)
