from __future__ import annotations

import numpy as np
import pytest

from vitrail.explain.checks.floors import blind_maps, edges
from vitrail.explain.checks.replacements import density
from vitrail.explain.checks.stability import CHANGES, STAIN, change, follow, moved, shift_px

SIDE = 48


def picture(seed=0):
    return np.random.default_rng(seed).integers(20, 236, (SIDE, SIDE, 3), dtype=np.uint8)


def test_a_map_that_is_made_of_the_pixels_follows_wherever_they_go():
    images = np.stack([picture(seed) for seed in range(3)])
    before = images.astype(float).mean(3)
    for name in ("shift", "turn"):
        after = np.stack([change(image, name, (0,)).astype(float).mean(2) for image in images])
        same, chance = follow(before, after, name, np.array([1, 2, 0]))
        assert same == pytest.approx([1, 1, 1])
        assert np.abs(chance).max() < 0.1
        left, _ = follow(before, before, name, np.array([1, 2, 0]))  # a map that stays where it was
        assert np.abs(left).max() < 0.1


@pytest.mark.parametrize("name", ["stain", "focus"])
def test_slight_changes_stay_where_they_are(name):
    image = picture()
    changed = change(image, name, (3,))
    assert changed.dtype == np.uint8
    assert changed.shape == image.shape
    assert not np.array_equal(changed, image)
    same, _ = follow(image.astype(float).mean(2)[None], changed.astype(float).mean(2)[None], name, np.array([0]))
    assert same > 0.8


def test_stain_is_shifted_in_density():
    image = picture()
    ratios = (density(change(image, "stain", (5,))) / density(image)).mean((0, 1))
    assert np.abs(ratios - 1) == pytest.approx([STAIN] * 3, abs=0.01)


def test_focus_is_lost_or_gained():
    spread = [change(picture(), "focus", (seed,)).std() / picture().std() for seed in range(12)]
    assert min(spread) < 0.9
    assert max(spread) > 1.05


def test_masks_move_with_the_image():
    mask = np.zeros((SIDE, SIDE), bool)
    mask[3, 5] = True
    by = shift_px(SIDE)
    assert by == 4
    assert moved(mask, "shift")[3 + by, 5 + by]
    assert moved(mask, "turn")[SIDE - 1 - 5, 3]
    for name in ("stain", "focus"):
        assert moved(mask, name) is mask
    assert set(CHANGES) == {"stain", "focus", "shift", "turn"}


def test_edges_are_where_brightness_changes():
    image = np.full((SIDE, SIDE, 3), 200, np.uint8)
    image[:, SIDE // 2 :] = 100
    found = edges(image)
    at = SIDE // 2
    assert (found[:, [at - 1, at]] == 400).all()  # Sobel's kernel of a step of 100
    assert found[:, : at - 1].max() < 1e-3


def test_maps_that_no_method_made():
    maps = blind_maps(picture(), (1, 2))
    assert list(maps) == ["random", "blob", "edges"]
    blob = maps["blob"].upsample()
    assert np.unravel_index(blob.argmax(), blob.shape)[0] in range(SIDE // 2 - 4, SIDE // 2 + 4)
    assert blob.min() == 0
    again, other = (blind_maps(picture(), seed)["random"].values for seed in ((1, 2), (1, 3)))
    assert np.array_equal(maps["random"].values, again)
    assert not np.array_equal(again, other)
