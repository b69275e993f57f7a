"""Scaling: exact means, no shift, no seams."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.slides.readers import resample
from vitrail.slides.readers.resample import area_resample

means_resample = partial(area_resample, of_means=True)

counts = st.integers(1, 12)
seeds = st.integers(0, 2**32 - 1)
eighths = st.integers(0, 40).map(lambda n: n / 8)


def noise(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def exact_mean(image, box):
    """The mean of one box, pixel by pixel in 64 bits."""
    left, top, right, bottom = box
    total = np.zeros(image.shape[2])
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            covered = max(0, min(x + 1, right) - max(x, left)) * max(0, min(y + 1, bottom) - max(y, top))
            total += covered * image[y, x].astype(np.float64)
    return total / ((right - left) * (bottom - top))


@given(seeds, counts, counts, st.integers(1, 5), st.integers(1, 5))
def test_whole_factors_give_the_rounded_block_mean(seed, width, height, fx, fy):
    image = noise(seed, height * fy, width * fx)
    sums = image.reshape(height, fy, width, fx, 3).astype(np.int64).sum((1, 3))
    half_up = (2 * sums + fx * fy) // (2 * fx * fy)
    assert np.array_equal(area_resample(image, (0, 0, width * fx, height * fy), (width, height)), half_up)


@settings(deadline=None)
@given(seeds, eighths, eighths, st.floats(1.0, 4.0), st.floats(1.0, 4.0))
def test_a_reduced_pixel_is_the_mean_of_the_area_it_covers(seed, left, top, sx, sy):
    image = noise(seed, 18, 18)
    box = (left, top, left + 3 * sx, top + 2 * sy)
    result = area_resample(image, box, (3, 2)).astype(np.float64)
    for j in range(2):
        for i in range(3):
            want = exact_mean(image, (left + i * sx, top + j * sy, left + (i + 1) * sx, top + (j + 1) * sy))
            assert np.abs(result[j, i] - want).max() <= 0.5 + 1e-3


@given(st.integers(0, 255), eighths, st.floats(0.1, 10), counts, counts)
def test_a_constant_stays_constant(value, left, side, width, height):
    image = np.full((16, 16, 1), value, np.uint8)
    assert np.all(area_resample(image, (left, 0.3, left + side, 0.3 + side), (width, height)) == value)


@given(seeds, st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from([1, 2, 4, 8, 16]))
def test_the_mean_is_kept(seed, width, height):
    image = noise(seed, 16, 16)
    scaled = area_resample(image, (0, 0, 16, 16), (width, height))
    assert np.abs(scaled.mean((0, 1)) - image.mean((0, 1))).max() <= 0.5


@given(st.integers(1, 60), st.floats(2, 4), st.floats(0.1, 4))
def test_a_ramp_stays_a_ramp(count, left, scale):
    ramp = np.broadcast_to(np.arange(250, dtype=np.float32)[None, :, None], (1, 250, 1))
    scaled = area_resample(ramp, (left, 0, left + count * scale, 1), (count, 1))[0, :, 0]
    centres = left + (np.arange(count) + 0.5) * scale - 0.5
    wobble = 0.0 if scale <= 1 else 0.13 / scale  # a box of uneven ends leans by less than an eighth of a pixel
    assert np.abs(scaled - centres).max() <= 0.5 + wobble + 1e-3


@given(seeds, st.integers(0, 24), st.integers(1, 40), counts)
def test_flips_commute(seed, left, span, count):
    image = noise(seed, 4, 8)
    left, right = left / 8, min(8.0, (left + span) / 8)
    plain = area_resample(image, (left, 0, right, 4), (count, 3))[:, ::-1]
    flipped = area_resample(np.ascontiguousarray(image[:, ::-1]), (8 - right, 0, 8 - left, 4), (count, 3))
    assert np.abs(plain.astype(int) - flipped).max() <= 1  # a half may fall to either side
    assert (plain != flipped).mean() < 0.1 or count < 4


@settings(deadline=None)
@given(seeds, st.floats(1.0, 3.0), st.integers(1, 5), st.integers(1, 5))
def test_aligned_tiles_join_to_the_whole(seed, scale, first, second):
    image = noise(seed, 3, 32)
    edges = (0.5, 0.5 + first * scale, 0.5 + (first + second) * scale)
    whole = area_resample(image, (edges[0], 0, edges[2], 3), (first + second, 2))
    tiles = [
        area_resample(image, (edges[0], 0, edges[1], 3), (first, 2)),
        area_resample(image, (edges[1], 0, edges[2], 3), (second, 2)),
    ]
    assert np.abs(np.concatenate(tiles, axis=1).astype(int) - whole).max() <= 1
    assert np.concatenate(tiles, axis=1).astype(float).mean() == pytest.approx(whole.mean(), abs=0.2)


def test_enlarging_interpolates_between_centres_and_repeats_the_edge():
    image = np.array([[[0], [100]]], np.uint8)
    assert area_resample(image, (0, 0, 2, 1), (8, 1))[0, :, 0].tolist() == [0, 0, 13, 38, 63, 88, 100, 100]


def test_at_scale_one_both_rules_agree():
    image = noise(7, 6, 6)
    enlarged = area_resample(image, (0.3, 0.7, 4.3, 4.7), (4, 4))
    reduced = area_resample(image, (0.3, 0.7, 4.3 + 1e-5, 4.7 + 1e-5), (4, 4))
    assert np.abs(enlarged.astype(int) - reduced).max() <= 1
    assert (enlarged != reduced).mean() < 0.05


def test_a_whole_box_at_scale_one_is_a_copy():
    image = noise(3, 5, 6)
    crop = area_resample(image, (1, 2, 5, 4), (4, 2))
    assert np.array_equal(crop, image[2:4, 1:5])
    assert not np.shares_memory(crop, image)


@pytest.mark.parametrize(
    ("box", "size"),
    [((0, 0, 9, 8), (2, 2)), ((-1, 0, 8, 8), (2, 2)), ((3, 0, 3, 8), (2, 2)), ((0, 0, 8, 8), (0, 2))],
)
def test_a_box_off_the_image_or_without_extent_is_refused(box, size):
    with pytest.raises(ValueError, match=r"leaves an image|at least one pixel"):
        area_resample(np.zeros((8, 8, 3), np.uint8), box, size)


def waves(seed, count):
    """Smooth values along a line, exactly integrable."""
    rng = np.random.default_rng(seed)
    height, pitch, phase = rng.uniform(10, 25, 4), rng.uniform(9, 40, 4), rng.uniform(0, 6.28, 4)

    def mean(start, stop):
        ends = (np.cos(2 * np.pi * place / pitch + phase) for place in (start, stop))
        first, last = ends
        return 127 + float((height * pitch * (first - last) / (2 * np.pi * (stop - start))).sum())

    return mean, np.array([mean(i, i + 1) for i in range(count)], np.float32)


@settings(deadline=None)
@given(seeds, st.floats(2, 4), st.floats(1.2, 3.9))
def test_means_of_smooth_images_are_reduced_better_than_as_steps(seed, left, scale):
    mean, values = waves(seed, 60)
    row, box = values[None, :, None], (left, 0, left + 12 * scale, 1)
    want = np.array([mean(left + i * scale, left + (i + 1) * scale) for i in range(12)]).clip(0, 255)
    curved, steps = (resample(row, box, (12, 1))[0, :, 0] - want for resample in (means_resample, area_resample))
    assert np.abs(curved).max() <= 0.5 + 0.6
    assert np.abs(curved).mean() <= np.abs(steps).mean() + 0.15


@given(seeds, counts, counts, st.integers(1, 5), st.integers(1, 5))
def test_whole_factors_leave_no_room_for_curves(seed, width, height, fx, fy):
    image, box = noise(seed, height * fy, width * fx), (0, 0, width * fx, height * fy)
    assert np.array_equal(means_resample(image, box, (width, height)), area_resample(image, box, (width, height)))


@given(st.integers(0, 255), eighths, st.floats(0.1, 10), counts, counts)
def test_a_constant_stays_constant_among_means(value, left, side, width, height):
    image = np.full((16, 16, 1), value, np.uint8)
    assert np.all(means_resample(image, (left, 0.3, left + side, 0.3 + side), (width, height)) == value)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_do_not_mix(channels):
    image = np.random.default_rng(5).integers(0, 256, (40, 50, channels), dtype=np.uint8)
    whole = area_resample(image, (0.2, 0.7, 49.1, 38.3), (17, 19))
    for channel in range(channels):
        alone = area_resample(image[..., channel : channel + 1], (0.2, 0.7, 49.1, 38.3), (17, 19))
        assert np.array_equal(whole[..., channel], alone[..., 0])


@given(st.integers(1, 400), st.floats(0.5, 400), st.integers(1, 300), st.integers(1, 80), st.booleans())
def test_products_of_one_call_are_evenly_spaced_and_cover_all(length, span, count, most, of_means):
    of_means = of_means and span < length - 2 and span > count
    start = 1.0 if of_means else 0.0
    starts, matrices, runs = resample._blocks(
        length, (start, start + min(span, length - start)), count, 1, most, of_means=of_means
    )
    assert [block for first, last, _ in runs for block in range(first, last)] == list(range(len(starts)))
    for first, last, step in runs:
        assert np.array_equal(starts[first:last], starts[first] + step * np.arange(last - first))
        assert starts[last - 1] - starts[first] < most
    assert starts.min() >= 0
    assert starts.max() + matrices.shape[1] <= length


def test_products_of_one_call_are_those_of_many(monkeypatch):
    image = noise(3, 230, 410)
    boxes = [((0.3, 0.2, 409.4, 229.1), (90, 57)), ((1, 1, 409, 229), (224, 51)), ((4, 5, 60, 50), (130, 224))]
    together = [area_resample(image, box, size, of_means=means) for box, size in boxes for means in (False, True)]
    monkeypatch.setattr(resample, "_BAND", 1)
    alone = [area_resample(image, box, size, of_means=means) for box, size in boxes for means in (False, True)]
    assert all(np.array_equal(one, other) for one, other in zip(together, alone, strict=True))
