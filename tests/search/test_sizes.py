"""The tiles of a search: averaging down what was averaged before."""

from __future__ import annotations

import numpy as np

from vitrail.slides.readers.resample import area_resample


def test_averaging_twice_is_averaging_once_where_it_divides():
    image = np.random.default_rng(0).integers(0, 256, (512, 512, 3)).astype(np.uint8)
    box = (0.0, 0.0, 512.0, 512.0)
    once = area_resample(image, box, (64, 64)).astype(int)
    cut = area_resample(image, box, (256, 256))
    assert np.abs(area_resample(cut, (0.0, 0.0, 256.0, 256.0), (64, 64)) - once).max() <= 1
