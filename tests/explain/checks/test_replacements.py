from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vitrail.explain.checks.replacements import (
    blurred,
    choose_donors,
    density,
    painted,
    replacements,
    without_evidence,
)

GROUND, NUCLEUS, WHITE = (225, 160, 190), (90, 50, 140), (245, 245, 245)


def tissue_with_nuclei(side=96, every=12, area=5):
    image = np.full((side, side, 3), GROUND, np.uint8)
    rows, columns = np.indices((side, side))
    image[(rows % every - 6) ** 2 + (columns % every - 6) ** 2 <= area] = NUCLEUS
    return image


def test_blurring_leaves_no_nucleus_and_keeps_the_colour():
    image = tissue_with_nuclei()
    soft = blurred(image)
    assert soft.shape == image.shape
    assert np.ptp(soft, axis=(0, 1)).max() <= 5  # before: 135
    assert np.abs(soft.mean((0, 1)) - image.mean((0, 1))).max() < 1


def test_painting_leaves_the_ground_where_a_blur_leaves_the_nuclei_s_purple():
    image = tissue_with_nuclei(area=20)  # nearly half of it is nuclei
    crowded = (image == NUCLEUS).all(2).mean()
    assert crowded > 0.4
    assert np.abs(painted(image).astype(int) - GROUND).max() <= 1
    assert np.abs(blurred(image).mean((0, 1)) - GROUND).max() > 40


def test_painting_takes_the_pale_half_s_colour_everywhere_and_fills_glass():
    image = tissue_with_nuclei()
    image[:, :24] = (200, 120, 160)  # a dense nest on the left
    image[40:48, 60:68] = WHITE
    filled = painted(image).astype(int)
    assert np.abs(filled - GROUND).max() <= 1


def test_glass_alone_is_blurred():
    image = np.full((48, 48, 3), WHITE, np.uint8)
    assert np.array_equal(painted(image), blurred(image))


def test_density_is_that_of_beer_and_lambert():
    assert density(np.array([[[255, 25, 0]]], np.uint8))[0, 0] == pytest.approx([0, 1.0086, 2.4065], abs=1e-4)


def rows_of():
    return pd.DataFrame({
        "tile": range(8), "slide_id": ["A", "A", "B", "B", "C", "D", "D", "E"],
        "patient_id": ["P", "P", "P", "P", "Q", "R", "R", "S"],
        "label": ["tumor", "non_tumor", "tumor", "non_tumor", "tumor", "tumor", "non_tumor", "non_tumor"],
        "classifier": [0.9, 0.1, 0.9, 0.8, 0.9, 0.9, 0.2, 0.1], "segmenter": [0.9, 0.2, 0.9, 0.1, 0.9, 0.9, 0.7, 0.1],
    })  # fmt: skip


def images_of(rows):
    greys = np.array([100, 90, 90, 80, 50, 200, 200, 60])
    return np.broadcast_to(greys[rows["tile"], None, None, None], (len(rows), 4, 4, 3)).astype(np.uint8)


def test_only_tiles_that_are_called_rightly_are_without_evidence():
    rows = rows_of()
    assert list(np.flatnonzero(without_evidence(rows))) == [1, 7]
    assert list(np.flatnonzero(without_evidence(rows, ["segmenter"]))) == [1, 3, 7]


def test_donors_are_of_the_same_slide_or_patient_or_else_nearest_in_stain():
    rows = rows_of()
    donors = choose_donors(rows, np.array([0, 2, 4, 5]), images_of(rows), (0,))
    assert list(donors) == [1, 1, 7, 1]  # slide; patient; 60 is nearer to 50, and 90 to 200
    none = rows.assign(label="tumor")
    assert len(choose_donors(none, np.array([0]), images_of(rows), (0,))) == 0


def test_donors_are_drawn_by_tile():
    rows = pd.concat([rows_of().iloc[[0]], *[rows_of().iloc[[1]]] * 20], ignore_index=True)
    rows = pd.concat([rows, *[rows.iloc[[0]]] * 9], ignore_index=True)
    chosen = np.array([0, *range(21, 30)])
    first, again, other = (choose_donors(rows, chosen, images_of(rows), (seed,)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(set(first)) > 4


def test_without_a_donor_the_others_remain():
    image = tissue_with_nuclei()
    assert list(replacements(image, None, ["donor", "blur"])) == ["blur"]
    made = replacements(image, image, ["donor", "tissue"])
    assert made["donor"] is image
    assert np.array_equal(made["tissue"], painted(image))
