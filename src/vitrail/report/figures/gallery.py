"""Tiles with their maps: the paper's Figures 5 and 6, and wrong predictions.

Each function draws one figure within `style()`. A tile stands in its own colours; beside it, for each kind of map, the
same tile with contours where the map is strongest, and below that the map. Below the tile its strongest place is
enlarged. All maps of one kind in a figure share one scale.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from vitrail.classes import NETWORKS, TissueClass
from vitrail.explain.study.store import pairs, split_key
from vitrail.report.figures.heatmap import (
    PERCENTILE,
    colour_bar,
    common_scale,
    contour_scale,
    draw_contours,
    inch_axes,
    mark_square,
    overlay,
    show,
)
from vitrail.report.figures.spec import NO_SUCH_FIGURE, FigureSpec
from vitrail.report.select import MIXED, closeup_key, compared_keys, listed, network_pair, shown_keys
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

BESIDE = 2
"""Kinds of maps beside which there is room for a second tile; with more of them, a figure shows `FEWER` tiles."""

FEWER = 3
"""Tiles of the first kind in a figure of many kinds of maps; of any further kind one fewer."""

_SMALL, _LARGE, _GAP, _BETWEEN = 1.93, 2.32, 0.07, 0.2  # inches: pictures, and the white between them and tiles
_HEAD, _TITLES, _BAR = 0.36, 0.42, 0.66  # inches
_MOST_BARS = 4  # colour bars beside each other
_BOX: dict[str, Any] = {"facecolor": "#ffffff", "alpha": 0.75, "edgecolor": "none", "boxstyle": "square,pad=0.14"}

_SCALE = (
    "Each tile stands in its own colours. Beside it, for each kind of map, the same tile with lines around the places "
    "where the map is strongest, orange for tumor and blue against it: thin at a third, thick at two thirds of the "
    f"{PERCENTILE}th percentile of the magnitudes of all such maps in the figure, slightly smoothed. Below it the map "
    "itself, over the tissue's shadow; its full colour stands for that percentile without smoothing, given at the "
    "colour bar. A map that looks empty, or has no line, is weak beside the others. Maps in yellow to violet have no "
    "zero: pale is less, dark is more. "
)
_AS_ABOVE = "Pictures and colours as above; scales of this figure's own maps."
_SPREAD = "Each patient gives one tile before any gives a second."
_BLIND = f"{_SPREAD} How a map looks plays no part in the choice."


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A tile of a figure.

    Attributes
    ----------
    row
        Of the explained tiles.
    heading
        Lines above it.
    notes
        By kind of map, a line above its pictures.
    """

    row: int
    heading: str
    notes: Mapping[str, str] = field(default_factory=dict)


def figures_of(data: ReportData) -> list[FigureSpec]:
    """Return the figures of explained tiles; what there is nothing to show of is left out."""
    if (explained := data.explained) is None:
        return []
    stored, mixed = explained.stored, f"{100 * MIXED:g} %"
    methods = listed([stored.methods[split_key(key)[1]] for key in shown_keys(explained)])
    others = len(stored.methods) - len(shown_keys(explained))
    omitted = f" The maps of {others} further {'method' if others == 1 else 'methods'} are not shown." if others else ""
    correct = (
        "Test tiles that the classification network calls correctly, and what it saw in them. (a) Tumor tiles: those "
        f"with at least {mixed} tumor and {mixed} tissue that is not come first, then the highest probability p. (b) "
        f"Non-tumor tiles, lowest p first. {_BLIND} A tile is {explained.side_um:g} \N{MICRO SIGN}m wide, read again "
        f"from its slide. {_SCALE}{_closeup_words(explained)}{omitted} Corresponds to Fig. 5 of {CITED}."
    )
    specs = [
        FigureSpec(
            name="why-correct", number="Figure 5", section="why", draw=lambda _: correct_figure(explained),
            caption=lambda _: f"{methods}. {correct}",
        ),
        FigureSpec(
            name="why-wrong", number="Figure F", section="agreement", order=3, draw=lambda _: wrong_figure(explained),
            caption=lambda _: "Test tiles that at least one network calls wrongly, with their annotated class and maps "
            f"of both networks. p as above; at {explained.threshold:g} and more a tile is called tumor. "
            f"The largest errors come first. {_BLIND} {_AS_ABOVE} {NO_SUCH_FIGURE}",
            applies=lambda _: bool(explained.examples.wrong),
        ),
    ]  # fmt: skip
    if (pair := network_pair(stored)) is not None:
        method = stored.methods[split_key(pairs(stored.keys)[pair][0])[1]]
        disagreement = (
            f"Test tiles where the {method}s of the two networks correlate least, with their annotated class. p: the "
            "classification network's tumor probability, and the fraction of pixels that the segmentation network "
            f"calls tumor. r: Pearson's coefficient of the two {method}s. {_SPREAD} "
            f"{stored.summary['agreement'][pair]['constant']:,} of {len(stored):,} tiles have no such coefficient, "
            "because one of the maps is constant: the segmentation network's is 0 where it calls no pixel tumor. "
            f"{_AS_ABOVE} Corresponds to Fig. 6 of {CITED}."
        )
        specs.append(
            FigureSpec(
                name="why-disagreement", number="Figure 6", section="agreement", order=2,
                draw=lambda _: disagreement_figure(explained), caption=lambda _: disagreement,
                applies=lambda _: bool(explained.examples.disagreement),
            )
        )  # fmt: skip
    return specs


