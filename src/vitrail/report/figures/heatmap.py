"""From a map of values to a picture. The colours of maps belong here, and only here.

The colours of a map depend on its values and on a scale that is given, never on the map's own range: a map 1000 times
weaker looks 1000 times paler. Tissue beneath a map is but a shadow of grey, so that a colour says nothing but evidence.
What a pathologist reads, the tissue's own colours, is never veiled: there contours say where a map is strongest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy import ndimage

from vitrail.explain.study.store import TITLES
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

PERCENTILE = 99
"""Of the magnitudes of all values in a figure: what is painted in full colour."""

FOR: Ramp = ((255, 160, 40), (205, 60, 0))
"""Orange, of positive values, which speak for the target: from weak to strong. Every ramp here darkens evenly, and any
two are told apart by every kind of colour vision."""

AGAINST: Ramp = ((70, 180, 240), (0, 84, 166))
"""Blue, of negative values, which speak against it."""

LESS_TO_MORE: Ramp = ((255, 214, 92), (238, 98, 42), (140, 0, 84))
"""Yellow to violet, of maps whose zero means nothing: those of a segmenter's linear bottleneck (layout `timm`)."""

SMOOTH = 1 / 24
"""Of an image's longer side: the standard deviation of the smoothing before contours are drawn. Maps whose cells are
coarser hardly change; those of single pixels get contours that an eye can follow."""

LEVELS = (1 / 3, 2 / 3)
"""Where contours run, as shares of their scale: the strongest places lie within thick lines."""

ENLARGED = 0.4
"""The side of an enlarged place, as a share of the image's shorter side."""

SHADOW = 0.3
"""Contrast of the tissue beneath a map, 0 to 1."""

_STRONGEST = 0.85  # the shadow of the tissue shows through even the strongest evidence
_SQUARE = "#101418"
_CONTOUR_PX = 128  # points along the longer side of what contours are drawn from
_LIGHT = np.array([0.299, 0.587, 0.114])
_BAR_PX = 256


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
    def ends(self) -> tuple[float, float]:
        """The values at both ends of the colour bar."""
        return (-self.limit if self.low is None else self.low), self.limit

    @property
    def empty(self) -> bool:
        """Whether nothing is painted: all values are 0, or the same."""
        return self.limit == (self.low or 0.0)


