"""What is measured of each nucleus: its shape, its stain and its chromatin, in micrometres and optical densities.

All nuclei of an image are measured at once: sums over pixels by label, no loop over nuclei. Of 2,352 outlined nuclei
(CoNSeP, 0.25 um a pixel, and the same averaged to 0.5) area, perimeter, axes and eccentricity change by less than 1 %
in the median, the mean of hematoxylin by 1 %, its spread by 6 %; texture follows the pixels (contrast falls by 28 %),
and is to be compared at one scale. Ranks stay (Spearman 0.98 and more), but for solidity and clumps (0.87 and 0.84).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import shapely
from scipy import ndimage
from skimage.color import hed_from_rgb

from vitrail.quality.areas import EIGHT
from vitrail.quality.background import optical_density

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Labels = NDArray[np.int32]
    Plane = NDArray[np.float32]

Group = Literal["shape", "stain", "chromatin", "neighbours"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """What one number of a nucleus is.

    Attributes
    ----------
    title
        As in figures, tables and QuPath.
    unit
        `um`, `um2`, `OD` (decadic optical density), ...; empty for a pure number.
    definition
        How it is computed, and whose definition it is.
    group
        What it says something about.
    """

    title: str
    unit: str
    definition: str
    group: Group

    @property
    def label(self) -> str:
        """Title and unit."""
        unit = self.unit.replace("um", "µm").replace("2", "²")
        return f"{self.title} ({unit})" if unit else self.title


TEXTURE_UM = 1.0
"""Distance of the two pixels of a pair whose grey levels the texture compares."""

TEXTURE_STEP, TEXTURE_LEVELS = 0.05, 20
"""Width of a grey level in optical density of hematoxylin, from 0 on; and their number, the last open above. They are
the same for all nuclei of all slides: levels between a nucleus' own extremes would make noise of pale ones texture."""

CLUMP_UM, CLUMP_UM2, CLUMP_OD = 0.5, 0.5, 0.05
"""Of chromatin clumps: standard deviation of the Gaussian before, least area, and least density above the mean."""

_HARALICK = "Haralick et al. 1973, doi 10.1109/TSMC.1973.4309314"
_PAIRS = (
    f"of the grey levels (steps of {TEXTURE_STEP:g} OD hematoxylin) of pairs of pixels about {TEXTURE_UM:g} um apart "
    f"in four directions, both within the nucleus; {_HARALICK}"
)
_ELLIPSE = "the ellipse with the same second moments (scikit-image's regionprops)"

