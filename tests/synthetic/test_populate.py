"""Nuclei that overlap are thinned as if they were placed one after the other."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vitrail.synthetic.populate import _independent


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)).filter(lambda pair: pair[0] < pair[1]), max_size=30))
def test_thinning_equals_taking_one_after_the_other(pairs):
    stays = np.ones(12, bool)
    for later in range(12):
        stays[later] = not any(stays[first] for first, second in pairs if second == later)
    assert np.array_equal(_independent(np.array(pairs, np.intp).reshape(-1, 2), 12), stays)
