from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from vitrail.explain.nuclei.results import group_of
from vitrail.explain.nuclei.tiles import choose_tiles, spread


def rows_of(tumor, first, second, patients):
    return pd.DataFrame(
        {
            "label": np.where(tumor, "tumor", "non_tumor"),
            "classifier": first,
            "segmenter": second,
            "patient_id": [f"P{patient}" for patient in patients],
        }
    )


tiles = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([0.2, 0.8]), st.integers(0, 4)),
    max_size=40,
)


@given(tiles, st.integers(0, 50), st.integers(0, 5))
def test_as_many_as_there_are_each_once(each, count, seed):
    rows = rows_of(*(list(column) for column in zip(*each, strict=True)) if each else ([], [], [], []))
    chosen = choose_tiles(rows, count, seed)
    assert len(chosen) == min(count, len(rows))
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, choose_tiles(rows, count, seed))


def test_half_are_tumor_and_patients_take_turns():
    tumor = np.arange(120) % 2 == 0
    wrong = np.arange(120) % 5 == 0
    right = np.where(tumor != wrong, 0.9, 0.1)
    rows = rows_of(tumor, right, right, np.arange(120) // 30)
    chosen = rows.iloc[choose_tiles(rows, 16, 0)]
    groups = pd.Series(group_of(chosen, "classifier")).value_counts()
    assert groups.to_dict() == {"tumor": 8, "non_tumor": 4, "wrong": 4}
    assert (chosen["patient_id"].value_counts() == 4).all()


def test_a_tile_that_one_network_calls_wrongly_is_wrong():
    rows = rows_of([True] * 3, [0.9, 0.1, 0.9], [0.9, 0.9, 0.1], [0, 1, 2])
    assert list(group_of(rows, "classifier")) == ["tumor", "wrong", "tumor"]
    assert 0 in choose_tiles(rows, 1, 0)  # tumor that both call so comes first


def test_maps_are_spread_over_finer_pixels():
    values = np.array([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(spread(values, (4, 6)), np.kron(values, np.ones((2, 3))))
    np.testing.assert_array_equal(spread(values, (2, 2)), values)
