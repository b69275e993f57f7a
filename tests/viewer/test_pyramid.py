from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from helpers.cohort import write_tiff
from vitrail.geometry import Region
from vitrail.slides.slide import open_slide, read_region
from vitrail.viewer.pyramid import TILE_PX, level_sizes, slide_sizes, slide_square, square


@given(st.integers(1, 200_000), st.integers(1, 200_000))
def test_levels_halve_until_one_square_holds_all(width, height):
    sizes = level_sizes((width, height))
    assert sizes[0] == (width, height)
    assert max(sizes[-1]) <= TILE_PX
    for finer, coarser in pairwise(sizes):
        assert max(finer) > TILE_PX
        assert all(0 <= 2 * c - f <= 1 for f, c in zip(finer, coarser, strict=True))


@given(st.integers(1, 1200), st.integers(1, 1200), st.data())
def test_squares_cover_a_level_once(width, height, data):
    sizes = level_sizes((width, height))
    level = data.draw(st.integers(0, len(sizes) - 1))
    covered = np.zeros(sizes[level][::-1], int)
    for row in range(-(-sizes[level][1] // TILE_PX)):
        for column in range(-(-sizes[level][0] // TILE_PX)):
            covered[square(sizes, level, column, row)] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize("place", [(-1, 0, 0), (3, 0, 0), (0, -1, 0), (0, 0, 3), (0, 4, 0), (2, 1, 0)])
def test_there_is_no_square_beyond(place):
    with pytest.raises(LookupError):
        square(level_sizes((1000, 700)), *place)


def test_a_square_shows_what_lies_there(tmp_path):
    y, x = np.mgrid[:600, :700]
    image = np.stack([x * 255 // 700, y * 255 // 600, (x + y) % 2 * 0 + 128], 2).astype(np.uint8)
    slide = open_slide(write_tiff(tmp_path / "slide.tif", image, mpp=0.5))
    assert slide_sizes(slide) == ((700, 600), (350, 300), (175, 150))
    shown = simplejpeg.decode_jpeg(slide_square(slide, 0, 2, 1))
    assert shown.shape == (256, 188, 3)
    np.testing.assert_allclose(shown.astype(int), image[256:512, 512:], atol=6)
    half = simplejpeg.decode_jpeg(slide_square(slide, 1, 1, 1))
    expected = read_region(slide, Region(x=512, y=512, width=188, height=88), (94, 44))
    np.testing.assert_allclose(half.astype(int), expected, atol=6)
