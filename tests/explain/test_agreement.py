from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from vitrail.explain.agreement import (
    GRID,
    agreement,
    beyond_others,
    correlate,
    other_tiles,
    rank_agreement,
    rank_points,
)
from vitrail.explain.saliency import Frame, Saliency
from vitrail.metrics.bootstrap import interval, ratio, sample
from vitrail.metrics.correlation import mode, pearson

POINTS = GRID * GRID


def maps(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


TILE = Frame(image_px=(24, 48), span_px=(24, 48))


def enlarged(values, size):
    return torch.nn.functional.interpolate(torch.from_numpy(values)[:, None].double(), size=size, mode="bilinear")[
        :, 0
    ].numpy()


def drawn(values, frame):
    """Interpolate maps to every pixel of the tile with numpy, each value where its cell looks."""
    own_rows, own_columns = frame.centres(values.shape[1:])
    rows, columns = (np.arange(side) + 0.5 for side in frame.image_px)
    tall = [np.stack([np.interp(rows, own_rows, column) for column in one.T], 1) for one in values]
    return np.stack([np.stack([np.interp(columns, own_columns, row) for row in one]) for one in tall])


def naive(first, second, frames):
    pairs = zip(drawn(first, frames[0]), drawn(second, frames[1]), strict=True)
    return [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]


def test_a_map_agrees_with_itself():
    coarse = maps(0, 5, 3, 4)
    np.testing.assert_allclose(correlate(coarse, coarse, (TILE, TILE)), 1)
    np.testing.assert_allclose(correlate(coarse, -enlarged(coarse, (24, 48)), (TILE, TILE)), -1)
    np.testing.assert_allclose(correlate(coarse * 1e-30, 1e20 - coarse * 1e19, (TILE, TILE)), -1)


def test_both_maps_are_enlarged_to_the_tile_as_the_paper_does():
    coarse, fine = maps(0, 70, 3, 3), maps(1, 70, 12, 12)  # more than one chunk
    expected = pearson(enlarged(coarse, (24, 48)), enlarged(fine, (24, 48)))
    np.testing.assert_allclose(correlate(coarse, fine, (TILE, TILE)), expected, atol=1e-12)
    np.testing.assert_allclose(correlate(fine, coarse, (TILE, TILE)), expected, atol=1e-12)


def test_two_coarse_maps_are_compared_over_the_area_that_their_cells_cover():
    coarse, other = maps(0, 200, 3, 3), maps(1, 200, 3, 3)
    tile = Frame(image_px=(96, 96), span_px=(96, 96))
    found = correlate(coarse, other, (tile, tile))
    np.testing.assert_allclose(found, naive(coarse, other, (tile, tile)), atol=1e-12)
    assert np.abs(found - pearson(coarse, other)).max() > 0.3


def test_relu_comes_before_enlarging():
    coarse, fine = maps(0, 5, 3, 3), maps(1, 5, 12, 12)
    expected = pearson(enlarged(np.maximum(coarse, 0), (24, 48)), enlarged(np.maximum(fine, 0), (24, 48)))
    np.testing.assert_allclose(correlate(coarse, fine, (TILE, TILE), relu=True), expected, atol=1e-12)


def test_constant_maps_are_counted_and_left_out():
    coarse, fine = maps(0, 4, 3, 3), maps(1, 4, 7, 7)
    coarse[0], fine[1], coarse[2] = 0.1, 0, -1 - np.abs(coarse[2])
    signed, relu = (correlate(coarse, fine, (TILE, TILE), relu=relu) for relu in (False, True))
    assert np.isnan(signed).tolist() == [True, True, False, False]
    assert np.isnan(relu).tolist() == [True, True, True, False]
    found = agreement(signed, np.array(["a", "b", "c", "d"]), 0)
    assert (found.n, found.constant) == (2, 2)
    assert found.mean == pytest.approx(signed[2:].mean())


def test_maps_are_compared_at_the_same_places():
    coarse, fine = maps(0, 6, 2, 3), maps(1, 6, 32, 40)
    low = Frame(image_px=(50, 80), span_px=(64, 96), shift_px=(-12.5, 15.5))
    high = Frame(image_px=(50, 80), span_px=(64, 80), shift_px=(0.5, -0.5))  # seven rows of it lie below the image
    found = correlate(coarse, fine, (low, high))
    np.testing.assert_allclose(found, naive(coarse, fine, (low, high)), atol=1e-12)
    np.testing.assert_allclose(correlate(fine, coarse, (high, low)), found, atol=1e-12)
    as_shown = [
        np.corrcoef(*(one.upsample().ravel() for one in pair))[0, 1]
        for pair in zip(saliencies(coarse, low), saliencies(fine, high), strict=True)
    ]
    np.testing.assert_allclose(found, as_shown, atol=1e-5)


def saliencies(values, frame):
    return [Saliency(method="m", layers=("l",), target="tumor", values=one, frame=frame) for one in values]


def test_what_lies_beyond_the_tile_does_not_count():
    coarse, fine = maps(0, 3, 2, 2), maps(1, 3, 32, 32)
    high = Frame(image_px=(50, 50), span_px=(64, 64))
    low = Frame(image_px=(50, 50), span_px=(64, 64))
    before = correlate(coarse, fine, (low, high))
    fine[:, 26:], fine[0, :26] = 1e6, 0.5
    found = correlate(coarse, fine, (low, high))
    assert np.isnan(found).tolist() == [True, False, False]
    np.testing.assert_allclose(found[1:], before[1:], atol=1e-12)


def test_images_of_two_sizes_are_not_compared():
    other = Frame(image_px=(64, 96), span_px=(64, 96))
    with pytest.raises(ValueError, match=r"images of \(24, 48\) and \(64, 96\) pixels"):
        correlate(maps(0, 6, 3, 3), maps(1, 6, 48, 48), (TILE, other))


def test_numbers_of_a_cohort():
    rng = np.random.default_rng(4)
    patients = np.repeat(np.arange(20), 30)
    values = np.clip(0.5 + 0.2 * rng.normal(size=20)[patients] + 0.1 * rng.normal(size=600), -1, 1)
    found = agreement(values, patients, 0)
    assert found.mean == pytest.approx(values.mean())
    assert found.mode == pytest.approx(mode(values))
    assert found.mean_interval.low < found.mean < found.mean_interval.high
    by_tile = agreement(values, np.arange(600), 0).mean_interval
    assert found.mean_interval.high - found.mean_interval.low > 3 * (
        by_tile.high - by_tile.low
    )  # tiles are not patients


def test_summary_is_json():
    values = np.array([0.5, 0.51, np.nan])
    found = agreement(values, np.array(["a", "b", "b"]), 0).summary()
    mean = ratio(values[:2], [1, 1], sample(2, 2000, 0), "correlation")
    assert found == {
        "mode": pytest.approx(0.5),
        "mean": pytest.approx(0.505),
        "interval": list(interval(mean, sample(2, 2000, 0))),  # that of the scores
        "n": 2,
        "constant": 1,
    }
    nothing = agreement(np.array([np.nan]), np.array(["a"]), 0).summary()
    assert nothing == {
        "mode": None, "mean": None, "interval": [None, None], "n": 0, "constant": 1,
    }  # fmt: skip
    assert agreement(np.empty(0), np.empty(0, str), 0).n == 0


def test_maps_come_in_pairs():
    with pytest.raises(ValueError, match="2 maps cannot be paired with 3"):
        correlate(maps(0, 2, 3, 3), maps(0, 3, 3, 3), (TILE, TILE))


def test_values_that_are_not_finite_are_refused():
    broken = maps(0, 2, 3, 3)
    broken[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        correlate(maps(0, 2, 3, 3), broken, (TILE, TILE))


def test_ranks_are_compared_at_the_points_of_one_grid():
    coarse, fine = maps(0, 70, 3, 3), maps(1, 70, 12, 12)  # more than one chunk
    frames = TILE, Frame(image_px=(24, 48), span_px=(32, 64), shift_px=(1.5, -2.0))
    found, top = rank_agreement(*(rank_points(each, frame) for each, frame in zip((coarse, fine), frames, strict=True)))
    for i in (0, 33, 69):
        pair = [
            Saliency(method="m", layers=("l",), target="tumor", values=each[i], frame=frame).upsample((GRID, GRID))
            for each, frame in zip((coarse, fine), frames, strict=True)
        ]
        assert found[i] == pytest.approx(spearmanr(*(each.ravel() for each in pair))[0], abs=1e-4)
        strongest = [set(np.argsort(each.ravel())[-round(0.1 * POINTS) :]) for each in pair]
        assert top[i] == pytest.approx(len(strongest[0] & strongest[1]) / round(0.1 * POINTS), abs=0.03)


def test_ranks_heed_no_rising_function_of_a_map():
    fine = maps(0, 4, 9, 9)
    ranks = rank_points(fine, TILE)
    np.testing.assert_allclose(ranks.mean(1), POINTS + 1)  # twice the mean of 1, 2, 3 ...
    same = rank_agreement(ranks, rank_points(1e-20 * fine - 3e-20, TILE))
    np.testing.assert_allclose(same, 1, atol=0.01)  # the shifted maps are rounded
    spearman, top = rank_agreement(ranks, rank_points(-fine, TILE))
    np.testing.assert_allclose(spearman, -1, atol=1e-9)
    assert (top == 0).all()


def test_places_that_tie_for_the_last_of_the_strongest_count_in_part():
    """A map of zeros but for one cell in 64: the rest of its tenth lies anywhere else, in equal parts."""
    frame = Frame(image_px=(GRID, GRID), span_px=(GRID, GRID))
    first, second = np.zeros((2, 1, GRID, GRID), np.float32)
    first[0, :4, :4], second[0, 16:, 16:] = 1, np.arange(1, 257).reshape(16, 16)
    (top,) = rank_agreement(*(rank_points(each, frame) for each in (first, second)))[1]
    count = round(0.1 * POINTS)
    assert top == pytest.approx((count - 16) / (POINTS - 16))


def test_constant_maps_have_no_ranks():
    fine = maps(0, 3, 7, 7)
    fine[1] = 0.1
    for pair in ((fine, maps(1, 3, 3, 3)), (maps(1, 3, 3, 3), fine)):
        found = rank_agreement(*(rank_points(each, TILE) for each in pair))
        np.testing.assert_array_equal(np.isnan(found), [[False, True, False]] * 2)


def test_every_tile_has_another_and_is_that_of_another():
    for n in (2, 3, 100):
        others = other_tiles(n, 0)
        assert sorted(others) == list(range(n))
        assert (others != np.arange(n)).all()
    np.testing.assert_array_equal(other_tiles(100, 0), other_tiles(100, 0))
    assert (other_tiles(100, 0) != other_tiles(100, 1)).any()
    assert other_tiles(1, 0).tolist() == [0]
    assert other_tiles(0, 0).tolist() == []


def test_maps_of_other_tiles_are_what_chance_gives():
    coarse, fine, others = maps(0, 70, 3, 3), maps(1, 70, 12, 12), other_tiles(70, 3)
    found = correlate(coarse, fine, (TILE, TILE), others=others)
    np.testing.assert_array_equal(found, correlate(coarse, fine[others], (TILE, TILE)))


def test_a_pattern_that_all_maps_share_is_no_agreement():
    """The interval beyond chance covers 0 where two methods share but a pattern, in nearly all small cohorts."""
    pattern, patients = np.linspace(-1, 1, 25).reshape(5, 5), np.repeat(np.arange(4), 10)
    covered = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        weights = 1 + rng.uniform(-0.5, 0.5, (2, 4))[:, patients, None, None]
        first, second = weights * pattern + 0.4 * rng.normal(size=(2, 40, 5, 5))
        others = other_tiles(40, seed)
        ranks = [rank_points(each, TILE) for each in (first, second)]
        values, null = rank_agreement(*ranks)[0], rank_agreement(ranks[0], ranks[1][others])[0]
        result = beyond_others(values, null, patients, seed)
        assert result["value"] > 0.3
        assert result["beyond"][0] == pytest.approx(result["value"] - result["null"])
        covered += result["beyond"][1] <= 0 <= result["beyond"][2]
    assert covered >= 36
    assert beyond_others(np.full(2, np.nan), np.zeros(2), np.arange(2), 0) == {
        "value": None, "null": None, "beyond": [None, None, None],
    }  # fmt: skip
