"""Tiles as another laboratory, microscope or file format would have made them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.color import rgb2hsv

from helpers.stained import stained_tiles
from vitrail.quality.rules import EOSIN, HEMATOXYLIN
from vitrail.shift.simulate import FAMILIES, SHIFTS, UNCHANGED, Shift, shifted

TILES = stained_tiles(tiles=2, side=48)


def of(family, strength, images=TILES, um_per_px=0.5):
    return shifted(images, Shift(family=family, strength=strength), um_per_px)


def test_every_shift_changes_tiles_and_keeps_their_form():
    assert {shift.family for shift in SHIFTS} == set(FAMILIES)
    assert len({shift.name for shift in (UNCHANGED, *SHIFTS)}) == 1 + len(SHIFTS)
    assert shifted(TILES, UNCHANGED, 0.5) is TILES
    for shift in SHIFTS:
        after = shifted(TILES, shift, 0.5)
        assert (after.shape, after.dtype) == (TILES.shape, np.uint8)
        assert (after != TILES).any()
        np.testing.assert_array_equal(after, shifted(TILES, shift, 0.5))


def test_a_pixel_of_one_stain_has_its_density_multiplied():
    for family, vector, other in (("hematoxylin", HEMATOXYLIN, EOSIN), ("eosin", EOSIN, HEMATOXYLIN)):
        pixel = np.rint(255 * 10 ** -(0.5 * np.array(vector)))[None, None, None].astype(np.uint8)
        expected = 255 * 10 ** -(0.75 * np.array(vector))
        np.testing.assert_allclose(of(family, 1.5, pixel)[0, 0, 0], expected, atol=2)
        untouched = np.rint(255 * 10 ** -(0.5 * np.array(other)))[None, None, None].astype(np.uint8)
        np.testing.assert_allclose(of(family, 1.5, untouched)[0, 0, 0], untouched[0, 0, 0], atol=2)


def test_white_stays_white_without_stain():
    white = np.full((1, 8, 8, 3), 255, np.uint8)
    for family in ("hematoxylin", "eosin", "hue"):
        np.testing.assert_array_equal(of(family, 0.5, white), white)


def test_hues_turn_towards_blue_and_red():
    before, bluer, redder = (rgb2hsv(images)[..., 0].mean() for images in (TILES, of("hue", 0.2), of("hue", -0.2)))
    assert bluer < before < redder  # from violet at 0.8 to blue at 0.67


def test_blur_is_gaussian_in_um():
    expected = ndimage.gaussian_filter(TILES[0, ..., 1].astype(float), 2.0, mode="reflect")
    np.testing.assert_allclose(of("focus", 1.0)[0, ..., 1], expected, atol=0.51)


def test_worse_jpeg_is_further_off():
    errors = [np.abs(of("jpeg", quality).astype(float) - TILES).mean() for quality in (70, 50, 30)]
    assert errors == sorted(errors)


def test_brightness_is_a_factor():
    np.testing.assert_allclose(of("brightness", 0.9), TILES * 0.9, atol=0.51)


def test_an_unknown_shift_is_an_error():
    with pytest.raises(ValueError, match="no such shift: 'sound'"):
        of("sound", 1.0)
