"""Tiles with their maps: the paper's Figures 5 and 6, and wrong predictions.

Each function draws one figure within `style()`. All maps of one kind in a figure share one scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from vitrail.classes import NETWORKS, TissueClass
from vitrail.explain.study.store import pairs, split_key
from vitrail.report.figures.heatmap import PERCENTILE, colour_bar, common_scale, inch_axes, overlay, show
from vitrail.report.figures.spec import NO_SUCH_FIGURE, FigureSpec
from vitrail.report.select import COLUMNS, MIXED, classifier_keys, classifier_titles, listed, network_pair
from vitrail.report.style import CITED, MUTED, drawable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from vitrail.explain.study.store import Stored
    from vitrail.report.data import Explained, ReportData
    from vitrail.report.figures.heatmap import Scale

    Image = NDArray[np.uint8]

SHORT = {name: title.removesuffix(" network") for name, title in NETWORKS.items()}
"""The networks, where there is little room."""

_WIDTH, _LEFT, _GAP = 12.0, 0.34, 0.09  # inches
_CELL = (_WIDTH - _LEFT - (COLUMNS - 1) * _GAP - 0.02) / COLUMNS
_HEAD, _NOTE, _BAR = 0.42, 0.19, 0.66  # inches
_MOST_BARS = 4  # colour bars beside each other
_RULER_UM = 50
_BOX: dict[str, Any] = {"facecolor": "#ffffff", "alpha": 0.75, "edgecolor": "none", "boxstyle": "square,pad=0.14"}

_SCALE = (
    "Orange speaks for tumor, blue against it, the stronger the less the tissue, in grey, shows through. All maps of "
    f"one kind in the figure share one scale: full colour stands for the {PERCENTILE}th percentile of the magnitudes "
    "of their values, given at the colour bar. A map that looks empty is weak beside the others. Maps in yellow to "
    "violet have no zero: pale is less, dark is more. Colours show what a map claims; the checks ask whether the score "
    "agrees."
)
_AS_ABOVE = "Colours as above; scales of this figure's own maps."
_SPREAD = "Each patient gives one tile before any gives a second."
_BLIND = f"{_SPREAD} How a map looks plays no part in the choice."


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """One row of pictures.

    Attributes
    ----------
    label
        What they are, at their left.
    pictures
        `[h, w, 3]`, RGB, each.
    notes
        A line above each, or none.
    remarks
        A line within each, or none.
    """

    label: str
    pictures: Sequence[Image]
    notes: Sequence[str] = ()
    remarks: Sequence[str] = ()


def figures_of(data: ReportData) -> list[FigureSpec]:
    """Return the figures of explained tiles; what there is nothing to show of is left out."""
    if (explained := data.explained) is None:
        return []
    stored, mixed = explained.stored, f"{100 * MIXED:g} %"
    both = "both" if len(stored.methods) == 2 else "all"
    first, further = (listed(titles) for titles in classifier_titles(stored))
    correct = (
        "Test tiles that the classification network calls correctly, and below each the map of what it saw. (a) Tumor "
        f"tiles with {first}: those with at least {mixed} tumor and {mixed} tissue that is not come first, then the "
        f"highest probability p. (b) Further tumor tiles with {further}, highest p first. (c) Non-tumor tiles with "
        f"{both} maps, lowest p first. {_BLIND} A tile is {explained.side_um:g} \N{MICRO SIGN}m wide, read again from "
        f"its slide. {_SCALE} Corresponds to Fig. 5 of {CITED}."
    )
    specs = [
        FigureSpec(
            name="why-correct", number="Figure 5", section="why", draw=lambda _: correct_figure(explained),
            caption=lambda _: correct,
        ),
        FigureSpec(
            name="why-wrong", number="Figure F", section="agreement", order=2, draw=lambda _: wrong_figure(explained),
            caption=lambda _: "Test tiles that at least one network calls wrongly, with their annotated class and "
            f"{both} maps of both networks. p as above; at {explained.threshold:g} and more a tile is called tumor. "
            f"The largest errors come first. {_BLIND} {_AS_ABOVE} {NO_SUCH_FIGURE}",
            applies=lambda _: bool(explained.examples.wrong),
        ),
    ]  # fmt: skip
    if (pair := network_pair(stored)) is not None:
        method = stored.methods[split_key(pairs(stored.keys)[pair][0])[1]]
        disagreement = (
            f"Test tiles where the {method}s of the two networks correlate least, with their annotated class. p: the "
            "classification network's tumor probability, and the fraction of pixels that the segmentation network "
            f"calls tumor. r: Pearson's coefficient of the two maps. {_SPREAD} "
            f"{stored.summary['agreement'][pair]['constant']:,} of {len(stored):,} tiles have no such coefficient, "
            "because one of the maps is constant: the segmentation network's is 0 where it calls no pixel tumor. "
            f"{_AS_ABOVE} Corresponds to Fig. 6 of {CITED}."
        )
        specs.append(
            FigureSpec(
                name="why-disagreement", number="Figure 6", section="agreement", order=1,
                draw=lambda _: disagreement_figure(explained), caption=lambda _: disagreement,
                applies=lambda _: bool(explained.examples.disagreement),
            )
        )  # fmt: skip
    return specs


def map_titles(stored: Stored) -> dict[str, str]:
    """Return the name of each kind of maps, by its key."""
    names = {key: split_key(key) for key in stored.keys}
    return {
        key: f"{stored.methods[method]}, {SHORT[network].lower()} network" for key, (network, method) in names.items()
    }


def correct_figure(explained: Explained) -> Figure:
    """Draw correctly called tiles with the classifier's maps (the paper's Fig. 5)."""
    chosen, (first, further) = explained.examples, classifier_keys(explained.stored)
    all_keys = tuple(dict.fromkeys((*first, *further)))
    groups = [
        ("Correctly called tumor", chosen.tumor_mixed, first),
        ("Correctly called tumor", chosen.tumor, further),
        ("Correctly called non-tumor", chosen.non_tumor, all_keys[::-1]),
    ]
    scales = {
        key: common_scale(
            explained.stored.saliency(key, row) for _, rows, keys in groups if key in keys for row in rows
        )
        for key in all_keys
    }
    blocks = {}
    for letter, (title, rows, keys) in zip("abc", groups, strict=True):
        methods = listed([explained.stored.methods[split_key(key)[1]] for key in keys])
        strips = [tile_strip(explained, rows), *(map_strip(explained, rows, key, scales[key]) for key in keys)]
        blocks[f"{letter}  {title}: {methods} of the classification network"] = strips
    return gallery(blocks, explained, scales)


def disagreement_figure(explained: Explained) -> Figure:
    """Draw the tiles where the maps of the two networks by one method correlate least (the paper's Fig. 6)."""
    stored, rows = explained.stored, explained.examples.disagreement
    pair = network_pair(stored) or ""
    notes = [f"r = {stored.agreement[pair].iloc[row]:.2f}".replace("-", "\N{MINUS SIGN}") for row in rows]
    return _compared(explained, rows, pairs(stored.keys)[pair], notes)


def wrong_figure(explained: Explained) -> Figure:
    """Draw wrongly called tiles with all maps of both networks."""
    return _compared(explained, explained.examples.wrong, explained.stored.keys, [])


def _compared(explained: Explained, rows: Sequence[int], keys: Sequence[str], last_notes: Sequence[str]) -> Figure:
    """Draw tiles, their truth above them, with maps of both networks, what each network said above its first map."""
    stored = explained.stored
    scales = {key: common_scale(stored.saliency(key, row) for row in rows) for key in keys}
    strips, table, networks = [tile_strip(explained, rows, truth=True)], stored.rows.iloc[list(rows)], set[str]()
    for key in keys:
        network, notes = split_key(key)[0], []
        if network not in networks:
            for p, label in zip(table[network], table["label"], strict=True):
                wrong = (p >= explained.threshold) != (label == TissueClass.TUMOR.key)
                notes.append(f"p = {p:.2f}" + (" (wrong)" if wrong else ""))
        networks.add(network)
        strips.append(map_strip(explained, rows, key, scales[key], notes))
    if last_notes:
        notes = [f"{note}, {more}" for note, more in zip(strips[-1].notes, last_notes, strict=True)]
        strips[-1] = replace(strips[-1], notes=notes)
    return gallery({"": strips}, explained, scales)


def tile_strip(explained: Explained, rows: Sequence[int], *, truth: bool = False) -> Strip:
    """Return the tiles themselves, above each its patient with its label, or with what the classifier said."""
    table, notes = explained.stored.rows, []
    for row in rows:
        label = TissueClass[str(table["label"].iloc[row]).upper()].title
        beside = label if truth else f"p = {table['classifier'].iloc[row]:.2f}"
        notes.append(f"{drawable(table['patient_id'].iloc[row], 16)}: {beside}")
    return Strip(label="Tile", pictures=[explained.pictures[row] for row in rows], notes=notes)


def map_strip(explained: Explained, rows: Sequence[int], key: str, scale: Scale, notes: Sequence[str] = ()) -> Strip:
    """Return tiles under their maps; a remark says what a pale picture does not: that a map is 0, or constant."""
    maps = [explained.stored.saliency(key, row) for row in rows]
    network, method = split_key(key)
    flat = ["the same everywhere" if each.values.any() else "0 everywhere" for each in maps]
    return Strip(
        label=f"{SHORT[network]}\n{explained.stored.methods[method]}",
        pictures=[overlay(explained.pictures[row], each, scale) for row, each in zip(rows, maps, strict=True)],
        notes=notes,
        remarks=[words if each.constant else "" for each, words in zip(maps, flat, strict=True)],
    )


def gallery(blocks: Mapping[str, Sequence[Strip]], explained: Explained, scales: Mapping[str, Scale]) -> Figure:
    """Draw blocks of pictures below each other, and the colour bar of each kind of map at the foot.

    Parameters
    ----------
    blocks
        By their title, rows of pictures of the same tiles; the first row is the tiles themselves.
    explained
        What the report shows.
    scales
        By kind of map.
    """
    columns = min(max(len(scales), 2), _MOST_BARS)
    foot = _BAR * -(-max(len(scales), 1) // columns)
    heights = [
        sum(_CELL + _GAP + (_NOTE if strip.notes else 0) for strip in strips) + (_HEAD if title else 0.05) + 0.06
        for title, strips in blocks.items()
    ]
    figure = Figure(figsize=(_WIDTH, sum(heights) + foot))
    upper = total = figure.get_figheight()
    for (title, strips), height in zip(blocks.items(), heights, strict=True):
        if title:
            figure.text(0, (upper - 0.24) / total, title, va="center", fontsize=10.5, weight="bold")
        bottom = upper - (_HEAD if title else 0.05)
        for number, strip in enumerate(strips):
            bottom -= _CELL + (_NOTE if strip.notes else 0)
            _draw_strip(figure, strip, bottom)
            if not number and strip.pictures:
                _draw_ruler(figure.axes[-len(strip.pictures)], explained.side_um)
            bottom -= _GAP
        upper -= height
    titles, painted = map_titles(explained.stored), [key for key, scale in scales.items() if not scale.empty]
    width = (_WIDTH - _LEFT) / columns
    for number, key in enumerate(painted):
        left, lower = _LEFT + number % columns * width, foot - _BAR * (1 + number // columns) + 0.24
        colour_bar(inch_axes(figure, left, lower, min(width - 0.5, 4.0), 0.1), scales[key], titles[key])
    return figure


def _draw_strip(figure: Figure, strip: Strip, bottom: float) -> None:
    middle = (bottom + _CELL / 2) / figure.get_figheight()
    if not strip.pictures:
        figure.text(_LEFT / _WIDTH, middle, "There is no such tile.", va="center", color=MUTED)
    figure.text(
        0.5 * _LEFT / _WIDTH, middle, strip.label, rotation=90, ha="center", va="center", fontsize=8, color=MUTED
    )
    for number, picture in enumerate(strip.pictures):
        axes = inch_axes(figure, _LEFT + number * (_CELL + _GAP), bottom, _CELL, _CELL)
        show(axes, picture)
        if strip.notes:
            axes.set_title(strip.notes[number], fontsize=8, weight="normal", pad=3.5)
        if strip.remarks and strip.remarks[number]:
            axes.text(
                0.5, 0.04, strip.remarks[number], transform=axes.transAxes, ha="center", fontsize=7, color="#101418",
                bbox=_BOX,
            )  # fmt: skip


def _draw_ruler(axes: Axes, side_um: float) -> None:
    """Draw a bar of 50 um into the first tile, dark on light so that it shows on any tissue."""
    length, below = _RULER_UM / side_um, 1 - 0.93
    if length > 0.8:
        return
    for colour, width in (("#ffffff", 5.5), ("#101418", 2.5)):
        axes.plot(
            [0.06, 0.06 + length], [below, below], color=colour, linewidth=width, transform=axes.transAxes,
            solid_capstyle="butt", scalex=False, scaley=False,
        )  # fmt: skip
    axes.text(
        0.06 + length / 2, below + 0.03, f"{_RULER_UM} \N{MICRO SIGN}m", transform=axes.transAxes, ha="center",
        va="bottom", fontsize=7, color="#101418", bbox=_BOX,
    )  # fmt: skip