FEATURES: Mapping[str, Feature] = MappingProxyType(
    {
        "area_um2": Feature(title="Area", unit="um2", definition="number of pixels times their area", group="shape"),
        "perimeter_um": Feature(
            title="Perimeter",
            unit="um",
            definition="length of the outline by Crofton's formula: crossings of lines in four directions "
            "(scikit-image's perimeter_crofton); staircases of pixels do not lengthen it",
            group="shape",
        ),
        "major_axis_um": Feature(title="Major axis", unit="um", definition=f"longer axis of {_ELLIPSE}", group="shape"),
        "minor_axis_um": Feature(
            title="Minor axis", unit="um", definition=f"shorter axis of {_ELLIPSE}", group="shape"
        ),
        "eccentricity": Feature(
            title="Eccentricity", unit="", definition=f"of {_ELLIPSE}: 0 is a circle, 1 a line", group="shape"
        ),
        "solidity": Feature(
            title="Solidity",
            unit="",
            definition="share of the pixels whose centres lie in the convex hull of the nucleus' pixel centres that "
            "are the nucleus'; 1 is convex",
            group="shape",
        ),
        "circularity": Feature(
            title="Circularity",
            unit="",
            definition="4 pi area / perimeter^2, at most 1, which is a circle (as in QuPath and ImageJ)",
            group="shape",
        ),
        "hematoxylin_mean": Feature(
            title="Hematoxylin mean",
            unit="OD",
            definition="mean optical density of hematoxylin above the slide's glass, by colour deconvolution with "
            "fixed vectors (Ruifrok and Johnston 2001, PMID 11531144; scikit-image's hed_from_rgb)",
            group="stain",
        ),
        "hematoxylin_sum": Feature(
            title="Hematoxylin sum",
            unit="OD um2",
            definition="integral of the hematoxylin's density over the area: of DNA and what else it stains",
            group="stain",
        ),
        "hematoxylin_std": Feature(
            title="Hematoxylin spread",
            unit="OD",
            definition="standard deviation of the hematoxylin's density over the nucleus' pixels",
            group="stain",
        ),
        "texture_contrast": Feature(
            title="Texture contrast", unit="OD2", definition=f"mean squared difference {_PAIRS}", group="chromatin"
        ),
        "texture_homogeneity": Feature(
            title="Texture homogeneity",
            unit="",
            definition=f"mean of 1 / (1 + d^2) for the difference d in steps {_PAIRS} (inverse difference moment)",
            group="chromatin",
        ),
        "texture_entropy": Feature(
            title="Texture entropy",
            unit="bit",
            definition=f"entropy {_PAIRS}; it grows with the number of pairs, and so with the area",
            group="chromatin",
        ),
        "clumps": Feature(
            title="Chromatin clumps",
            unit="",
            definition=f"connected spots of at least {CLUMP_UM2:g} um2 whose hematoxylin, smoothed by {CLUMP_UM:g} um, "
            f"lies a standard deviation of the nucleus, and at least {CLUMP_OD:g} OD, above its mean",
            group="chromatin",
        ),
        "nearest_um": Feature(
            title="Nearest nucleus",
            unit="um",
            definition="distance from centre to the nearest other centre",
            group="neighbours",
        ),
        "density_25um": Feature(
            title="Density within 25 um",
            unit="1/mm2",
            definition="other centres within 25 um, by the area of that part of the disc that was looked at",
            group="neighbours",
        ),
        "density_50um": Feature(
            title="Density within 50 um",
            unit="1/mm2",
            definition="other centres within 50 um, by the area of that part of the disc that was looked at",
            group="neighbours",
        ),
        "anisokaryosis_50um": Feature(
            title="Anisokaryosis within 50 um",
            unit="",
            definition="standard deviation of the areas of the nuclei within 50 um, itself among them, by their mean: "
            "nuclear pleomorphism; undefined for fewer than three",
            group="neighbours",
        ),
        "orientation_coherence_50um": Feature(
            title="Orientation coherence within 50 um",
            unit="",
            definition="mean of cos 2(a - b) over all pairs of major axes of the nuclei within 50 um, itself among "
            "them: 1 is parallel, and 0 is expected of chance whatever their number; undefined for fewer than three",
            group="neighbours",
        ),
        "edge_um": Feature(
            title="Distance to the tissue's edge",
            unit="um",
            definition="from the centre to the nearest glass of the tissue mask; only where there is one",
            group="neighbours",
        ),
    }
)
"""All features by the names of their columns."""

OWN = tuple(name for name, feature in FEATURES.items() if feature.group != "neighbours")
"""Those that a nucleus has by itself: what `measure` returns."""