def _closeup_words(explained: Explained) -> str:
    """Say what the enlarged places are."""
    if not explained.closeups:
        return ""
    method = explained.stored.methods[split_key(closeup_key(explained.stored, explained.show))[1]]
    return (
        f"Framed, and enlarged below the tile: where {method} of the classification network lays most on what the "
        "network called the tile, as the slide was scanned."
    )


def map_titles(stored: Stored) -> dict[str, str]:
    """Return the name of each kind of maps, by its key."""
    names = {key: split_key(key) for key in stored.keys}
    return {
        key: f"{stored.methods[method]}, {SHORT[network].lower()} network" for key, (network, method) in names.items()
    }


def correct_figure(explained: Explained) -> Figure:
    """Draw correctly called tiles with the classifier's maps (the paper's Fig. 5)."""
    chosen, rows = explained.examples, explained.stored.rows
    groups = {
        f"{letter}  Correctly called {kind} by the classification network": [
            Example(row=row, heading=f"{_patient(explained, row)}\np = {rows['classifier'].iloc[row]:.2f}")
            for row in members
        ]
        for letter, kind, members in (("a", "tumor", chosen.tumor), ("b", "non-tumor", chosen.non_tumor))
    }
    return gallery(groups, explained, shown_keys(explained))


def disagreement_figure(explained: Explained) -> Figure:
    """Draw the tiles where the maps of the two networks by one method correlate least (the paper's Fig. 6)."""
    stored, rows = explained.stored, explained.examples.disagreement
    pair = network_pair(stored) or ""
    last = pairs(stored.keys)[pair][-1]
    notes = {row: f"r = {stored.agreement[pair].iloc[row]:.2f}".replace("-", "\N{MINUS SIGN}") for row in rows}
    return _compared(explained, rows, compared_keys(explained, pairs(stored.keys)[pair]), {last: notes})


def wrong_figure(explained: Explained) -> Figure:
    """Draw wrongly called tiles with maps of both networks."""
    return _compared(explained, explained.examples.wrong, compared_keys(explained), {})


def _compared(
    explained: Explained, rows: Sequence[int], keys: Sequence[str], more: Mapping[str, Mapping[int, str]]
) -> Figure:
    """Draw tiles, their truth above them, with maps of both networks, what each network said above its first map."""
    stored, examples = explained.stored, []
    for row in rows:
        own, label = stored.rows.iloc[row], str(stored.rows["label"].iloc[row])
        notes, networks = dict[str, str](), set[str]()
        for key in keys:
            network, parts = split_key(key)[0], []
            if network not in networks:
                wrong = (own[network] >= explained.threshold) != (label == TissueClass.TUMOR.key)
                parts.append(f"p = {own[network]:.2f}" + (" (wrong)" if wrong else ""))
            networks.add(network)
            notes[key] = ", ".join([*parts, *([more[key][row]] if key in more else [])])
        heading = f"{_patient(explained, row)}\n{TissueClass[label.upper()].title}"
        examples.append(Example(row=row, heading=heading, notes=notes))
    return gallery({"": examples}, explained, keys)


def _patient(explained: Explained, row: int) -> str:
    return drawable(explained.stored.rows["patient_id"].iloc[row], 16)


