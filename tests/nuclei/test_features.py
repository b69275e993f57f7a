"""Features of single nuclei: against formulas of drawn ellipses, and scikit-image, one nucleus at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from skimage.color import rgb2hed
from skimage.feature import graycomatrix
from skimage.measure import label, regionprops
from skimage.morphology import convex_hull_image

from vitrail.nuclei import features
from vitrail.nuclei.features import FEATURES, OWN, TEXTURE_LEVELS, TEXTURE_STEP, hematoxylin, measure


def ellipse(shape_um, mpp, center_um, axes_um, angle=0.0):
    """Draw an ellipse by the centres of pixels; `axes_um` are whole axes."""
    y, x = ((np.arange(round(side / mpp)) + 0.5) * mpp for side in shape_um)
    dx, dy = x[None, :] - center_um[0], y[:, None] - center_um[1]
    along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    return (2 * along / axes_um[0]) ** 2 + (2 * across / axes_um[1]) ** 2 <= 1


def blobs(seed=0, shape=(150, 130)):
    """Label random blobs, some at the edge, some of a pixel, in an image of random colours."""
    rng = np.random.default_rng(seed)
    from scipy.ndimage import gaussian_filter  # noqa: PLC0415 - this helper alone

    rough = gaussian_filter(rng.normal(size=shape), 2)
    labels = label(rough > 0.05, connectivity=1).astype(np.int32)
    image = gaussian_filter(rng.normal(size=(*shape, 3)), (1.5, 1.5, 0)) * 400 + (140, 90, 160)
    return labels, image.clip(1, 255).astype(np.uint8)


@pytest.mark.parametrize("mpp", [0.25, 0.5])
@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 4, 1.9])
@pytest.mark.parametrize("axes", [(12.0, 8.0), (9.0, 9.0), (18.0, 7.0)])
def test_an_ellipse_has_the_size_of_its_formula(mpp, angle, axes):
    labels = ellipse((30, 34), mpp, (16.1, 14.7), axes, angle).astype(np.int32)
    row = measure(labels, np.full((*labels.shape, 3), 200, np.uint8), mpp).iloc[0]
    long, short = axes[0] / 2, axes[1] / 2
    assert row["area_um2"] == pytest.approx(np.pi * long * short, rel=0.03)
    perimeter = 4 * long * special.ellipe(1 - (short / long) ** 2)
    assert row["perimeter_um"] == pytest.approx(perimeter, rel=0.03)
    assert row["major_axis_um"] == pytest.approx(axes[0], rel=0.03)
    assert row["minor_axis_um"] == pytest.approx(axes[1], rel=0.03)
    assert row["eccentricity"] == pytest.approx(np.sqrt(1 - (short / long) ** 2), abs=0.03 if long > short else 0.2)
    assert row["solidity"] == pytest.approx(1, abs=0.02)
    assert row["circularity"] == pytest.approx(min(1, 4 * np.pi**2 * long * short / perimeter**2), rel=0.05)
    assert (row["x_um"], row["y_um"]) == pytest.approx((16.1, 14.7), abs=0.15)
    if long > short:
        assert np.cos(2 * (row["orientation"] - angle)) > 0.99


def test_shapes_are_those_of_regionprops():
    labels, image = blobs()
    table = measure(labels, image, 0.5)
    props = regionprops(labels)
    assert table["label"].tolist() == [each.label for each in props]
    for row, prop in zip(table.itertuples(), props, strict=True):
        assert row.area_um2 == prop.area * 0.25
        assert (row.y_um / 0.5 - 0.5, row.x_um / 0.5 - 0.5) == pytest.approx(prop.centroid)
        assert row.perimeter_um == pytest.approx(prop.perimeter_crofton * 0.5)
        assert row.major_axis_um == pytest.approx(prop.axis_major_length * 0.5)
        assert row.minor_axis_um == pytest.approx(prop.axis_minor_length * 0.5, abs=1e-6)
        assert row.eccentricity == pytest.approx(prop.eccentricity, abs=1e-6)
        is_line = min(prop.image.shape) == 1
        hull = prop.area if is_line else convex_hull_image(np.pad(prop.image, 1), offset_coordinates=False).sum()
        assert row.solidity == pytest.approx(prop.area / hull)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_no_feature_leaves_its_range(seed):
    table = measure(*blobs(seed, (40, 50)), 0.5)
    shares = table[["eccentricity", "solidity", "circularity"]]
    assert ((shares >= 0) & (shares <= 1)).all(axis=None)
    assert (table["minor_axis_um"] <= table["major_axis_um"]).all()
    assert table["orientation"].between(-np.pi / 2, np.pi / 2).all()
    homogeneity = table["texture_homogeneity"].dropna()
    assert ((homogeneity > 0) & (homogeneity <= 1 + 1e-12)).all()
    assert table[list(OWN)].drop(columns=[n for n in OWN if n.startswith("texture")]).notna().all(axis=None)


def test_hematoxylin_is_that_of_scikit_image_in_decadic_density():
    _, image = blobs()
    theirs = rgb2hed(image)[..., 0] * 6  # it counts in units of a million-fold weakening
    ours = hematoxylin(image)
    assert ours[theirs > 0] == pytest.approx(theirs[theirs > 0], abs=1e-4)


def test_stain_is_above_the_glass_of_the_slide():
    """The same tissue under a yellowish lamp, whose glass is known, has the same stain."""
    labels = ellipse((20, 20), 0.5, (10, 10), (12, 8)).astype(np.int32)
    clean = np.where(labels[..., None] > 0, np.array([90, 60, 140]), np.array([255, 255, 255]))
    lamp = np.array([240, 230, 190]) / 255
    row, dim = (
        measure(labels, np.rint(clean * light).astype(np.uint8), 0.5, glass=255 * light * np.ones(3)).iloc[0]
        for light in (1, lamp)
    )
    assert dim["hematoxylin_mean"] == pytest.approx(row["hematoxylin_mean"], abs=0.01)
    assert row["hematoxylin_sum"] == pytest.approx(row["hematoxylin_mean"] * row["area_um2"])
    assert row["hematoxylin_std"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("mpp", [0.25, 0.4, 0.5])
def test_texture_is_that_of_graycomatrix(mpp):
    labels, image = blobs(3)
    table = measure(labels, image, mpp)
    density = hematoxylin(image)
    grey = np.clip(density / TEXTURE_STEP, 0, TEXTURE_LEVELS - 1).astype(np.uint8) + 1
    distance = features.TEXTURE_UM / mpp
    for prop in regionprops(labels)[:25]:
        crop = np.where(prop.image, grey[prop.slice], 0)  # level 0 is outside
        straight = max(1, round(distance))
        diagonal = max(1, round(distance * np.sqrt(0.5)))
        quarter = np.pi / 4
        counts = sum(
            graycomatrix(crop, [step], [angle], TEXTURE_LEVELS + 1, symmetric=True)[1:, 1:, 0, 0].astype(float)
            for step, angle in ((straight, 0), (straight, 2 * quarter))
        )
        for flip in (crop, crop[:, ::-1]):
            counts = counts + shifted_pairs(flip, diagonal)
        row = table.iloc[prop.label - 1]
        if not counts.sum():
            assert row[["texture_contrast", "texture_homogeneity", "texture_entropy"]].isna().all()
            continue
        shares = counts / counts.sum()
        i, j = np.indices(shares.shape)
        assert row["texture_contrast"] == pytest.approx((shares * (i - j) ** 2).sum() * TEXTURE_STEP**2, abs=1e-9)
        assert row["texture_homogeneity"] == pytest.approx((shares / (1 + (i - j) ** 2)).sum())
        assert row["texture_entropy"] == pytest.approx(-(shares[shares > 0] * np.log2(shares[shares > 0])).sum())


def shifted_pairs(crop, step):
    """Count pairs `step` down and right with scikit-image: its distance is along the diagonal."""
    counts = graycomatrix(crop, [step * np.sqrt(2)], [np.pi / 4], TEXTURE_LEVELS + 1, symmetric=True)
    return counts[1:, 1:, 0, 0].astype(float)


@pytest.mark.parametrize("mpp", [0.25, 0.5])
@pytest.mark.parametrize("spots", [0, 1, 3])
def test_clumps_are_counted(mpp, spots):
    labels = ellipse((30, 40), mpp, (20, 15), (30, 20)).astype(np.int32)
    image = np.where(labels[..., None] > 0, np.array([150, 120, 190], np.uint8), np.uint8(240))
    for number in range(spots):
        image[ellipse((30, 40), mpp, (12 + 7 * number, 15), (3, 3))] = (60, 30, 110)
    assert measure(labels, image, mpp)["clumps"].tolist() == [spots]


def test_clumps_of_touching_nuclei_are_each_their_own():
    labels = np.zeros((40, 60), np.int32)
    labels[5:35, 5:30], labels[5:35, 30:55] = 1, 2
    image = np.where(labels[..., None] > 0, np.array([150, 120, 190], np.uint8), np.uint8(240))
    image[15:22, 25:35] = (60, 30, 110)  # one dark spot across the border
    assert measure(labels, image, 0.5)["clumps"].tolist() == [1, 1]


def test_every_own_feature_is_measured_and_described():
    table = measure(*blobs(), 0.5)
    assert [*table.columns] == ["label", "x_um", "y_um", "orientation", *OWN]
    assert all(feature.definition and feature.title for feature in FEATURES.values())
    assert FEATURES["area_um2"].label == "Area (µm²)"


def test_an_image_without_nuclei_has_no_rows():
    table = measure(np.zeros((5, 6), np.int32), np.zeros((5, 6, 3), np.uint8), 0.5)
    assert len(table) == 0
    assert set(OWN) < set(table.columns)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        measure(np.zeros((5, 6), np.int32), np.zeros((5, 5, 3), np.uint8), 0.5)
    with pytest.raises(ValueError, match="label 1 is missing"):
        measure(np.full((5, 6), 2, np.int32), np.zeros((5, 6, 3), np.uint8), 0.5)
