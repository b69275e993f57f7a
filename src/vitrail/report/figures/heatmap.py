"""From a map of signed values to a picture. Colours belong here, and only here.

The colours of a map depend on its values and on a scale that is given, never on the map's own range: a map 1000 times
weaker looks 1000 times paler. Tissue beneath is shown in grey, so that a colour says nothing but evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib.figure import Figure

from vitrail.report.style import INK, LINE, MUTED, drawable, save_png, style

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from vitrail.explain.saliency import Saliency

    Image = NDArray[np.uint8]
    Floats = NDArray[np.float64]
    Side = Literal["left", "center", "right"]
    Ramp = tuple[tuple[int, int, int], ...]

METHODS = {"gradcam": "Grad-CAM", "hrcam": "HR-CAM"}
"""The methods: their key, and their name in figures."""

PERCENTILE = 99
"""Of the magnitudes of all values in a figure: what is painted in full colour."""

_STRONGEST = 0.72  # the tissue beneath shows through even the strongest evidence
_GREY = np.array([0.299, 0.587, 0.114])
_BAR_PX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """Colours from weak to strong evidence; all are told apart by every kind of colour vision, and darken evenly.

    Attributes
    ----------
    above
        RGB of positive values.
    below
        RGB of negative values; none where they are not painted.
    """

    above: Ramp
    below: Ramp


DIVERGING = Palette(above=((255, 160, 40), (205, 60, 0)), below=((70, 180, 240), (0, 84, 166)))
"""For signed maps: orange speaks for the target, blue against it."""

SEQUENTIAL = Palette(above=((255, 214, 92), (238, 98, 42), (140, 0, 84)), below=())
"""For maps whose zero means nothing: pale is less, dark is more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What full colour stands for.

    Attributes
    ----------
    limit
        The value that is painted in full colour, and any above it.
    low
        The value that is not painted, nor any below it; None for signed maps, of which the magnitude counts.
    """

    limit: float
    low: float | None = None

    @property
    def palette(self) -> Palette:
        """The colours."""
        return DIVERGING if self.low is None else SEQUENTIAL

    @property
    def ends(self) -> tuple[float, float]:
        """The values at both ends of the colour bar."""
        return (-self.limit if self.low is None else self.low), self.limit

    @property
    def empty(self) -> bool:
        """Whether nothing is painted: all values are 0, or the same."""
        return self.limit == (self.low or 0.0)

    def strength(self, values: Floats) -> Floats:
        """Return how strongly values are painted, 0 to 1; NaN is not."""
        if self.empty:
            return np.zeros(values.shape)
        low = self.low
        strength = np.abs(values) / self.limit if low is None else (values - low) / (self.limit - low)
        return np.clip(np.nan_to_num(strength), 0, 1)


def common_scale(saliencies: Iterable[Saliency]) -> Scale:
    """Return one scale for several maps of one kind.

    Signed ones: up to the 99th percentile of the magnitudes of all their values. Others, whose zero means nothing:
    from the 1st to the 99th percentile of the values.
    """
    maps = list(saliencies)
    return scale_of([saliency.values for saliency in maps], signed=all(saliency.signed for saliency in maps))


def scale_of(maps: Iterable[NDArray[np.floating]], *, signed: bool = True) -> Scale:
    """Return one scale for the values of several maps, as `common_scale` does; NaN does not count."""
    values = np.concatenate([np.empty(0), *(each[np.isfinite(each)].ravel() for each in maps)])
    if not len(values):
        return Scale(limit=0.0)
    if signed:
        return Scale(limit=float(np.percentile(np.abs(values), PERCENTILE)))
    low, high = np.percentile(values, (100 - PERCENTILE, PERCENTILE))
    return Scale(low=float(low), limit=float(high))


def overlay(image: Image, saliency: Saliency, scale: Scale) -> Image:
    """Lay a map over its picture.

    Parameters
    ----------
    image
        `[h, w, 3]`, RGB, of what the map explains, at any resolution.
    saliency
        The map; it is interpolated bilinearly to the picture.
    scale
        What full colour stands for.

    Returns
    -------
    `[h, w, 3]`, RGB: the picture in grey, and the stronger the evidence, the less it shows through.
    """
    height, width = image.shape[:2]
    return _painted(grey(image), saliency.upsample((height, width)).astype(np.float64), scale)


def drawn(saliency: Saliency, scale: Scale, size: tuple[int, int]) -> Image:
    """Paint a map alone on white, `[height, width, 3]`."""
    return _painted(np.full((*size, 3), 255.0), saliency.upsample(size).astype(np.float64), scale)


def grey(image: Image) -> Floats:
    """Take the colour out of a picture and a little contrast, `[h, w, 3]`, 0 to 255."""
    light = np.asarray(image @ _GREY, np.float64)
    return np.repeat((255 - (255 - light) * 0.9)[..., None], 3, axis=2)


def overlaid(image: Image, values: Floats, scale: Scale) -> Image:
    """Lay values `[h, w]` over a picture `[h, w, 3]` of the same size; NaN paints nothing."""
    return _painted(grey(image), values, scale)


def colour_bar(axes: Axes, scale: Scale, title: str) -> None:
    """Fill axes with the colours of a scale, its ends in numbers, and what they speak for."""
    low, high = scale.ends
    ramp = np.linspace(low, high, _BAR_PX)[None]
    extent = (low, high, 0.0, 1.0) if high > low else (low, low + 1.0, 0.0, 1.0)
    axes.imshow(_painted(np.full((1, _BAR_PX, 3), 255.0), ramp, scale), extent=extent, aspect="auto")
    axes.set(yticks=[], xlim=extent[:2])
    axes.grid(visible=False)
    axes.spines[:].set(visible=True, color=LINE, linewidth=0.8)
    axes.tick_params(length=0, pad=3)
    axes.set_title(title, fontsize=8.5, pad=4)
    marks: list[tuple[float, str, Side]] = [
        (extent[0], f"against {_number(low)}" if scale.low is None else f"{_number(low)}, less", "left"),
        (extent[1], f"{_number(high)} for tumor" if scale.low is None else f"{_number(high)}, more for tumor", "right"),
    ]
    if scale.low is None:
        marks.insert(1, (0.0, "0", "center"))
    axes.set_xticks([place for place, _, _ in marks], [text for _, text, _ in marks], fontsize=7.5)
    for label, (_, _, side) in zip(axes.get_xticklabels(), marks, strict=True):
        label.set_horizontalalignment(side)


def _number(value: float) -> str:
    """Write a value with two digits that count."""
    return f"{float(f'{value:.2g}'):,g}".replace("-", "\N{MINUS SIGN}")


def overlay_figure(picture: Image, saliencies: Sequence[Saliency], title: str) -> Figure:
    """Draw a picture, its maps and its overlays side by side, one row a map, each with a scale of its own.

    Call it within `style()`.
    """
    tall = 3.9 * min(picture.shape[0] / picture.shape[1], 1.6)
    figure = Figure(figsize=(12.6, 0.55 + len(saliencies) * (tall + 0.85)))
    total = figure.get_figheight()
    figure.text(0.02, 1 - 0.26 / total, drawable(title, 110), va="center", fontsize=11, weight="bold")
    for row, saliency in enumerate(saliencies):
        bottom = total - 0.55 - (row + 1) * (tall + 0.85) + 0.62
        _row(figure, (picture, saliency), (bottom, tall))
    return figure


def save_overlay(path: Path, picture: Image, saliencies: Sequence[Saliency], title: str) -> None:
    """Write a PNG of a picture, its maps and its overlays side by side.

    Parameters
    ----------
    path
        The file to write.
    picture
        `[h, w, 3]`, RGB.
    saliencies
        Its maps, a row each.
    title
        What the network said, such as `tile.png, classifier: tumor probability 0.93`.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    with style():
        save_png(overlay_figure(picture, saliencies, title), path)


