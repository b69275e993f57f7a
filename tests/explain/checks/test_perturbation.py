from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import trapezoid

from vitrail.explain.checks.perturbation import (
    BASELINES,
    KINDS,
    PER_SIDE,
    block_numbers,
    block_ranks,
    closeness,
    curves,
    orders,
)
from vitrail.explain.checks.replacements import blurred

SIDE = 48
ORDERS = ("gradcam", "hrcam", *BASELINES)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def corner_image():
    """Black, but for a white corner of 3 x 3 blocks; so far from the rest that blurring hardly spreads it."""
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[: SIDE // 4, : SIDE // 4] = 255
    return image


def corner_score(images):
    """A network whose score is the mean of the corner."""
    mean = images[:, : SIDE // 4, : SIDE // 4].mean((1, 2, 3)) / 255
    return np.stack([mean, 10 * mean], 1)


def by_blur(image):
    return {"blur": blurred(image)}


def one_curve(table, order, kind):
    part = table[(table["order"] == order) & (table["kind"] == kind)]
    return part["fraction"].to_numpy(), part["score"].to_numpy()


@pytest.mark.parametrize("side", [32, 96, 100, 224])
def test_blocks_are_squares_that_cover_the_tile(side):
    blocks = block_numbers((side, side))
    counts = np.bincount(blocks.ravel())
    assert len(counts) == PER_SIDE**2
    ragged = side / PER_SIDE
    assert int(ragged) ** 2 <= counts.min() <= counts.max() <= np.ceil(ragged) ** 2
    for number in (0, 17, PER_SIDE**2 - 1):
        rows, columns = np.nonzero(blocks == number)
        assert (np.ptp(rows) + 1) * (np.ptp(columns) + 1) == len(rows)


def test_ranks_follow_the_mean_over_the_block():
    blocks = block_numbers((24, 36), 2)
    values = np.zeros((24, 36))
    values[5, 20] = 9  # block 1: a single high value
    values[12:, :18] = 0.1  # block 2: all of it a little
    values[:12, :18] = -1
    ranked = block_ranks(values, blocks, np.random.default_rng(0))
    assert [int(ranked[blocks == number][0]) for number in (2, 1, 3, 0)] == [0, 1, 2, 3]
    assert all(len(set(ranked[blocks == number])) == 1 for number in range(4))


def test_ties_are_broken_by_the_seed_alone():
    flat, blocks = np.full((24, 24), 3.5), block_numbers((24, 24))
    first, again, other = (block_ranks(flat, blocks, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert set(first.ravel()) == set(range(PER_SIDE**2))


def test_the_blob_grows_from_the_centre():
    blocks = block_numbers((SIDE, SIDE))
    ranked = block_ranks(closeness((SIDE, SIDE)), blocks, np.random.default_rng(0))
    row, column = np.divmod(np.arange(PER_SIDE**2), PER_SIDE) - np.array([[5.5], [5.5]])
    far = np.hypot(row, column)[[blocks[ranked == rank][0] for rank in range(PER_SIDE**2)]]
    assert (np.diff(far) >= -1e-9).all()
    assert len(set(ranked[np.isin(blocks, (65, 66, 77, 78))])) == 4
    assert ranked[np.isin(blocks, (65, 66, 77, 78))].max() == 3


def test_the_four_in_the_middle_tie_and_are_drawn():
    blocks = block_numbers((SIDE, SIDE))
    first = {
        int(blocks[block_ranks(closeness((SIDE, SIDE)), blocks, np.random.default_rng(seed)) == 0][0])
        for seed in range(40)
    }
    assert first == {65, 66, 77, 78}


def test_orders_differ_from_tile_to_tile_only_where_they_are_drawn():
    values = np.arange(SIDE * SIDE, dtype=float).reshape(SIDE, SIDE)
    one, other = (orders({"gradcam": values, "hrcam": -values}, (0, tile)) for tile in (3, 4))
    assert tuple(one) == ORDERS
    more = orders(dict.fromkeys(("gradcam", "hrcam", "third"), values), (0, 3))
    assert all(np.array_equal(more[name], one[name]) for name in BASELINES)  # whatever methods there are
    assert np.array_equal(one["gradcam"], other["gradcam"])
    assert np.array_equal(one["gradcam"], PER_SIDE**2 - 1 - one["hrcam"])
    assert not np.array_equal(one["random"], other["random"])


def test_the_true_map_gives_the_curve_that_follows_from_the_score():
    image, steps = corner_image(), 16  # 9 blocks a step; the corner holds exactly 9
    truth = np.zeros((SIDE, SIDE))
    truth[: SIDE // 4, : SIDE // 4] = 1
    table = curves(corner_score, image, orders({"gradcam": truth, "hrcam": -truth}, (0,)), steps, by_blur(image))
    blank = float(corner_score(blurred(image)[None])[0, 0])
    for kind, ends in (("deletion", (1.0, blank)), ("insertion", (blank, 1.0))):
        fraction, score = one_curve(table, "gradcam", kind)
        assert np.allclose(fraction, np.arange(17) / 16)
        assert np.allclose(score, [ends[0]] + [ends[1]] * 16)  # one step does it all
        fraction, score = one_curve(table, "hrcam", kind)  # the worst map: the corner comes last
        assert np.allclose(score, [ends[0]] * 16 + [ends[1]])


def test_the_true_map_has_the_least_area_under_deletion_and_the_most_under_insertion():
    image = corner_image()
    truth = np.zeros((SIDE, SIDE))
    truth[: SIDE // 4, : SIDE // 4] = 1
    table = curves(corner_score, image, orders({"gradcam": truth, "hrcam": -truth}, (0,)), 12, by_blur(image))
    area = {
        (order, kind): trapezoid(*one_curve(table, order, kind)[::-1]) for order in ORDERS for kind in KINDS
    }  # fmt: skip
    for other in ("hrcam", "random", "blob"):
        assert area["gradcam", "deletion"] < area[other, "deletion"]
        assert area["gradcam", "insertion"] > area[other, "insertion"]
    assert area["hrcam", "deletion"] == max(area[order, "deletion"] for order in ORDERS)


def test_the_images_in_between_are_what_they_should_be():
    image, maps = noise(SIDE, SIDE, 3), {"gradcam": noise(SIDE, SIDE) / 7, "hrcam": noise(SIDE, SIDE, seed=1) / 7}
    ranked = orders(maps, (5,))
    shown = []

    def score(images):
        shown.extend(images)
        numbers = np.arange(len(shown) - len(images), len(shown), dtype=float)
        return np.stack([numbers, -numbers], 1)

    blanks = {"blur": blurred(image), "donor": noise(SIDE, SIDE, 3, seed=2)}
    table = curves(score, image, ranked, 5, blanks)
    assert np.array_equal(shown[0], image)
    assert (table["logit"] == -table["score"]).all()
    assert len(table) == 2 * len(ORDERS) * len(KINDS) * 6
    for row in table.itertuples():
        blank = blanks[row.replacement]
        first = (ranked[row.order] < round(row.fraction * PER_SIDE**2))[..., None]
        expected = np.where(first, blank, image) if row.kind == "deletion" else np.where(first, image, blank)
        assert np.array_equal(shown[int(row.score)], expected)
    assert len(shown) == 3 + 2 * len(ORDERS) * 2 * 4  # the ends are shared, and the tile as it is by both replacements


def test_steps_need_not_divide_the_blocks():
    table = curves(corner_score, corner_image(), {"random": block_numbers((SIDE, SIDE))}, 7, by_blur(corner_image()))
    fraction, _ = one_curve(table, "random", "deletion")
    assert fraction[0] == 0
    assert fraction[-1] == 1
    assert np.abs(fraction - np.arange(8) / 7).max() <= 0.5 / PER_SIDE**2
