"""What a slide looks like, measured from its tiles, and how far that lies from the slides of a training.

Stains, focus, and what scanner and compression leave in the pixels: a dozen numbers a slide. The distance of a slide
from those of the training is a Mahalanobis distance made for few slides: differences from the median are divided by
the robust spread, and their correlations shrunk towards none (Schäfer and Strimmer 2005, doi:10.2202/1544-6115.1175),
for each group of measures and for all of them. Beside each distance stands what the training slides themselves have
when their patient is left out; by that alone a slide is called beyond training, so that a slide like those of the
training is called so once in a hundred times, or with fewer than a hundred patients about once in as many as there are.

Measured with each patient left out in turn, slides of the same hospital are called beyond training in 4 % (ORCA's BA,
27 patients), 5 % (BB, 20), 1 % (all of ORCA, 51), 0 % (both hospitals of BRCA-M2C, 27 and 47; EBHI, 69). Of slides of
another hospital 32 % are (BB after training on BA), 0 % (BA after BB, which holds all of its stains), 100 and 22 %
(BRCA-M2C, A8 after A7 and the other way round), 94 and 100 % (BRCA-M2C and EBHI after ORCA), and 0 % of ORCA after
EBHI, whose stains vary more than those of ORCA do: no warning does not mean that a slide is like those of the training
in all that matters. `python -m bench.appearance` measures this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import ndimage

from vitrail.quality.background import optical_density
from vitrail.quality.rules import EOSIN, HEMATOXYLIN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Planes = NDArray[np.float32]


class Measure(NamedTuple):
    """One number that says what a slide looks like.

    Attributes
    ----------
    group
        One of `GROUPS`.
    least
        A difference that says nothing, in the measure's unit; the spread of training slides counts as at least this.
    more, less
        What slides with more and with less of it have, in a few words.
    """

    group: str
    least: float
    more: str
    less: str


GROUPS = {"stain": "stain", "focus": "focus", "scanner": "scanner or compression", "all": "all of it together"}
"""Of measures, and what they are called."""

MEASURES: Mapping[str, Measure] = {
    "hematoxylin_hue": Measure("stain", 1.0, "redder hematoxylin", "bluer hematoxylin"),
    "eosin_hue": Measure("stain", 1.0, "redder eosin", "bluer eosin"),
    "stain_angle": Measure("stain", 1.0, "stains further apart", "stains closer together"),
    "hematoxylin_density": Measure("stain", 0.01, "more hematoxylin", "less hematoxylin"),
    "hematoxylin_spread": Measure("stain", 0.01, "more varied hematoxylin", "more even hematoxylin"),
    "eosin_density": Measure("stain", 0.01, "more eosin", "less eosin"),
    "eosin_spread": Measure("stain", 0.01, "more varied eosin", "more even eosin"),
    "sharpness": Measure("focus", 0.05, "sharper", "blurred"),
    "fine_detail": Measure("focus", 0.05, "more detail", "less detail"),
    "pale_brightness": Measure("scanner", 1.0, "brighter where palest", "darker where palest"),
    "pale_tint": Measure("scanner", 1.0, "redder where palest", "bluer where palest"),
    "noise": Measure("scanner", 0.1, "noisier", "less noise"),
    "colour_detail": Measure("scanner", 0.05, "more detail in colour", "less detail in colour"),
    "blockiness": Measure("scanner", 0.02, "stronger blocks of JPEG", "weaker blocks of JPEG"),
}
"""What is measured.

Hues are angles in degrees on the circle of colours of absorbed light, where blue-violet hematoxylin is near 60 and pink
eosin near 115; `stain_angle` is the angle between the two stain vectors, in degrees. Densities are optical (decadic)
and along the stain vectors: the median over stained pixels, and half the range of the middle 80 % (`_spread`).
`sharpness` and `fine_detail` are energies of detail of 1 and of 2 pixels over that of 4, as logarithms to base 2.
`pale_brightness` is the brightness of the palest hundredth of the pixels, and `pale_tint` how much more red than blue
they are, in grey levels; `noise` is a standard deviation in grey levels, where tiles are flattest, by chance a fifth
low. `colour_detail` is the energy of fine detail of colour over that of brightness, to base 2: compression takes colour
first. `blockiness` is how much larger steps are across the borders of blocks of 8 pixels than within, to base 2;
scaling hides it.
"""

MOST_TILES = 16
"""Tiles of a slide that are looked at."""

FEWEST_PATIENTS = 10
"""With fewer in the training no slide is called beyond it."""

LEVEL = 0.99
"""Quantile of the training slides' own distances beyond which a slide is beyond training."""

