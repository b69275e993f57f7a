from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.linalg import spsolve

from vitrail.explain.nuclei.inpainting import harmonic_fill, inpaint, with_halo


def discs(size, centres, radius):
    rows, columns = np.indices(size)
    labels = np.zeros(size, np.int32)
    for number, (row, column) in enumerate(centres, 1):
        labels[np.hypot(rows - row, columns - column) <= radius] = number
    return labels


def tissue(size, seed=0):
    """Pink with a slope, and a grain."""
    rng, (rows, columns) = np.random.default_rng(seed), np.indices(size)
    ground = np.array([200, 130, 170]) + (0.1 * rows - 0.15 * columns)[..., None]
    return np.clip(ground + rng.normal(0, 4, (*size, 1)), 0, 255).astype(np.uint8)


def solved(planes, hole, bend, pull):
    """Solve the same equations at once by a sparse factorisation."""
    own = {at: number for number, at in enumerate(zip(*np.nonzero(hole), strict=True))}
    matrix, right = sparse.lil_array((len(own), len(own))), np.zeros((len(own), planes.shape[2]))
    height, width = hole.shape
    for (row, column), number in own.items():
        matrix[number, number] = 1 + pull
        right[number] = bend[row, column]
        for down, across in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            at = tuple(
                index if index <= last else 2 * last - index
                for index, last in ((abs(row + down), height - 1), (abs(column + across), width - 1))
            )
            if at in own:
                matrix[number, own[at]] -= 0.25
            else:
                right[number] += planes[at] / 4
    result = planes.astype(np.float64).copy()
    result[hole] = np.stack([spsolve(matrix.tocsc(), side) for side in right.T], 1)
    return result


@pytest.mark.parametrize("pull", [0.0, 0.01])
def test_a_hole_is_filled_by_the_solution_of_poissons_equation(pull):
    rng = np.random.default_rng(3)
    planes = np.cumsum(rng.normal(0, 2, (41, 38, 2)), axis=0).astype(np.float32)
    hole = (discs((41, 38), [(12, 12), (25, 20), (0, 30), (40, 37)], 8) > 0) & (rng.random((41, 38)) < 0.98)
    bend = rng.normal(0, 1, planes.shape).astype(np.float32)
    for grain in (0 * bend, bend):
        filled, exact = harmonic_fill(planes, hole, grain, pull), solved(planes, hole, grain, pull)
        assert np.array_equal(filled[~hole], planes[~hole])
        assert np.abs(filled - exact).max() < 0.5  # of grey levels: less than rounding
    assert np.abs(harmonic_fill(planes, hole) - solved(planes, hole, 0 * bend, 0)).max() < 0.5


def test_a_plane_is_continued_exactly():
    rows, columns = np.indices((33, 47), dtype=np.float32)
    plane = (3 * rows - 2 * columns)[..., None]
    hole = discs((33, 47), [(14, 20)], 9) > 0
    assert np.abs(harmonic_fill(plane, hole) - plane).max() < 0.05


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 2**32 - 1), st.floats(0, 1), st.booleans(), st.booleans())
def test_only_masked_pixels_change_and_the_same_seed_gives_the_same(height, width, seed, share, barring, numbered):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = rng.random((height, width)) < share
    barred = rng.random((height, width)) < 0.3 if barring else None
    pieces = mask * rng.integers(1, 5, (height, width)).astype(np.int32) if numbered else mask
    painted = inpaint(image, pieces, barred=barred, seed=(seed,))
    assert painted.dtype == np.uint8
    assert np.array_equal(painted[~mask], image[~mask])
    assert np.array_equal(painted, inpaint(image, pieces, barred=barred, seed=(seed,)))
    secret = image.copy()  # neither what is painted over nor what is barred shows
    hidden = mask if barred is None else mask | barred
    secret[hidden] = rng.integers(0, 256, (int(hidden.sum()), 3), dtype=np.uint8)
    if not hidden.all():
        assert np.array_equal(inpaint(secret, pieces, barred=barred, seed=(seed,))[mask], painted[mask])


def test_painting_twice_is_painting_once():
    image, labels = tissue((80, 80)), discs((80, 80), [(20, 20), (30, 34), (60, 60)], 8)
    image[labels > 0] = (70, 40, 110)
    once = inpaint(image, labels)
    assert np.array_equal(inpaint(once, labels), once)


def test_a_nucleus_leaves_tissue_of_the_same_colour_and_grain():
    plain = tissue((120, 120), seed=5)
    labels = discs((120, 120), [(30, 30), (44, 42), (80, 70), (70, 20)], 9)
    image = plain.copy()
    image[labels > 0] = (70, 40, 110)
    own = with_halo(labels, 0.5)
    painted = inpaint(image, own).astype(np.float64)
    for number in range(1, 5):
        before, after = plain[own == number].astype(np.float64), painted[own == number]
        assert np.abs(after.mean(0) - before.mean(0)).max() < 2.5
        assert 0.6 < after[:, 0].std() / before[:, 0].std() < 1.5
    steps = [np.abs(np.diff(each[own > 0][:, 0])).mean() for each in (plain.astype(np.float64), painted)]
    assert 0.6 < steps[1] / steps[0] < 1.4


def test_halos_do_not_reach_into_other_nuclei():
    labels = discs((40, 40), [(20, 12), (20, 24)], 6)
    own = with_halo(labels, 0.5)
    assert np.array_equal(own[labels > 0], labels[labels > 0])
    assert (own == 1).sum() > (labels == 1).sum()
    rows, columns = np.nonzero(own)
    nearest = np.hypot(rows[:, None] - np.nonzero(labels)[0], columns[:, None] - np.nonzero(labels)[1]).min(1)
    assert nearest.max() <= 2
    assert not with_halo(np.zeros((5, 5), np.int32), 0.5).any()
