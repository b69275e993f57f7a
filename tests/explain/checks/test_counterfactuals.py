from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from vitrail.explain.checks.counterfactuals import (
    LIGHT,
    Looks,
    Patches,
    Sharpness,
    Stain,
    as_bytes,
    candidates,
    elsewhere,
    fill,
    ink,
    mark,
    restain,
    unmix,
)
from vitrail.quality.rules import EOSIN, HEMATOXYLIN

SIDE, MPP = 48, 2.0
RNG = np.random.default_rng(0)


def tissue(n=6, seed=0, hematoxylin=0.3, eosin=0.3):
    """Tiles whose stains vary from pixel to pixel around two means."""
    levels = np.random.default_rng(seed).uniform(0.7, 1.3, (2, n, SIDE, SIDE, 1))
    return as_bytes(
        LIGHT * 10 ** -(levels[0] * hematoxylin * np.array(HEMATOXYLIN) + levels[1] * eosin * np.array(EOSIN))
    )


def looks(images, patients=("A", "B")):
    return Looks(images=images, patients=np.resize(np.array(patients), len(images)))


def inked(images, colour=(40, 70, 160), at=slice(10, 18)):
    images = images.copy()
    images[:, at, 8:24] = colour
    return images


@pytest.mark.parametrize("colour", [(40, 70, 160), (30, 130, 90), (120, 40, 140), (230, 60, 40)])
def test_ink_of_any_colour_is_seen_and_tissue_is_not(colour):
    clean = tissue()
    where = ink(inked(clean, colour), MPP)
    assert where[:, 10:18, 8:24].all() or colour == (120, 40, 140)  # violet is nearly hematoxylin
    where[:, 10:18, 8:24] = False
    assert not where.any()
    assert not ink(clean, MPP).any()


def test_black_and_grey_are_marks_and_nuclei_are_not():
    marked = inked(tissue(hematoxylin=0.9), (30, 30, 30))
    assert mark(marked, MPP)[:, 10:18, 8:24].all()
    assert not mark(tissue(hematoxylin=0.9), MPP).any()


def test_a_hole_is_filled_with_pixels_of_the_tile_and_all_else_stays():
    image, hole = tissue(1)[0], np.zeros((SIDE, SIDE), bool)
    hole[10:20, 8:24] = True
    spoilt = image.copy()
    spoilt[hole] = 0
    filled = fill(spoilt, hole)
    assert (filled[~hole] == image[~hole]).all()
    colours = {tuple(pixel) for pixel in image[~hole]}
    assert all(tuple(pixel) in colours for pixel in filled[hole])
    assert (fill(spoilt, np.ones_like(hole)) == spoilt).all()  # nothing to fetch


def test_the_matched_hole_is_as_large_and_elsewhere():
    hole = np.zeros((SIDE, SIDE), bool)
    hole[10:20, 8:24] = True
    moved, shift = elsewhere(hole, tissue(1)[0])
    assert moved.sum() == hole.sum()
    assert not (moved & hole).any()
    assert (np.roll(moved, -shift, (0, 1)) == hole).all()


def test_patches_are_taken_and_put_both_matched_in_area():
    clean, spoilt = tissue(), inked(tissue())
    patches = Patches(name="ink", where=ink, um_per_px=MPP)
    taken = patches.take(spoilt)
    assert not ink(taken.images, MPP).any()
    assert ink(taken.matched[0], MPP)[:, 10:18, 8:24].all()  # untouched
    assert ((taken.matched[0] != spoilt).any(-1).sum((1, 2)) > 0).all()
    put = patches.put(tissue(seed=3), spoilt)
    assert (ink(put.images, MPP) == ink(spoilt, MPP)).all()
    assert not ink(put.matched[0], MPP).any()
    assert (patches.take(clean).images == clean).all()


def test_a_stain_is_moved_to_that_of_the_other_class_whatever_the_slides():
    """Two patients' slides differ by more than the classes; what is compared is within a patient."""
    strengths = {"A": (0.2, 0.35), "B": (0.5, 0.2)}
    rest = np.concatenate([tissue(3, 1, *strength) for strength in strengths.values()])
    tumor = np.concatenate([tissue(2, 2, 1.4 * h, 0.7 * e) for h, e in strengths.values()])
    owners = [Looks(images=images, patients=np.repeat(["A", "B"], n)) for images, n in ((tumor, 2), (rest, 3))]
    stain = Stain.between(*owners)
    assert np.allclose(np.exp(stain.change), (1 / 1.4, 1 / 0.7), rtol=0.04)
    changed = stain.take(tumor)
    medians = [np.median(unmix(images)[..., :2], axis=(0, 1, 2)) for images in (changed.images, rest[[0, 1, 3, 4]])]
    assert np.allclose(*medians, rtol=0.06)
    lengths = [np.abs(matched.astype(int) - tumor).mean() for matched in changed.matched]
    assert len(lengths) == 2
    assert min(lengths) > 1


def test_glass_takes_no_stain():
    glass = np.full((1, SIDE, SIDE, 3), int(LIGHT), np.uint8)
    assert (restain(glass, np.array([1.0, -1.0])) == glass).all()
    assert (Stain.between(looks(glass), looks(glass)).change == 0).all()


def test_detail_is_exchanged_only_where_the_classes_differ_by_far():
    sharp = tissue(8, 1)
    soft = as_bytes(ndimage.gaussian_filter(tissue(8, 2).astype(float), (0, 1.5, 1.5, 0)))
    assert not Sharpness.between(looks(sharp), looks(tissue(8, 2))).band.any()
    sharpness = Sharpness.between(looks(soft), looks(sharp))
    assert sharpness.band[-3:].all()
    assert sharpness.band[0] == 0

    def detail(images):
        return np.abs(np.diff(images.astype(float), axis=2)).mean()

    taken, put = sharpness.take(soft), sharpness.put(sharp, soft)
    assert detail(taken.images) > 0.6 * detail(sharp) > 2 * detail(taken.matched[0])
    assert detail(put.images) < 0.5 * detail(sharp) < detail(put.matched[0])


def test_candidates_do_not_depend_on_how_often_they_are_made():
    first, second = (candidates(looks(tissue(seed=1)), looks(tissue(seed=2)), MPP) for _ in range(2))
    assert [each.name for each in first] == ["ink", "mark", "stain", "sharpness"]
    spoilt = inked(tissue())
    for one, other in zip(first, second, strict=True):
        assert (one.take(spoilt).images == other.take(spoilt).images).all()
