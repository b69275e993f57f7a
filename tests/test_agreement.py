from __future__ import annotations

import numpy as np
import pytest
import torch

from vitrail.explain.agreement import agreement, correlate
from vitrail.explain.saliency import Frame
from vitrail.measures.patients import interval, ratio, sample
from vitrail.measures.stats import mode, pearson


def maps(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def enlarged(values, size):
    return torch.nn.functional.interpolate(torch.from_numpy(values)[:, None].double(), size=size, mode="bilinear")[
        :, 0
    ].numpy()


def test_a_map_agrees_with_itself_enlarged():
    coarse = maps(0, 5, 3, 4)
    np.testing.assert_allclose(correlate(coarse, enlarged(coarse, (12, 16))), 1)
    np.testing.assert_allclose(correlate(enlarged(coarse, (12, 16)), -coarse), -1)


def test_the_coarser_map_is_enlarged_to_the_finer():
    coarse, fine = maps(0, 70, 3, 3), maps(1, 70, 12, 12)  # more than one chunk
    np.testing.assert_allclose(correlate(coarse, fine), pearson(enlarged(coarse, (12, 12)), fine), atol=1e-12)
    np.testing.assert_array_equal(correlate(coarse, fine), correlate(fine, coarse))


def test_going_on_to_the_size_of_the_tile_changes_little():
    smooth = enlarged(maps(2, 20, 6, 6), (24, 24)).astype(np.float32)
    coarse = maps(3, 20, 6, 6) + smooth.reshape(20, 6, 4, 6, 4).mean((2, 4))
    as_the_paper = pearson(enlarged(coarse, (48, 48)), enlarged(smooth, (48, 48)))
    np.testing.assert_allclose(correlate(coarse, smooth), as_the_paper, atol=0.01)


def test_relu_comes_before_enlarging():
    coarse, fine = maps(0, 5, 3, 3), maps(1, 5, 12, 12)
    expected = pearson(enlarged(np.maximum(coarse, 0), (12, 12)), np.maximum(fine, 0))
    np.testing.assert_allclose(correlate(coarse, fine, relu=True), expected, atol=1e-12)


def test_constant_maps_are_counted_and_left_out():
    coarse, fine = maps(0, 4, 3, 3), maps(1, 4, 7, 7)
    coarse[0], fine[1], coarse[2] = 0.1, 0, -1 - np.abs(coarse[2])
    signed, relu = correlate(coarse, fine), correlate(coarse, fine, relu=True)
    assert np.isnan(signed).tolist() == [True, True, False, False]
    assert np.isnan(relu).tolist() == [True, True, True, False]
    found = agreement(signed, np.array(["a", "b", "c", "d"]), 0)
    assert (found.n, found.constant) == (2, 2)
    assert found.mean == pytest.approx(signed[2:].mean())


def at(values, frame, rows, columns):
    """Interpolate one map at given places with numpy."""
    own_rows, own_columns = frame.centres(values.shape)
    tall = np.stack([np.interp(rows, own_rows, column) for column in values.T], 1)
    return np.stack([np.interp(columns, own_columns, row) for row in tall])


def test_maps_are_compared_at_the_same_places():
    coarse, fine = maps(0, 6, 2, 3), maps(1, 6, 32, 40)
    low = Frame(image_px=(50, 80), span_px=(64, 96), shift_px=(-12.5, 15.5))
    high = Frame(image_px=(50, 80), span_px=(64, 80), shift_px=(0.5, -0.5))
    rows, columns = np.arange(25) * 2 + 1.5, np.arange(40) * 2 + 0.5  # seven rows of the fine map lie below the image
    found = correlate(coarse, fine, frames=(low, high))
    expected = [pearson(at(a, low, rows[:25], columns), b[:25]) for a, b in zip(coarse, fine, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(correlate(fine, coarse, frames=(high, low)), found, atol=1e-12)
    assert np.abs(found - correlate(coarse, fine)).max() > 0.01


def test_frames_that_say_nothing_change_nothing():
    coarse, fine = maps(0, 6, 3, 3), maps(1, 6, 48, 48)
    square = Frame(image_px=(96, 96), span_px=(96, 96))
    np.testing.assert_allclose(correlate(coarse, fine, frames=(square, square)), correlate(coarse, fine), atol=1e-12)
    other = Frame(image_px=(64, 96), span_px=(64, 96))
    with pytest.raises(ValueError, match=r"images of \(96, 96\) and \(64, 96\) pixels"):
        correlate(coarse, fine, frames=(square, other))


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
        correlate(maps(0, 2, 3, 3), maps(0, 3, 3, 3))
