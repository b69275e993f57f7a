"""Tiles with their maps: the paper's Figures 5 and 6, and wrong predictions.

Each function draws one figure within `style()`. All maps of one kind in a figure share one scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from vitrail.classes import TissueClass
from vitrail.report.figures.heatmap import METHODS, Scale, colour_bar, common_scale, overlay, show
from vitrail.report.select import COLUMNS, DISAGREEMENT
from vitrail.report.style import MUTED, drawable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from vitrail.explain.saliency import Saliency
    from vitrail.report.data import Explained

    Image = NDArray[np.uint8]

SHORT = {"classifier": "Classification", "segmenter": "Segmentation"}
"""The networks, where there is little room."""

_WIDTH, _LEFT, _GAP = 12.0, 0.34, 0.09  # inches
_CELL = (_WIDTH - _LEFT - (COLUMNS - 1) * _GAP - 0.02) / COLUMNS
_HEAD, _NOTE, _BAR = 0.42, 0.19, 0.66  # inches
_RULER_UM = 50
_BOX: dict[str, Any] = {"facecolor": "#ffffff", "alpha": 0.75, "edgecolor": "none", "boxstyle": "square,pad=0.14"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """One row of pictures: what they are, written at their left, a line above each or none, and remarks within."""

    label: str
    pictures: Sequence[Image]
    notes: Sequence[str] = ()
    remarks: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Rows of pictures of the same tiles under one title; the first row is the tiles themselves."""

    title: str
    strips: Sequence[Strip]


def key_title(key: str) -> str:
    """Return the name of a kind of maps in figures."""
    network, method = key.split("_")
    return f"{METHODS[method]}, {SHORT[network].lower()} network"


def correct_figure(explained: Explained) -> Figure:
    """Draw correctly called tiles with the classifier's maps (the paper's Fig. 5)."""
    chosen, keys = explained.examples, ("classifier_gradcam", "classifier_hrcam")
    groups = [
        ("Correctly called tumor: Grad-CAM of the classification network", chosen.tumor_mixed, keys[:1]),
        ("Correctly called tumor: HR-CAM of the classification network", chosen.tumor, keys[1:]),
        ("Correctly called non-tumor: HR-CAM and Grad-CAM of the classification network", chosen.non_tumor, keys[::-1]),
    ]
    scales = _scales(
        explained,
        {keys[0]: (*chosen.tumor_mixed, *chosen.non_tumor), keys[1]: (*chosen.tumor, *chosen.non_tumor)},
    )
    blocks = [
        Block(
            title=f"{letter}  {title}",
            strips=[_tiles(explained, rows), *(_maps(explained, rows, (key, scales[key])) for key in names)],
        )
        for letter, (title, rows, names) in zip("abc", groups, strict=True)
    ]
    return gallery(blocks, scales, explained.side_um)


def disagreement_figure(explained: Explained) -> Figure:
    """Draw the tiles where the two networks' Grad-CAMs correlate least (the paper's Fig. 6)."""
    rows, keys = explained.examples.disagreement, ("classifier_gradcam", "segmenter_gradcam")
    r = explained.stored.agreement[DISAGREEMENT]
    return _compared(explained, rows, keys, [f"r = {r.iloc[row]:.2f}".replace("-", "\N{MINUS SIGN}") for row in rows])


def wrong_figure(explained: Explained) -> Figure:
    """Draw wrongly called tiles with both maps of both networks."""
    return _compared(explained, explained.examples.wrong, tuple(explained.stored.file.kinds), [])


def _compared(explained: Explained, rows: Sequence[int], keys: Sequence[str], more: Sequence[str]) -> Figure:
    """Draw tiles, their truth above them, with maps of both networks, what each network said above its first map."""
    scales = _scales(explained, dict.fromkeys(keys, rows))
    strips, told = [_tiles(explained, rows, truth=True)], set[str]()
    for key in keys:
        network = key.split("_")[0]
        notes = [] if network in told else _said(explained, rows, network)
        strips.append(_maps(explained, rows, (key, scales[key]), notes))
        told.add(network)
    if more:
        notes = [f"{note}, {extra}" for note, extra in zip(strips[-1].notes, more, strict=True)]
        strips[-1] = replace(strips[-1], notes=notes)
    return gallery([Block(title="", strips=strips)], scales, explained.side_um)


def _tiles(explained: Explained, rows: Sequence[int], *, truth: bool = False) -> Strip:
    """Return the tiles themselves, with their patient, and their label or what the classifier said."""
    table = explained.stored.rows
    notes = []
    for row in rows:
        label = TissueClass[str(table["label"].iloc[row]).upper()].title
        said = label if truth else f"p = {table['classifier'].iloc[row]:.2f}"
        notes.append(f"{drawable(table['patient_id'].iloc[row], 16)}: {said}")
    return Strip(label="Tile", pictures=[explained.pictures[row] for row in rows], notes=notes)


def _said(explained: Explained, rows: Sequence[int], network: str) -> list[str]:
    """Say what a network gave for each tile, and whether that is wrong."""
    table = explained.stored.rows.iloc[list(rows)]
    notes = []
    for p, label in zip(table[network], table["label"], strict=True):
        wrong = (p >= explained.threshold) != (label == TissueClass.TUMOR.key)
        notes.append(f"p = {p:.2f}" + (" (wrong)" if wrong else ""))
    return notes


