from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from vitrail.errors import NucleiError
from vitrail.metrics.instances import overlaps
from vitrail.nuclei.classical import segment_classical
from vitrail.nuclei.segmentation import segment_nuclei

ENGINES = pytest.mark.parametrize("segment", [segment_nuclei, segment_classical])


def tissue(side, *, noise=3.0, seed=0):
    """Return pink tissue without nuclei."""
    generator = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(generator.normal(0, 1, (side, side, 3)), (2, 2, 0)) * 8
    return np.array([225.0, 170.0, 200.0]) + texture + generator.normal(0, noise, (side, side, 3))


def ellipses(side=256, pitch=42, seed=1, inner=0.0):
    """Draw dark ellipses on tissue, none touching, and return their labels."""
    generator, image = np.random.default_rng(seed), tissue(side)
    labels = np.zeros((side, side), np.int32)
    y, x = np.mgrid[:side, :side]
    for row in range(pitch // 2, side - pitch // 2, pitch):
        for column in range(pitch // 2, side - pitch // 2, pitch):
            long, short, turn = generator.uniform(8, 11), generator.uniform(6, 8), generator.uniform(0, np.pi)
            dy, dx = y - row - generator.uniform(-3, 3), x - column - generator.uniform(-3, 3)
            along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
            inside = (along / long) ** 2 + (across / short) ** 2 <= 1
            labels[inside] = labels.max() + 1
            image[inside] = np.array([95.0, 65.0, 140.0]) + generator.normal(0, 8, (inside.sum(), 3))
    image = ndimage.gaussian_filter(image, (0.7, 0.7, 0)) + inner
    return np.clip(image, 0, 255).astype(np.uint8), labels


@ENGINES
def test_ellipses_are_found_one_by_one(segment):
    image, truth = ellipses()
    counted = overlaps(truth, segment(image, 0.5))
    assert (counted.f1(), len(counted.labels_px)) == (1, truth.max())
    assert counted.dice > 0.9


@ENGINES
def test_labels_run_from_one_and_each_is_connected(segment):
    image, _ = ellipses(pitch=22)  # they touch and overlap
    labels = segment(image, 0.5)
    assert (labels.dtype, labels.shape) == (np.int32, image.shape[:2])
    assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))
    for number in range(1, labels.max() + 1):
        assert ndimage.label(labels == number, np.ones((3, 3)))[1] == 1


@ENGINES
@pytest.mark.parametrize("colour", [(255, 255, 255), (243, 240, 244), (235, 180, 205), (150, 90, 160)])
def test_glass_and_tissue_of_one_colour_have_none(segment, colour):
    noise = np.random.default_rng(3).normal(0, 2, (160, 160, 3))
    image = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    assert segment(image, 0.5).max() == 0


def test_no_darkness_of_one_colour_is_nuclear_without_surroundings_to_compare_with():
    image = np.clip(np.array([90, 40, 120]) + np.random.default_rng(3).normal(0, 2, (160, 160, 3)), 0, 255)
    assert segment_classical(image.astype(np.uint8), 0.5).max() == 0


@ENGINES
def test_a_window_that_moves_leaves_the_nuclei_in_its_middle_where_they_are(segment):
    image, _ = ellipses(side=300, pitch=30)
    whole = segment(image, 0.5)
    part = segment(image[13:, 21:], 0.5)
    middle = np.s_[80:220, 80:220]
    counted = overlaps(whole[middle], np.pad(part, ((13, 0), (21, 0)))[middle])
    assert counted.f1(0.8) == 1


@ENGINES
@pytest.mark.parametrize("turn", [1, 2])
def test_a_turned_image_has_the_same_nuclei(segment, turn):
    image, truth = ellipses(side=192)
    turned = segment(np.ascontiguousarray(np.rot90(image, turn)), 0.5)
    assert overlaps(np.rot90(truth, turn), turned).f1() == 1


@ENGINES
@pytest.mark.parametrize("mpp", [0.25, 0.55])
def test_labels_come_back_at_the_images_scale(segment, mpp):
    image, truth = ellipses(side=192)
    size = round(192 * 0.5 / mpp)
    at = ((np.arange(size) + 0.5) * 192 / size).astype(int)
    counted = overlaps(truth[np.ix_(at, at)], segment(np.ascontiguousarray(image[np.ix_(at, at)]), mpp))
    assert counted.f1() == 1
    assert counted.dice > 0.88


@ENGINES
@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 40, 3), (65, 33, 3)])
def test_any_shape_will_do(segment, shape):
    assert segment(np.full(shape, 200, np.uint8), 0.5).shape == shape[:2]


@ENGINES
def test_what_is_too_coarse_is_refused(segment):
    with pytest.raises(NucleiError, match="0.8 um per pixel are too coarse"):
        segment(np.zeros((8, 8, 3), np.uint8), 0.8)


@ENGINES
def test_the_same_image_gives_the_same_labels(segment):
    image, _ = ellipses(pitch=26)
    assert np.array_equal(segment(image, 0.5), segment(image.copy(), 0.5))
