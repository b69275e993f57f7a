from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vitrail.metrics.instances import overlaps

images = arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 5))


@st.composite
def pairs(draw):
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    return tuple(draw(arrays(np.int32, shape, elements=st.integers(0, 5))) for _ in range(2))


def objects(labels):
    """Return the pixels of each object as a set."""
    return [{tuple(p) for p in np.argwhere(labels == n)} for n in np.unique(labels) if n]


def brute(truth, labels):
    """Follow the definitions, pixel set by pixel set."""
    true, seen = objects(truth), objects(labels)
    both = len(set().union(*true, set()) & set().union(*seen, set()))
    pixels = sum(map(len, true)) + sum(map(len, seen))
    matched = [len(a & b) / len(a | b) for a in true for b in seen if len(a & b) / len(a | b) > 0.5]
    misses, extras = len(true) - len(matched), len(seen) - len(matched)
    count = len(matched) + misses / 2 + extras / 2
    used, intersection, union = set(), 0, 0
    for a in true:
        best = max(range(len(seen)), key=lambda j: len(a & seen[j]) / len(a | seen[j]), default=None)
        if best is None or not a & seen[best]:
            union += len(a)
            continue
        used.add(best)
        intersection, union = intersection + len(a & seen[best]), union + len(a | seen[best])
    union += sum(len(b) for j, b in enumerate(seen) if j not in used)
    return {
        "dice": 2 * both / pixels if pixels else math.nan,
        "aji": intersection / union if union else math.nan,
        "f1": len(matched) / count if count else math.nan,
        "pq": sum(matched) / count if count else math.nan,
        "precision": len(matched) / len(seen) if seen else math.nan,
        "recall": len(matched) / len(true) if true else math.nan,
    }


def scores(truth, labels):
    counted = overlaps(truth, labels)
    names = ("dice", "aji", "pq", "precision", "recall")
    return {"f1": counted.f1()} | {name: getattr(counted, name) for name in names}


@given(pairs())
def test_the_scores_are_their_definitions(pair):
    expected = brute(*pair)
    for name, value in scores(*pair).items():
        # two best matches may tie, and then have other unions
        if name != "aji" or not _tied(*pair):
            assert value == pytest.approx(expected[name], nan_ok=True), name


def _tied(truth, labels):
    iou = [[len(a & b) / len(a | b) for b in objects(labels)] for a in objects(truth)]
    return any(len(row) > 1 and np.isclose(*np.sort(row)[-2:]) and max(row) > 0 for row in iou)


@given(images)
def test_what_is_equal_scores_one(labels):
    if labels.any():
        assert set(scores(labels, labels).values()) == {1.0}
    else:
        assert all(math.isnan(value) for value in scores(labels, labels).values())


@given(pairs(), st.permutations([11, 12, 13, 14, 15]))
def test_numbers_do_not_matter(pair, numbers):
    truth, labels = pair
    renamed = np.array([0, *numbers])[labels]
    if not _tied(truth, labels):
        assert scores(truth, labels) == pytest.approx(scores(truth, renamed), nan_ok=True)


def test_a_merged_pair_a_split_one_and_a_missed_one():
    truth = np.zeros((4, 20), int)
    truth[:, 0:4], truth[:, 4:8], truth[:, 10:18] = 1, 2, 3
    merged = np.zeros_like(truth)
    merged[:, 0:8], merged[:, 10:18] = 1, 2
    counted = overlaps(truth, merged)
    assert counted.dice == 1
    assert (counted.precision, counted.recall) == (1 / 2, 1 / 3)
    assert counted.f1() == counted.pq == pytest.approx(2 / 5)
    # both halves meet the merged one: 16 of 32 pixels each
    assert counted.aji == pytest.approx((16 + 16 + 32) / (32 + 32 + 32))


def test_half_is_no_match():
    truth, labels = np.array([[1, 1, 1, 0]]), np.array([[0, 1, 1, 1]])
    assert overlaps(truth, labels).iou.tolist() == [0.5]
    assert overlaps(truth, labels).f1() == 0
    with pytest.raises(ValueError, match=r"from 0.5 to 1"):
        overlaps(truth, labels).f1(0.4)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ in shape"):
        overlaps(np.zeros((2, 2), int), np.zeros((2, 3), int))


def test_many_objects_need_no_table_of_all_pairs():
    labels = np.arange(1, 250_001).reshape(500, 500)
    assert overlaps(labels, np.roll(labels, 1, axis=1)).pq == 1  # one pixel each: every one has its match