def _maps(explained: Explained, rows: Sequence[int], kind: tuple[str, Scale], notes: Sequence[str] = ()) -> Strip:
    """Return overlays of one kind of map; a map that says nothing at all is remarked upon."""
    key, scale = kind
    found = [explained.stored.saliency(key, row) for row in rows]
    network, method = key.split("_")
    return Strip(
        label=f"{SHORT[network]}\n{METHODS[method]}",
        pictures=[overlay(explained.pictures[row], one, scale) for row, one in zip(rows, found, strict=True)],
        notes=notes,
        remarks=[_remark(one) for one in found],
    )


def _remark(saliency: Saliency) -> str:
    """Say what a pale picture does not show: that a map is constant, or has no value that speaks for its target."""
    if not saliency.values.any():
        return "0 everywhere"
    return "the same everywhere" if saliency.constant else ""


def _scales(explained: Explained, shown: dict[str, Sequence[int]]) -> dict[str, Scale]:
    """Return one scale for each kind of map, over the rows of that kind that a figure shows."""
    stored = explained.stored
    return {key: common_scale(stored.saliency(key, row) for row in rows) for key, rows in shown.items()}


def gallery(blocks: Sequence[Block], scales: dict[str, Scale], side_um: float) -> Figure:
    """Draw blocks of pictures below each other, and the colour bar of each kind of map at the foot."""
    heights = [_block_height(block) for block in blocks]
    figure = Figure(figsize=(_WIDTH, sum(heights) + _BAR))
    top = figure.get_figheight()
    for block, height in zip(blocks, heights, strict=True):
        _draw_block(figure, block, top, side_um)
        top -= height
    for number, (key, scale) in enumerate((key, scale) for key, scale in scales.items() if not scale.empty):
        width = (_WIDTH - _LEFT) / max(len(scales), 2)
        place = (_LEFT + number * width, 0.24, min(width - 0.5, 4.0), 0.1)
        colour_bar(_axes(figure, place), scale, key_title(key))
    return figure


def _block_height(block: Block) -> float:
    rows = sum(_CELL + _GAP + (_NOTE if strip.notes else 0) for strip in block.strips)
    return rows + (_HEAD if block.title else 0.05) + 0.06


def _draw_block(figure: Figure, block: Block, top: float, side_um: float) -> None:
    total = figure.get_figheight()
    if block.title:
        figure.text(0, (top - 0.24) / total, block.title, va="center", fontsize=10.5, weight="bold")
    top -= _HEAD if block.title else 0.05
    for number, strip in enumerate(block.strips):
        top -= _CELL + (_NOTE if strip.notes else 0)
        _draw_strip(figure, strip, top)
        if not number and strip.pictures:
            _ruler(figure.axes[-len(strip.pictures)], side_um)
        top -= _GAP


def _draw_strip(figure: Figure, strip: Strip, bottom: float) -> None:
    total = figure.get_figheight()
    middle = (bottom + _CELL / 2) / total
    if not strip.pictures:
        figure.text(_LEFT / _WIDTH, middle, "There is no such tile.", va="center", color=MUTED)
    figure.text(
        0.5 * _LEFT / _WIDTH, middle, strip.label, rotation=90, ha="center", va="center", fontsize=8, color=MUTED
    )
    for number, picture in enumerate(strip.pictures):
        axes = _axes(figure, (_LEFT + number * (_CELL + _GAP), bottom, _CELL, _CELL))
        show(axes, picture)
        if strip.notes:
            axes.set_title(strip.notes[number], fontsize=8, weight="normal", pad=3.5)
        if strip.remarks and strip.remarks[number]:
            axes.text(
                0.5,
                0.04,
                strip.remarks[number],
                transform=axes.transAxes,
                ha="center",
                fontsize=7,
                color="#101418",
                bbox=_BOX,
            )


def _axes(figure: Figure, place: tuple[float, float, float, float]) -> Axes:
    """Add axes at left, bottom, width and height in inches."""
    left, bottom, width, height = place
    total = figure.get_figheight()
    return figure.add_axes((left / _WIDTH, bottom / total, width / _WIDTH, height / total))


def _ruler(axes: Axes, side_um: float) -> None:
    """Draw a bar of 50 um into the first tile, dark on light so that it shows on any tissue."""
    long, at = _RULER_UM / side_um, 0.93
    if long > 0.8:
        return
    for colour, width in (("#ffffff", 5.5), ("#101418", 2.5)):
        axes.plot(
            [0.06, 0.06 + long], [1 - at, 1 - at], color=colour, linewidth=width, transform=axes.transAxes,
            solid_capstyle="butt", scalex=False, scaley=False,
        )  # fmt: skip
    axes.text(
        0.06 + long / 2, 1 - at + 0.03, f"{_RULER_UM} \N{MICRO SIGN}m", transform=axes.transAxes, ha="center",
        va="bottom", fontsize=7, color="#101418", bbox=_BOX,
    )  # fmt: skip
