"""How far a feature of a nucleus is the nucleus' own: what is left of it when the nuclei are segmented anew.

The image is mirrored, moved by half a pixel, and stained a little differently; nothing of this changes a nucleus. What
then differs between the measurements of the same nucleus is error: of the outline above all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from skimage.color import hed_from_rgb, rgb_from_hed

from vitrail.metrics.bootstrap import estimate
from vitrail.metrics.instances import MATCHED_IOU, overlaps
from vitrail.nuclei.features import FEATURES, measure
from vitrail.nuclei.neighbours import neighbours
from vitrail.quality.background import optical_density

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    Image = NDArray[np.uint8]
    Labels = NDArray[np.int32]

VERSIONS = ("original", "mirrored", "moved", "stained")
"""What the nuclei are segmented on."""

STAIN = (1.05, 0.95, 1.0)
"""By how much hematoxylin, eosin and the rest are changed: as much as two slides of one batch differ, about."""


def stain_changed(image: Image, factors: tuple[float, float, float] = STAIN, glass: ArrayLike | None = None) -> Image:
    """Return an image with more or less of each stain.

    Parameters
    ----------
    image
        `[h, w, 3]`, RGB.
    factors
        Of the densities of hematoxylin, eosin and the rest, as `skimage.color.hed_from_rgb` has them.
    glass
        Red, green and blue of empty glass, which stays; None takes 255.

    Returns
    -------
    NDArray[np.uint8]
        `[h, w, 3]`.
    """
    light = np.broadcast_to(np.asarray(255.0 if glass is None else glass, np.float64), 3)
    densities = optical_density(image, light) @ hed_from_rgb * factors @ rgb_from_hed
    return np.asarray(np.rint(light * np.power(10.0, -densities)).clip(0, 255), np.uint8)


def measure_again(
    image: Image, mpp: float, segment: Callable[[Image, float], Labels], *, glass: ArrayLike | None = None
) -> pd.DataFrame:
    """Segment and measure the nuclei of an image in all `VERSIONS` of it.

    Parameters
    ----------
    image
        `[h, w, 3]`, RGB.
    mpp
        Micrometres per pixel.
    segment
        From an image and its micrometres per pixel to labels: an engine.
    glass
        Red, green and blue of the slide's empty glass; None takes 255.

    Returns
    -------
    pd.DataFrame
        `nucleus`, the number in the original; `version`; and every feature but `edge_um`. A nucleus has no row of a
        version in which no outline overlaps its own by more than half; nuclei that the image cuts are left out.
    """
    # half a pixel down and right: each new pixel is the mean of the four that it lies on
    exact = image.astype(np.float32)
    moved = (exact[:-1, :-1] + exact[1:, :-1] + exact[:-1, 1:] + exact[1:, 1:]) / 4
    images = {
        "original": image,
        "mirrored": np.ascontiguousarray(image[:, ::-1]),
        "moved": np.rint(moved).astype(np.uint8),
        "stained": stain_changed(image, glass=glass),
    }
    labelled = {version: segment(picture, mpp) for version, picture in images.items()}
    original, tables = labelled["original"], []
    for version, labels in labelled.items():
        table = measure(labels, images[version], mpp, glass=glass)
        height, width = labels.shape
        table = pd.concat([table, neighbours(table, extent_um=(0, 0, width * mpp, height * mpp))], axis=1)
        pairs = _same(original[:height, :width], labels[:, ::-1] if version == "mirrored" else labels)
        table = table.set_index("label").loc[list(pairs.values())].assign(nucleus=list(pairs), version=version)
        tables.append(table[["nucleus", "version", *(name for name in FEATURES if name in table)]])
    cut = np.unique(np.concatenate([original[0], original[-1], original[:, 0], original[:, -1]]))
    rows = pd.concat(tables, ignore_index=True)
    return rows[~rows["nucleus"].isin(cut)].reset_index(drop=True)


def _same(first: Labels, second: Labels) -> dict[int, int]:
    """Return which label of the first image is which of the second."""
    pairs = overlaps(first, second)
    alike = pairs.iou > MATCHED_IOU
    ones, others = (np.unique(labels[labels > 0]) for labels in (first, second))
    return dict(zip(ones[pairs.truth[alike]].tolist(), others[pairs.labels[alike]].tolist(), strict=True))


def reliability(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Say how reliable each feature is.

    Parameters
    ----------
    rows
        What `measure_again` returned of many images, with two columns more: `image`, and `patient`.
    seed
        Draws the patients of the intervals.

    Returns
    -------
    pd.DataFrame
        A row for each feature: `feature`; `nuclei`, those that were found, and have the feature, in all versions;
        `again`, their share of all in the original that have it there; `icc`, the intraclass correlation of single
        measurements by the one-way random model (Shrout and Fleiss 1979, doi 10.1037/0033-2909.86.2.420: ICC(1,1)),
        the share of the variance over measurements that is between nuclei; `low` and `high`, its 95 % interval over
        patients; and `error`, the standard deviation of measurements of one nucleus, in the feature's unit.
    """
    versions = rows["version"].nunique()
    names = [name for name in FEATURES if name in rows]
    results = []
    for name in names:
        table = rows.dropna(subset=[name]).pivot_table(
            index=["image", "patient", "nucleus"], columns="version", values=name, observed=True
        )
        values = table.dropna().to_numpy(np.float64)
        start = int((rows["version"].eq(VERSIONS[0]) & rows[name].notna()).sum())
        row = {"feature": name, "nuclei": len(values), "again": len(values) / start if start else np.nan}
        if len(values) and values.shape[1] == versions:
            mean = values.mean(axis=1)
            within = values.var(axis=1, ddof=1)
            # the mean of all is a constant here: to first order the ratio does not depend on it
            between = np.square(mean - mean.mean()) - within / versions
            patients = table.dropna().index.get_level_values("patient")
            icc = estimate(between, between + within, patients, seed)
            row |= {"icc": icc.value, "low": icc.low, "high": min(icc.high, 1.0)}
            row["error"] = float(np.sqrt(within.mean()))
        results.append(row)
    return pd.DataFrame(results, columns=["feature", "nuclei", "again", "icc", "low", "high", "error"])