def measure(labels: Labels, image: NDArray[np.uint8], mpp: float, *, glass: ArrayLike | None = None) -> pd.DataFrame:
    """Measure every nucleus of an image by itself.

    Parameters
    ----------
    labels
        `[h, w]`, 0 for none, and 1 to n, each at least once.
    image
        `[h, w, 3]`, RGB.
    mpp
        Micrometres per pixel.
    glass
        Red, green and blue of the slide's empty glass, 0 to 255; None takes 255.

    Returns
    -------
    pd.DataFrame
        One row a label, in order: `label`; `x_um`, `y_um`, the centroid from the image's top left corner;
        `orientation`, of the major axis, in radians from the x axis towards the y axis, which points down, within
        (-pi/2, pi/2]; and `OWN`. A nucleus that the image cuts is measured as far as it is in it.

    Raises
    ------
    ValueError
        Shapes differ, or a label is missing.
    """
    if labels.shape != image.shape[:2]:
        raise ValueError(f"labels of {labels.shape} do not fit an image of {image.shape[:2]}")
    if min(labels.shape) == 0 or not labels.any():
        return pd.DataFrame({"label": np.empty(0, np.int32)} | {name: np.empty(0) for name in _COLUMNS})
    y, x = np.nonzero(labels)
    owner = labels[y, x].astype(np.intp) - 1
    count = np.bincount(owner)
    if (count == 0).any():
        raise ValueError(f"label {int(np.argmin(count > 0)) + 1} is missing; labels are 1 to n")

    def mean(values: Floats | NDArray[np.intp]) -> Floats:
        return np.bincount(owner, values) / count

    center_x, center_y = mean(x), mean(y)
    dx, dy = x - center_x[owner], y - center_y[owner]
    xx, yy, xy = mean(dx * dx), mean(dy * dy), mean(dx * dy)
    middle, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    largest, smallest = middle + half, np.maximum(middle - half, 0)
    area, perimeter = count * mpp**2, crofton_perimeters(labels) * mpp

    density = hematoxylin(image, glass)
    stain = density[y, x].astype(np.float64)
    stain_mean = mean(stain)
    stain_std = np.sqrt(mean(np.square(stain - stain_mean[owner])))
    contrast, homogeneity, entropy = _texture(labels, density, mpp)
    columns = {
        "x_um": (center_x + 0.5) * mpp,
        "y_um": (center_y + 0.5) * mpp,
        "orientation": np.arctan2(2 * xy, xx - yy) / 2,
        "area_um2": area,
        "perimeter_um": perimeter,
        "major_axis_um": 4 * np.sqrt(largest) * mpp,
        "minor_axis_um": 4 * np.sqrt(smallest) * mpp,
        "eccentricity": np.sqrt(1 - smallest / np.where(largest > 0, largest, 1)) * (largest > 0),
        "solidity": count / _hull_pixels(y, x, owner),
        "circularity": np.minimum(4 * np.pi * area / perimeter**2, 1),
        "hematoxylin_mean": stain_mean,
        "hematoxylin_sum": stain_mean * area,
        "hematoxylin_std": stain_std,
        "texture_contrast": contrast,
        "texture_homogeneity": homogeneity,
        "texture_entropy": entropy,
        "clumps": _clumps(labels, density, mpp, stain_mean + np.maximum(stain_std, CLUMP_OD)),
    }
    return pd.DataFrame({"label": np.arange(1, len(count) + 1, dtype=np.int32), **columns})


_COLUMNS = ("x_um", "y_um", "orientation", *OWN)


def hematoxylin(image: NDArray[np.uint8], glass: ArrayLike | None = None) -> Plane:
    """Return the optical density of hematoxylin, by fixed vectors of hematoxylin, eosin and a rest.

    Parameters
    ----------
    image
        `[..., 3]`, RGB.
    glass
        Red, green and blue of empty glass, 0 to 255; None takes 255.

    Returns
    -------
    NDArray[np.float32]
        `[...]`, decadic; below 0 where a pixel is bluer than eosin and brighter than hematoxylin can be.
    """
    light = 255.0 if glass is None else glass
    plane: Plane = optical_density(image, light) @ hed_from_rgb[:, 0].astype(np.float32)
    return plane


def crofton_perimeters(labels: Labels) -> Floats:
    """Return the perimeter of each label in pixels, by Crofton's formula with lines in four directions.

    Parameters
    ----------
    labels
        `[h, w]`, 0 for none, 1 to n.

    Returns
    -------
    NDArray[np.float64]
        `[n]`; the edge of the image is outline, too.
    """
    framed = np.pad(labels, 1)
    crossings = np.zeros(int(labels.max(initial=0)) + 1)
    for first, second, spacing in (
        (framed[:, :-1], framed[:, 1:], 1.0),
        (framed[:-1], framed[1:], 1.0),
        (framed[:-1, :-1], framed[1:, 1:], np.sqrt(0.5)),
        (framed[:-1, 1:], framed[1:, :-1], np.sqrt(0.5)),
    ):
        differ = first != second
        for side in (first, second):
            crossings += spacing * np.bincount(side[differ], minlength=len(crossings))
    return np.asarray(crossings[1:] * (np.pi / 8))