def _row(figure: Figure, shown: tuple[Image, Saliency], place: tuple[float, float]) -> None:
    (picture, saliency), (bottom, tall), total = shown, place, figure.get_figheight()
    scale, size = common_scale([saliency]), (picture.shape[0], picture.shape[1])
    parts = {
        "Picture": picture,
        f"{METHODS.get(saliency.method, saliency.method)} of {saliency.target}": drawn(saliency, scale, size),
        "Both": overlay(picture, saliency, scale),
    }
    for number, (name, image) in enumerate(parts.items()):
        axes = figure.add_axes(((0.25 + number * 4.1) / 12.6, bottom / total, 3.9 / 12.6, tall / total))
        show(axes, image)
        axes.set_title(name, fontsize=9.5, pad=4)
    bar = figure.add_axes((4.35 / 12.6, (bottom - 0.2) / total, 3.9 / 12.6, 0.1 / total))
    colour_bar(bar, scale, "")
    said = _about_scale(saliency, scale)
    figure.text(8.45 / 12.6, (bottom - 0.15) / total, said, fontsize=7.5, color=MUTED, va="center")


def _about_scale(saliency: Saliency, scale: Scale) -> str:
    if scale.empty:
        return "the map is 0 everywhere" if not saliency.values.any() else "the map is the same everywhere"
    if scale.low is None:
        return f"full colour: the {PERCENTILE}th percentile of this map's magnitudes"
    return f"of this map's values the {100 - PERCENTILE}st to {PERCENTILE}th percentile; its zero means nothing"


def show(axes: Axes, image: Image) -> None:
    """Show a picture without ticks in a thin frame."""
    axes.imshow(image, interpolation="auto", aspect="equal")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set(visible=True, color=INK, linewidth=0.4)


def _painted(base: Floats, values: Floats, scale: Scale) -> Image:
    """Blend colours over a base `[h, w, 3]` as strongly as the values `[h, w]` are large."""
    strength, palette = scale.strength(values), scale.palette
    above = (values > 0) | (not palette.below)
    colours = np.where(above[..., None], _on(palette.above, strength), _on(palette.below, strength))
    alpha = (strength * _STRONGEST)[..., None]
    return np.rint(base + alpha * (colours - base)).astype(np.uint8)


def _on(ramp: Ramp, strength: Floats) -> Floats:
    """Return the colours of a ramp at strengths 0 to 1, `[..., 3]`."""
    stops = np.array(ramp or ((255, 255, 255),), np.float64)
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(strength, at, stops[:, channel]) for channel in range(3)], axis=-1)