_MOST_PX = 128  # of a tile that texture is measured on
_STAINED = 0.1  # mean optical density from which a pixel is stained
_PALE = 230  # grey level of tissue that is no glass, at most
_FEWEST_PIXELS = 200
_FEWEST_TO_COMPARE = 3  # patients
_CLIPPED = 4.0  # spreads: how far a slide may pull correlations
_TINY = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingAppearance:
    """What the slides of a training look like: small enough for a `model.json`.

    Attributes
    ----------
    names
        Of the measures.
    slides, patients
        How many there were.
    centre, scale
        Of each measure median and robust spread.
    correlation
        Of the measures, shrunk; the rows one after the other.
    typical, limits
        By group, the median and the 99 % quantile of the distances that training slides have when their patient is left
        out.
    limit
        The 99 % quantile of their largest distance over any group's typical one: beyond it lies what was never seen.
    """

    names: tuple[str, ...]
    slides: int
    patients: int
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    correlation: tuple[float, ...]
    typical: dict[str, float]
    limits: dict[str, float]
    limit: float

    def distances(self, measured: Mapping[str, float]) -> Distances:
        """Tell how far a slide lies from those of the training.

        Parameters
        ----------
        measured
            What `measure` returns of it.
        """
        return self.distances_of(np.array([[measured[name] for name in self.names]]))[0]

    def distances_of(self, values: Floats) -> list[Distances]:
        """Tell how far several slides lie from those of the training.

        Parameters
        ----------
        values
            What was measured of them, `[slides, measures]`, in the order of `names`.
        """
        size = len(self.names)
        fitted = _Fit(np.array(self.centre), np.array(self.scale), np.array(self.correlation).reshape(size, size))
        own = fitted.distances(values, self.names)
        return [self.judged({group: float(own[group][at]) for group in GROUPS}) for at in range(len(values))]

    def judged(self, own: Mapping[str, float]) -> Distances:
        """Tell what distances by group, as `left_out` returns them, come to beside those of the training."""
        times = {group: own[group] / self.typical[group] for group in GROUPS}
        group = max(times, key=lambda name: times[name])
        return Distances(
            by_group={name: own[name] / self.limits[name] for name in GROUPS},
            farthest=times[group] / self.limit,
            group=group,
            is_beyond=self.patients >= FEWEST_PATIENTS and times[group] > self.limit,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """How far a slide lies from those of a training.

    Attributes
    ----------
    by_group
        For each of `GROUPS` the distance over that which 99 % of the training slides have at most.
    farthest
        The same of the largest of them, each measured by what is typical of its group.
    group
        Which one that is.
    is_beyond
        Whether that is beyond training; never with fewer than `FEWEST_PATIENTS` patients.
    """

    by_group: dict[str, float]
    farthest: float
    group: str
    is_beyond: bool


def measure(tiles: NDArray[np.uint8]) -> dict[str, float]:
    """Measure what a slide looks like.

    Parameters
    ----------
    tiles
        Some of its tiles, `[n, h, w, 3]`, RGB, n at least 1, all at one scale; at most `MOST_TILES` of them, evenly
        spread, are looked at. Distances mean something between slides cut at one scale.

    Returns
    -------
    dict[str, float]
        By the names of `MEASURES`; all finite.
    """
    chosen = np.asarray(tiles[spread_out(len(tiles), MOST_TILES)])
    height, width = chosen.shape[1:3]
    top, left = max(0, (height - _MOST_PX) // 2), max(0, (width - _MOST_PX) // 2)
    middle = np.ascontiguousarray(chosen[:, top : top + _MOST_PX, left : left + _MOST_PX])
    measured = _stains(chosen.reshape(-1, 3)) | _texture(middle) | _pale(chosen)
    return {name: round(measured[name], 5) for name in MEASURES}


def spread_out(count: int, most: int) -> NDArray[np.int64]:
    """Return at most so many of `count` numbers from 0, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def fit_training(values: Floats, patients: ArrayLike) -> TrainingAppearance | None:
    """Learn what the slides of a training look like.

    Parameters
    ----------
    values
        What `measure` returns of each slide, `[slides, measures]`, in the order of `MEASURES`.
    patients
        Whose slide it is, `[slides]`.

    Returns
    -------
    TrainingAppearance | None
        None for fewer than three patients.
    """
    names, owners = tuple(MEASURES), np.asarray(patients)
    count = len(np.unique(owners))
    if count < _FEWEST_TO_COMPARE:
        return None
    alone = left_out(values, owners, names)
    typical = {group: max(float(np.median(own)), _TINY) for group, own in alone.items()}
    fitted = _fit(values, names)
    return TrainingAppearance(
        names=names,
        slides=len(values),
        patients=count,
        centre=_rounded(fitted.centre),
        scale=_rounded(fitted.scale),
        correlation=_rounded(fitted.correlation),
        typical=typical,
        limits={group: max(_upper(own), _TINY) for group, own in alone.items()},
        limit=_upper(np.max([alone[group] / typical[group] for group in GROUPS], axis=0)),
    )


def left_out(values: Floats, patients: ArrayLike, names: Sequence[str]) -> dict[str, Floats]:
    """Return the distance of each slide from those of all other patients.

    Parameters
    ----------
    values
        `[slides, measures]`.
    patients
        Whose slide it is, `[slides]`; two patients at least.
    names
        Of the measures.

    Returns
    -------
    dict[str, NDArray[np.float64]]
        By group, `[slides]`; 1 is the distance of a slide that lies one spread off in every direction.
    """
    owners = np.asarray(patients)
    alone = {group: np.empty(len(values)) for group in GROUPS}
    for patient in np.unique(owners):
        own = owners == patient
        for group, distance in _fit(values[~own], names).distances(values[own], names).items():
            alone[group][own] = distance
    return alone


@dataclass(frozen=True, slots=True)
class _Fit:
    """Centre and scale `[measures]` of slides, and the shrunk correlation of their measures."""

    centre: Floats
    scale: Floats
    correlation: Floats

    def distances(self, values: Floats, names: Sequence[str]) -> dict[str, Floats]:
        off, result = (values - self.centre) / self.scale, {}
        for group in GROUPS:
            own = [at for at, name in enumerate(names) if group in {"all", MEASURES[name].group}]
            solved = np.linalg.solve(self.correlation[np.ix_(own, own)], off[:, own].T).T
            result[group] = np.sqrt(np.maximum((off[:, own] * solved).mean(1), 0))
        return result


def centre_and_scale(values: Floats) -> tuple[Floats, Floats]:
    """Return the median and the robust spread of measures.

    Parameters
    ----------
    values
        `[slides, measures]`, in the order of `MEASURES`.

    Returns
    -------
    tuple[NDArray[np.float64], NDArray[np.float64]]
        Both `[measures]`; the spread is that of a normal distribution with the same median deviation, and at least
        `Measure.least`.
    """
    centre = np.median(values, axis=0)
    least = np.array([each.least for each in MEASURES.values()])
    return centre, np.maximum(1.4826 * np.median(np.abs(values - centre), axis=0), least)


def _fit(values: Floats, names: Sequence[str]) -> _Fit:
    centre, scale = centre_and_scale(values)
    clipped = np.clip((values - centre) / scale, -_CLIPPED, _CLIPPED)
    unit = (clipped - clipped.mean(0)) / np.maximum(clipped.std(0), _TINY)
    products = unit[:, :, None] * unit[:, None, :]
    correlation, count = products.mean(0), len(values)
    apart = ~np.eye(len(names), dtype=np.bool_)
    chance = products.var(axis=0)[apart].sum() / max(count - 1, 1)  # of the coefficients, summed
    shrunk = chance / max(float(np.square(correlation[apart]).sum()), _TINY)
    shrunk = min(max(shrunk, 1 / (count + 1)), 1.0)  # two slides agree by chance, and no correlation is certain
    correlation = np.where(apart, (1 - shrunk) * correlation, 1.0)
    return _Fit(centre, scale, correlation)


def _upper(own: Floats) -> float:
    return float(np.quantile(own, LEVEL, method="higher"))


def _rounded(values: Floats) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values.ravel())


def _stains(pixels: NDArray[np.uint8]) -> dict[str, float]:
    """Find the two stains of pixels `[n, 3]` (Macenko et al. 2009, doi:10.1109/ISBI.2009.5193250) and measure them."""
    density = optical_density(pixels[:: max(1, len(pixels) // 60_000)]).astype(np.float64)
    stained = density[density.mean(1) > _STAINED]
    vectors = stain_vectors(stained)
    amounts = np.linalg.lstsq(vectors.T, stained.T, rcond=None)[0] if len(stained) else np.zeros((2, 1))
    low, middle, high = np.quantile(amounts, (0.1, 0.5, 0.9), axis=1)
    red, green, blue = vectors.T
    hue = np.degrees(np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue))
    return {
        "hematoxylin_hue": float(hue[0]),
        "eosin_hue": float(hue[1]),
        "stain_angle": float(np.degrees(np.arccos(np.clip(vectors[0] @ vectors[1], -1, 1)))),
        "hematoxylin_density": float(middle[0]),
        "eosin_density": float(middle[1]),
        "hematoxylin_spread": float(high[0] - low[0]) / 2,
        "eosin_spread": float(high[1] - low[1]) / 2,
    }


def stain_vectors(density: Floats) -> Floats:
    """Estimate the stain vectors of hematoxylin and eosin.

    They are the directions near both ends of what pixels are in the plane of most of their absorption (Macenko et al.
    2009, doi:10.1109/ISBI.2009.5193250).

    Parameters
    ----------
    density
        `[n, 3]`, optical density of stained pixels in red, green and blue.

    Returns
    -------
    NDArray[np.float64]
        `[2, 3]`, of length 1: hematoxylin, which absorbs more red, and eosin. Those of a standard stain for fewer than
        200 pixels, or where all have one colour.
    """
    standard: Floats = np.array([HEMATOXYLIN, EOSIN])
    standard = np.asarray(standard / np.linalg.norm(standard, axis=1, keepdims=True))
    if len(density) < _FEWEST_PIXELS:
        return standard
    plane = np.linalg.eigh(density.T @ density)[1][:, 1:]  # through the origin: no light absorbed is no stain
    plane *= np.where(plane.sum(0) < 0, -1, 1)
    along = density @ plane
    angles = np.quantile(np.arctan2(along[:, 0], along[:, 1]), (0.01, 0.99))
    ends: Floats = np.column_stack([np.sin(angles), np.cos(angles)]) @ plane.T
    ends = np.maximum(ends, 0)  # nothing absorbs less than no light
    ends = ends / np.linalg.norm(ends, axis=1, keepdims=True)
    if float(ends[0] @ ends[1]) > np.cos(np.radians(2)):
        return standard
    share = ends[:, 0] / ends.sum(1)
    order = [0, 1] if share[0] >= share[1] else [1, 0]
    ordered: Floats = ends[order]
    return ordered


def _texture(tiles: NDArray[np.uint8]) -> dict[str, float]:
    """Measure focus, noise and compression of the middles of tiles `[n, h, w, 3]`; medians over tiles."""
    levels = tiles.astype(np.float32)
    grey = levels.mean(-1)
    smooth = {0: grey} | {px: ndimage.gaussian_filter(grey, (0, px, px)) for px in (1, 2, 4)}
    coarse, middle, fine = (_energy(smooth[a] - smooth[b]) for a, b in ((2, 4), (1, 2), (0, 1)))
    colour = levels[..., 0] - levels[..., 2]
    return {
        "sharpness": _median_ratio(fine, coarse),
        "fine_detail": _median_ratio(middle, coarse),
        "colour_detail": _median_ratio(_energy(colour - ndimage.gaussian_filter(colour, (0, 1, 1))), fine),
        "noise": _noise(grey),
        "blockiness": float(np.median([_blockiness(plane) for plane in grey])),
    }


def _energy(planes: Planes) -> Floats:
    return np.asarray(np.square(planes).mean((1, 2)) + _TINY, np.float64)


def _median_ratio(first: Floats, second: Floats) -> float:
    return float(np.median(np.log2(first / second))) / 2


def _noise(grey: Planes) -> float:
    """Estimate the noise where tiles are flattest (Immerkær 1996, doi:10.1006/cviu.1996.0060)."""
    bent = np.diff(np.diff(grey, 2, axis=1), 2, axis=2)
    around = grey[:, 1:-1, 1:-1]
    flat, bright = (ndimage.uniform_filter(each, (0, 8, 8))[:, 4::8, 4::8] for each in (np.abs(bent), around))
    stained = flat[bright < _PALE]  # glass that is wholly white has no noise
    blocks = stained if stained.size else flat
    return float(np.sqrt(np.pi / 2) / 6 * (np.quantile(blocks, 0.1) if blocks.size else 0.0))


def _blockiness(grey: Planes) -> float:
    """Compare the steps across the borders of blocks of 8 pixels, wherever these begin, with all others."""
    ratios = []
    for axis in (0, 1):
        steps = np.abs(np.diff(grey, 2, axis=axis)).mean(1 - axis) + _TINY
        whole = steps[: len(steps) // 8 * 8].reshape(-1, 8).mean(0) if len(steps) >= 8 else np.ones(8)
        pairs = whole + np.roll(whole, 1)  # a step bends the two pixels beside it
        ratios.append(float(np.log2(pairs.max() / np.median(pairs))))
    return sum(ratios) / 2


def _pale(tiles: NDArray[np.uint8]) -> dict[str, float]:
    pixels = tiles.reshape(-1, 3)
    pixels = pixels[:: max(1, len(pixels) // 60_000)].astype(np.float64)
    brightness = pixels.mean(1)
    palest = pixels[brightness >= np.quantile(brightness, 0.99)].mean(0)
    return {"pale_brightness": float(palest.mean()), "pale_tint": float(palest[0] - palest[2])}