def _hull_pixels(y: NDArray[np.intp], x: NDArray[np.intp], owner: NDArray[np.intp]) -> Floats:
    """Count the pixel centres in the convex hull of each nucleus' pixel centres, by Pick's theorem.

    A polygon of area A whose vertices are points of the grid holds A + b / 2 + 1 of them, b on its outline. (Pick 1899,
    Sitzungsber. Lotos 19:311.) Only the ends of each row can be vertices of the hull.
    """
    order = np.argsort(owner, kind="stable")  # pixels come row by row already
    owner, y, x = owner[order], y[order], x[order]
    begins = np.append(True, (owner[1:] != owner[:-1]) | (y[1:] != y[:-1]))
    ends = np.append(begins[1:], True)
    points = np.concatenate([np.stack([axis[begins], axis[ends]], axis=1).reshape(-1, 1) for axis in (x, y)], axis=1)
    hulls = shapely.convex_hull(shapely.multipoints(points.astype(np.float64), indices=np.repeat(owner[begins], 2)))
    corners, hull = shapely.get_coordinates(hulls, return_index=True)
    steps = np.diff(corners, axis=0).astype(np.int64)
    on_edge = np.gcd(steps[:, 0], steps[:, 1]) * (hull[1:] == hull[:-1])
    # a nucleus one pixel wide is a line, which is walked along once, not there and back
    share = np.where(shapely.get_dimensions(hulls) == 2, 0.5, 1.0)
    outline = np.bincount(hull[1:], on_edge, minlength=int(owner[-1]) + 1)
    return np.asarray(shapely.area(hulls) + share * outline + 1)


def _texture(labels: Labels, density: Plane, mpp: float) -> tuple[Floats, Floats, Floats]:
    """Return contrast, homogeneity and entropy of each nucleus' co-occurrence matrix, summed over four directions.

    NaN where a nucleus holds no pair.
    """
    levels = TEXTURE_LEVELS
    grey = np.clip(density * np.float32(1 / TEXTURE_STEP), 0, levels - 1).astype(np.int64)
    straight, diagonal = (max(1, round(TEXTURE_UM / mpp * share)) for share in (1.0, np.sqrt(0.5)))
    nuclei = int(labels.max())
    pairs = np.zeros((nuclei + 1) * levels**2, np.int64)
    height, width = labels.shape
    for down, right in ((0, straight), (straight, 0), (diagonal, diagonal), (diagonal, -diagonal)):
        if down >= height or abs(right) >= width:
            continue
        first = slice(0, height - down), slice(max(-right, 0), width - max(right, 0))
        second = slice(down, height), slice(max(right, 0), width - max(-right, 0))
        same = (labels[first] == labels[second]) & (labels[first] > 0)
        index = labels[first][same].astype(np.int64) * levels**2 + grey[first][same] * levels + grey[second][same]
        pairs += np.bincount(index, minlength=len(pairs))
    matrices = pairs.reshape(-1, levels, levels)[1:].astype(np.float64)
    matrices += matrices.transpose(0, 2, 1)
    total = matrices.sum((1, 2))
    shares = matrices / np.where(total > 0, total, np.nan)[:, None, None]
    squared = np.square(np.subtract.outer(np.arange(levels), np.arange(levels)))
    bits = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    contrast = (shares * squared).sum((1, 2)) * TEXTURE_STEP**2
    return contrast, (shares / (1 + squared)).sum((1, 2)), 0.0 - (shares * bits).sum((1, 2))


def _clumps(labels: Labels, density: Plane, mpp: float, least: Floats) -> Floats:
    """Count the spots of each nucleus that are darker than its threshold in `least`."""
    smooth = ndimage.gaussian_filter(density, CLUMP_UM / mpp)
    thresholds = np.append(np.inf, least).astype(np.float32)
    y, x = np.nonzero(smooth >= thresholds[labels])
    dark = np.zeros(labels.shape, np.bool_)
    dark[y, x] = True
    pieces, _ = ndimage.label(dark, EIGHT)
    # a piece across touching nuclei is one of each of them
    spots, area = np.unique(pieces[y, x].astype(np.int64) * (len(least) + 1) + labels[y, x], return_counts=True)
    whose = spots[area * mpp**2 >= CLUMP_UM2] % (len(least) + 1)
    return np.bincount(whose, minlength=len(least) + 1)[1:].astype(np.float64)