def gallery(groups: Mapping[str, Sequence[Example]], explained: Explained, keys: Sequence[str]) -> Figure:
    """Draw tiles with their maps, and the colour bar of each kind of map at the foot.

    Parameters
    ----------
    groups
        Tiles, by the title above them.
    explained
        What the report shows.
    keys
        The kinds of maps.
    """
    beside = 2 if len(keys) <= BESIDE else 1
    side = _SMALL if beside == 2 else _LARGE
    if beside == 1:
        groups = {title: examples[: max(FEWER - at, 1)] for at, (title, examples) in enumerate(groups.items())}
    of_tile = (1 + len(keys)) * (side + _GAP)
    band, columns = _TITLES + 2 * (side + _GAP), min(max(len(keys), 2), _MOST_BARS)
    bands = {title: max(-(-len(examples) // beside), 1) for title, examples in groups.items()}
    head, foot = {title: _HEAD if title else 0.05 for title in groups}, _BAR * -(-len(keys) // columns)
    figure = Figure(
        figsize=(
            beside * of_tile + (beside - 1) * _BETWEEN,
            sum(head[title] + count * band for title, count in bands.items()) + foot,
        )
    )
    width, upper = figure.get_size_inches().tolist()
    total, kinds = upper, {key: _Kind.of(explained, key, groups, keys) for key in keys}
    for title, examples in groups.items():
        figure.text(0, (upper - 0.5 * head[title]) / total, title, va="center", fontsize=10.5, weight="bold")
        upper -= head[title]
        if not examples:
            figure.text(0.02, (upper - 0.3) / total, "There is no such tile.", va="center", color=MUTED)
        for number, example in enumerate(examples):
            left = number % beside * (of_tile + _BETWEEN)
            _draw_example(figure, example, explained, kinds, (left, upper - number // beside * band, side))
        upper -= bands[title] * band
    for number, kind in enumerate(kind for kind in kinds.values() if not kind.scale.empty):
        left, lower = 0.1 + number % columns * width / columns, foot - _BAR * (1 + number // columns) + 0.24
        colour_bar(inch_axes(figure, left, lower, min(width / columns - 0.5, 4.0), 0.1), kind.scale, kind.title)
    return figure


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """A kind of map in a figure.

    Attributes
    ----------
    title
        Above its pictures and its colour bar.
    scale, contours
        Of the maps, and of their contours.
    """

    title: str
    scale: Scale
    contours: Scale

    @classmethod
    def of(cls, explained: Explained, key: str, groups: Mapping[str, Sequence[Example]], keys: Sequence[str]) -> _Kind:
        """Return a kind for a figure of tiles and `keys`; its title names the network where there are two."""
        network, method = split_key(key)
        maps = [explained.stored.saliency(key, each.row) for examples in groups.values() for each in examples]
        one = len({split_key(each)[0] for each in keys}) == 1
        title = explained.stored.methods[method] + ("" if one else f", {SHORT[network].lower()}")
        return cls(title=title, scale=common_scale(maps), contours=contour_scale(maps))


def _draw_example(
    figure: Figure,
    example: Example,
    explained: Explained,
    kinds: Mapping[str, _Kind],
    corner: tuple[float, float, float],
) -> None:
    """Draw a tile, what it has enlarged, and its maps; the corner is left, top and a picture's side, in inches."""
    left, top, side = corner
    picture, closeup = explained.pictures[example.row], explained.closeups.get(example.row)
    upper, lower = top - _TITLES - side, top - _TITLES - 2 * side - _GAP
    tile = inch_axes(figure, left, upper, side, side)
    show(tile, picture)
    tile.set_title(example.heading, fontsize=8, pad=3.5)
    draw_ruler(tile, 50, explained.side_um)
    if closeup is not None:
        mark_square(tile, *(share * picture.shape[0] for share in (closeup.left, closeup.top, closeup.side)))
        enlarged = inch_axes(figure, left, lower, side, side)
        show(enlarged, closeup.picture)
        draw_ruler(enlarged, 20, closeup.side * explained.side_um)
    for number, (key, kind) in enumerate(kinds.items(), 1):
        saliency = explained.stored.saliency(key, example.row)
        at = left + number * (side + _GAP)
        lined, painted = (inch_axes(figure, at, bottom, side, side) for bottom in (upper, lower))
        show(lined, picture)
        draw_contours(lined, saliency, kind.contours)
        lined.set_title(f"{kind.title}\n{example.notes.get(key, '')}", fontsize=8, weight="normal", pad=3.5)
        show(painted, overlay(picture, saliency, kind.scale))
        if saliency.constant:  # what a pale picture does not say
            words = "the same everywhere" if saliency.values.any() else "0 everywhere"
            painted.text(
                0.5, 0.04, words, transform=painted.transAxes, ha="center", fontsize=7, color="#101418", bbox=_BOX
            )


def draw_ruler(axes: Axes, length_um: int, side_um: float) -> None:
    """Draw a ruler into a picture, dark on light so that it shows on any tissue."""
    length, below = length_um / side_um, 1 - 0.93
    if length > 0.8:
        return
    for colour, width in (("#ffffff", 5.5), ("#101418", 2.5)):
        axes.plot(
            [0.06, 0.06 + length], [below, below], color=colour, linewidth=width, transform=axes.transAxes,
            solid_capstyle="butt", scalex=False, scaley=False,
        )  # fmt: skip
    axes.text(
        0.06 + length / 2, below + 0.03, f"{length_um} \N{MICRO SIGN}m", transform=axes.transAxes, ha="center",
        va="bottom", fontsize=7, color="#101418", bbox=_BOX,
    )  # fmt: skip
