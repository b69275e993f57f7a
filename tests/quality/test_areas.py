"""Areas against sums over every pixel, and pieces against pictures drawn for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.quality.areas import MaskSums, drop_small_pieces

EDGE = st.floats(-4, 14)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 99), rows=st.tuples(EDGE, EDGE), columns=st.tuples(EDGE, EDGE))
def test_rectangles_count_pixels_by_the_part_inside(seed, rows, columns):
    mask = np.random.default_rng(seed).random((9, 11)) < 0.4
    (top, bottom), (left, right) = sorted(rows), sorted(columns)

    def overlap(low, high, count):
        first = np.arange(count)
        return np.clip(np.minimum(high, first + 1) - np.maximum(low, first), 0, None)

    expected = overlap(top, bottom, 9) @ mask @ overlap(left, right, 11)
    edges = [np.array([edge]) for edge in (top, left, bottom, right)]
    assert MaskSums(mask).inside(*edges) == pytest.approx(expected, abs=1e-9)


def test_pieces_are_dropped_by_their_size():
    mask = np.zeros((9, 9), bool)
    mask[0, 0] = mask[3, 3] = mask[4, 4] = True  # one on the edge, two that share a corner
    mask[6:8, 5:8] = True
    assert drop_small_pieces(mask, 6).sum() == 6
    assert drop_small_pieces(mask, 6.1).sum() == 0
    assert drop_small_pieces(mask, 2).sum() == 6
    assert drop_small_pieces(mask, 2, diagonal=True).sum() == 8
    assert drop_small_pieces(mask, 6, keep_edge=True)[0, 0]
    assert not drop_small_pieces(np.zeros((3, 3), bool), 0).any()