def common_scale(saliencies: Iterable[Saliency]) -> Scale:
    """Return one scale for several maps of one kind.

    Returns
    -------
    Scale
        Of signed maps, up to the 99th percentile of the magnitudes of all their values. Of others, whose zero means
        nothing, from the 1st to the 99th percentile of the values.
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


def paint(base: Floats, values: Floats, scale: Scale) -> Image:
    """Lay values over a picture, the less it shows through the stronger they are.

    Parameters
    ----------
    base
        `[h, w, 3]`, RGB from 0 to 255.
    values
        `[h, w]`; NaN paints nothing.
    scale
        What full colour stands for.

    Returns
    -------
    Image
        `[h, w, 3]`, RGB.
    """
    low = scale.low or 0.0
    strength = np.zeros(values.shape)
    if not scale.empty:
        above = np.abs(values) if scale.low is None else values - low
        strength = np.clip(np.nan_to_num(above / (scale.limit - low)), 0, 1)
    if scale.low is None:
        colours = np.where((values > 0)[..., None], ramp_colours(FOR, strength), ramp_colours(AGAINST, strength))
    else:
        colours = ramp_colours(LESS_TO_MORE, strength)
    alpha = (strength * _STRONGEST)[..., None]
    return np.rint(base + alpha * (colours - base)).astype(np.uint8)


def ramp_colours(ramp: Ramp, strength: Floats) -> Floats:
    """Return the colours of a ramp, whose stops are evenly spaced, at strengths from 0 to 1, `[..., 3]`."""
    stops = np.array(ramp, np.float64)
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(strength, at, stops[:, channel]) for channel in range(3)], axis=-1)


def overlay(image: Image, saliency: Saliency, scale: Scale) -> Image:
    """Lay a map, interpolated bilinearly, over the shadow of a picture `[h, w, 3]` of what it explains."""
    height, width = image.shape[:2]
    return paint(grey(image, SHADOW), saliency.upsample((height, width)).astype(np.float64), scale)


def grey(image: Image, contrast: float = 0.9) -> Floats:
    """Take the colour out of a picture and some contrast, `[h, w, 3]`, 0 to 255; white stays white."""
    light = np.asarray(image @ _LIGHT, np.float64)
    return np.repeat((255 - (255 - light) * contrast)[..., None], 3, axis=2)


def smoothed(saliency: Saliency) -> Floats:
    """Return a map at the points that its contours are drawn from, see `SMOOTH`."""
    height, width = saliency.frame.image_px
    longer = max(height, width)
    size = max(round(height / longer * _CONTOUR_PX), 2), max(round(width / longer * _CONTOUR_PX), 2)
    values = saliency.upsample(size).astype(np.float64)
    return np.asarray(ndimage.gaussian_filter(values, SMOOTH * _CONTOUR_PX, mode="nearest"))


def contour_scale(saliencies: Iterable[Saliency]) -> Scale:
    """Return one scale for the contours of several maps of one kind, as `common_scale` for what is smoothed."""
    maps = list(saliencies)
    return scale_of([smoothed(saliency) for saliency in maps], signed=all(saliency.signed for saliency in maps))


def draw_contours(axes: Axes, saliency: Saliency, scale: Scale, thickness: float = 1.0) -> None:
    """Draw where a map is strongest onto a picture that `show` has drawn: thin lines in a white halo.

    Parameters
    ----------
    axes
        With the picture of what the map explains.
    saliency
        The map.
    scale
        Of its contours, see `contour_scale`; lines run at `LEVELS` of it, in the colour of their sign.
    thickness
        Of the lines.
    """
    if scale.empty:
        return
    values, (left, right, bottom, top) = smoothed(saliency), axes.get_images()[0].get_extent()
    rows, columns = ((np.arange(count) + 0.5) / count for count in values.shape)
    x, y = left + columns * (right - left), top + rows * (bottom - top)
    if scale.low is None:
        sides = [(values, scale.limit, FOR[1]), (-values, scale.limit, AGAINST[1])]
    else:
        sides = [(values - scale.low, scale.limit - scale.low, LESS_TO_MORE[2])]
    for side, limit, colour in sides:
        levels = [share * limit for share in LEVELS if side.min() < share * limit < side.max()]
        if not levels:
            continue
        widths = [thickness * (0.8 if level < LEVELS[1] * limit else 1.5) for level in levels]
        lines = axes.contour(x, y, side, levels, colors=[tuple(channel / 255 for channel in colour)], linewidths=widths)
        lines.set_path_effects([withStroke(linewidth=thickness * 2.6, foreground="white", alpha=0.85)])


def strongest_place(saliency: Saliency, *, against: bool = False) -> tuple[float, float]:
    """Return the square of an image on which a map lays most, `ENLARGED` of the shorter side wide.

    Parameters
    ----------
    saliency
        The map.
    against
        Look for what speaks against the target.

    Returns
    -------
    tuple[float, float]
        Left and top, in the image's pixels; the square lies within the image. A constant map gives its middle.
    """
    height, width = saliency.frame.image_px
    side = ENLARGED * min(height, width)
    if saliency.constant:
        return (width - side) / 2, (height - side) / 2
    values = smoothed(saliency) * (-1 if against else 1)
    points = [max(round(side / length * count), 1) for length, count in zip((height, width), values.shape, strict=True)]
    means = ndimage.uniform_filter(values, points, mode="nearest")
    margins = [count // 2 for count in points]
    inner = means[margins[0] : means.shape[0] - margins[0], margins[1] : means.shape[1] - margins[1]]
    row, column = np.unravel_index(inner.argmax(), inner.shape)
    middle = (
        (float(row) + margins[0]) / values.shape[0] * height,
        (float(column) + margins[1]) / values.shape[1] * width,
    )
    top, left = (
        float(np.clip(at - side / 2, 0, length - side)) for at, length in zip(middle, (height, width), strict=True)
    )
    return left, top


def colour_bar(axes: Axes, scale: Scale, title: str, target: str = "tumor") -> None:
    """Fill wide, low axes with the colours of a scale, its ends in numbers, and what they speak for."""
    low, high = scale.ends
    extent = (low, high, 0.0, 1.0) if high > low else (low, low + 1.0, 0.0, 1.0)
    ramp = paint(np.full((1, _BAR_PX, 3), 255.0), np.linspace(low, high, _BAR_PX)[None], scale)
    axes.imshow(ramp, extent=extent, aspect="auto")
    axes.set(yticks=[], xlim=extent[:2])
    axes.grid(visible=False)
    axes.spines[:].set(visible=True, color=LINE, linewidth=0.8)
    axes.tick_params(length=0, pad=3)
    axes.set_title(title, fontsize=8.5, pad=4)
    marks: list[tuple[float, str, Side]]
    if scale.low is None:
        marks = [(extent[0], f"against {_two_digits(low)}", "left"), (0.0, "0", "center")]
        marks += [(extent[1], f"{_two_digits(high)} for {drawable(target, 24)}", "right")]
    else:
        marks = [
            (extent[0], f"{_two_digits(low)}, less", "left"),
            (extent[1], f"{_two_digits(high)}, more for {drawable(target, 24)}", "right"),
        ]
    axes.set_xticks([at for at, _, _ in marks], [text for _, text, _ in marks], fontsize=7.5)
    for label, (_, _, side) in zip(axes.get_xticklabels(), marks, strict=True):
        label.set_horizontalalignment(side)


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):,g}".replace("-", "\N{MINUS SIGN}")


def overlay_figure(picture: Image, saliencies: Sequence[Saliency], title: str) -> Figure:
    """Draw a picture in its own colours, with the contours of a map, the map, and its strongest place enlarged.

    One row a map, each with a scale of its own. Call it within `style()`.
    """
    across = 3.0
    tall = across * min(picture.shape[0] / picture.shape[1], 1.6)
    figure = Figure(figsize=(12.6, 0.55 + len(saliencies) * (tall + 0.85)))
    total = figure.get_figheight()
    figure.text(0.02, 1 - 0.26 / total, drawable(title, 110), va="center", fontsize=11, weight="bold")
    for row, saliency in enumerate(saliencies):
        bottom, scale = total - 0.55 - (row + 1) * (tall + 0.85) + 0.62, common_scale([saliency])
        place, scaling = strongest_place(saliency), picture.shape[0] / saliency.frame.image_px[0]
        left, top, side = (round(scaling * length) for length in (*place, ENLARGED * min(saliency.frame.image_px)))
        name = TITLES.get(saliency.method, saliency.method)
        pictures = {
            "Picture": picture,
            "Its strongest places": picture,
            f"{name} of {saliency.target}": overlay(picture, saliency, scale),
            "The strongest enlarged": picture[top : top + max(side, 1), left : left + max(side, 1)],
        }
        for column, (heading, image) in enumerate(pictures.items()):
            axes = inch_axes(figure, 0.2 + column * (across + 0.08), bottom, across, tall)
            show(axes, image)
            axes.set_title(heading, fontsize=9.5, pad=4)
            if column == 1:
                draw_contours(axes, saliency, contour_scale([saliency]))
                mark_square(axes, left, top, side)
        colour_bar(inch_axes(figure, 0.2 + 2 * (across + 0.08), bottom - 0.2, across, 0.1), scale, "")
        if scale.empty:
            note = "the map is the same everywhere" if saliency.values.any() else "the map is 0 everywhere"
        elif scale.low is None:
            note = f"full colour: the {PERCENTILE}th percentile of this map's magnitudes; lines: a third and two thirds"
        else:
            note = f"of this map's values the {100 - PERCENTILE}st to {PERCENTILE}th percentile; its zero means nothing"
        figure.text(0.2 / 12.6, (bottom - 0.15) / total, note, fontsize=7.5, color=MUTED, va="center")
    return figure


def mark_square(axes: Axes, left: float, top: float, side: float) -> None:
    """Mark the square that is enlarged, in the pixels of the picture that `show` has drawn."""
    across, down = [left, left + side, left + side, left, left], [top, top, top + side, top + side, top]
    for colour, width in (("#ffffff", 2.4), (_SQUARE, 1.0)):
        axes.plot(across, down, color=colour, linewidth=width, scalex=False, scaley=False)


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


def inch_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes that begin at `left` and `bottom`, in inches from the figure's lower left corner."""
    across, total = figure.get_size_inches().tolist()
    return figure.add_axes((left / across, bottom / total, width / across, height / total))


def show(axes: Axes, image: Image) -> None:
    """Show a picture `[h, w, 3]` without ticks in a thin frame."""
    axes.imshow(image, interpolation="auto", aspect="equal")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set(visible=True, color=INK, linewidth=0.4)
