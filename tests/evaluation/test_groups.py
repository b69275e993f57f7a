from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.ticker import MaxNLocator

from vitrail.evaluation.groups import patient_groups, round_edges, too_small


def test_when_a_group_is_too_small():
    mixed, tumor = np.array([True, False]), np.array([True, True])
    assert too_small(5, mixed) is None
    assert too_small(4, mixed) == "fewer than 5 patients"
    assert too_small(9, tumor) == "only tumor tiles"
    assert too_small(2, ~tumor) == "fewer than 5 patients, only non-tumor tiles"


def test_words_of_many_values_keep_the_frequent_ones():
    slides = pd.DataFrame({"slide_id": [f"S{i}" for i in range(60)], "patient_id": [f"P{i}" for i in range(60)]})
    centres = [f"C{i % 5}" for i in range(40)] + [f"D{i}" for i in range(20)]
    names = [f"N{i}" for i in range(60)]
    groups = patient_groups(slides.assign(centre=centres, name=names, empty=None))
    assert list(groups) == ["centre"]
    counts = groups["centre"].value_counts(sort=False)
    assert counts.iloc[:5].tolist() == [8] * 5
    assert counts.index[-1] == "18 others"
    assert counts.iloc[-1] == 18


@pytest.mark.parametrize("middle", [0, 1, 60, -60, 2008, 2008.5, -1e6, 1e9])
@pytest.mark.parametrize("span", [0.02, 0.5, 1, 3.7, 9, 10, 15, 31, 99.9, 4000])
def test_ranges_have_the_numbers_of_an_axis(middle, span):
    rng = np.random.default_rng(int(span * 100))
    for low in (middle - span / 2, *(middle + rng.uniform(-1, 1, 20) * span)):
        np.testing.assert_array_equal(round_edges(low, low + span), MaxNLocator(5).tick_values(low, low + span))
