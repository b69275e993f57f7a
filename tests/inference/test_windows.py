"""Overlapping windows: weights add up to one, and the seam index sees what an eye would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrail.inference.windows import Windows, WindowValues, blend
from vitrail.metrics.seam_index import SeamIndex

ELSEWHERE = np.array([0, 1], np.float32)


@st.composite
def plans(draw):
    side = draw(st.integers(2, 12))
    return Windows(
        height=draw(st.integers(1, 40)), width=draw(st.integers(1, 40)), side=side,
        overlap=draw(st.integers(0, side // 2)),
    )  # fmt: skip


def cut(windows, picture, row, columns):
    """Cut windows out of a picture; beyond it they hold nothing."""
    side, top = windows.side, windows.start(row)
    padded = np.pad(picture, ((0, 0), (side, 2 * side), (side, 2 * side)))
    return np.stack([
        padded[:, top + side : top + 2 * side, windows.start(c) + side : windows.start(c) + 2 * side] for c in columns
    ])  # fmt: skip


def rows_of(windows, picture, kept=lambda _row, _column: True):
    for row in range(windows.rows):
        columns = np.array([c for c in range(windows.columns) if kept(row, c)], np.int64)
        yield [
            WindowValues(columns=c, values=cut(windows, picture, row, c)) for c in np.array_split(columns, 2) if len(c)
        ]


@given(plans())
def test_what_was_cut_is_put_together_again(windows):
    picture = np.random.default_rng(0).random((2, windows.height, windows.width), np.float32)
    strips = list(blend(windows, rows_of(windows, picture), ELSEWHERE))
    assert np.concatenate(strips).transpose(2, 0, 1) == pytest.approx(picture, abs=1e-6)
    assert max(map(len, strips)) <= windows.stride


@given(plans(), st.integers(0, 5))
def test_work_goes_on_from_a_row_earlier(windows, first):
    picture = np.random.default_rng(0).random((2, windows.height, windows.width), np.float32)
    strips = list(blend(windows, rows_of(windows, picture), ELSEWHERE))
    rest = list(blend(windows, list(rows_of(windows, picture))[first:], ELSEWHERE, first))
    assert len(strips) == windows.rows
    for one, other in zip(strips[first + 1 :], rest[1:], strict=True):
        np.testing.assert_array_equal(one, other)


@given(plans())
def test_windows_not_looked_at_are_elsewhere(windows):
    picture = np.zeros((2, windows.height, windows.width), np.float32)
    found = np.concatenate(list(blend(windows, rows_of(windows, picture, lambda _r, _c: False), ELSEWHERE)))
    assert found == pytest.approx(np.broadcast_to(ELSEWHERE, found.shape), abs=1e-6)


@given(plans())
def test_every_pixel_counts_once(windows):
    total = np.zeros((windows.rows * windows.stride + windows.side, windows.columns * windows.stride + windows.side))
    for row in range(windows.rows):
        for column in range(windows.columns):
            top, left = row * windows.stride, column * windows.stride
            total[top : top + windows.side, left : left + windows.side] += windows.weight
    inside = total[windows.overlap :, windows.overlap :][: windows.height, : windows.width]
    assert inside.shape == (windows.height, windows.width)
    assert inside == pytest.approx(1, abs=1e-6)


def test_windows_overlap_by_half_at_most():
    with pytest.raises(ValueError, match="only by up to half"):
        Windows(height=9, width=9, side=4, overlap=3)


def index_of(picture, strips=1, **where):
    index = SeamIndex(**where)
    for strip in np.array_split(picture.astype(np.float32), strips):
        index.add(strip)
    return index.value


@pytest.mark.parametrize("strips", [1, 3, 7, 40])
def test_the_seam_index_is_that_of_a_plain_loop(strips):
    picture = np.random.default_rng(1).random((40, 33, 2))
    across = beside = 0.0
    for p in (picture, picture.swapaxes(0, 1)):
        for border in (3, 11, 19, 27, 35):
            if 2 <= border <= len(p) - 2:
                across += abs(p[border] - p[border - 1]).sum()
                beside += (abs(p[border + 1] - p[border]).sum() + abs(p[border - 1] - p[border - 2]).sum()) / 2
    assert index_of(picture, strips, period=8, first=3) == pytest.approx(across / beside, rel=1e-6)


def test_a_ramp_is_seamless_and_steps_are_not():
    y, x = np.mgrid[:64, :64]
    ramp = ((x + y) / 128)[..., None]
    assert index_of(ramp, period=16) == pytest.approx(1, abs=1e-3)
    steps = ramp + 0.1 * ((x // 16 + y // 16) % 2)[..., None]
    assert index_of(steps, period=16) > 5


def test_blending_takes_the_steps_away():
    """Windows that disagree by a constant: side by side they jump, overlapping they do not."""
    y, x = np.mgrid[:96, :96]
    picture = np.stack([(x + y) / 192, 1 - (x + y) / 192]).astype(np.float32)

    def jumping(overlap):
        windows = Windows(height=96, width=96, side=16, overlap=overlap)
        rng, index = np.random.default_rng(2), SeamIndex(period=windows.stride, first=-overlap % windows.stride)
        rows = (
            [
                WindowValues(
                    columns=r.columns, values=r.values + rng.normal(0, 0.05, (len(r.values), 1, 1, 1)).astype("f4")
                )
                for r in row
            ]
            for row in rows_of(windows, picture)
        )
        for strip in blend(windows, rows, ELSEWHERE):
            index.add(strip)
        return index.value

    assert jumping(0) > 3
    assert jumping(8) < 1.3


def test_a_flat_map_has_no_index():
    assert np.isnan(index_of(np.ones((8, 8, 1)), period=4))
