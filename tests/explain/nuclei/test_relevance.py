from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.explain.checks.localisation import relevance_mass
from vitrail.explain.nuclei.relevance import cell_size_um, nucleus_size_um, own_stride_px, relevance, too_coarse
from vitrail.explain.saliency import Frame

LABELS = np.array([[1, 1, 0, 2], [0, 3, 3, 2], [0, 0, 0, 5]], np.int32)


def test_a_constant_map_has_on_each_nucleus_what_its_area_expects():
    table = relevance(np.full((3, 4), 2.0), LABELS)
    assert table["label"].tolist() == [1, 2, 3, 4, 5]
    assert table["mass"].to_numpy() == pytest.approx(table["expected"].to_numpy())
    assert table["expected"].to_numpy() == pytest.approx(np.array([2, 2, 2, 0, 1]) / 12)
    assert table["rank"].dropna().to_numpy() == pytest.approx(0.5)
    assert table[["mean", "rank"]].isna().to_numpy()[:, 0].tolist() == [False, False, False, True, False]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_masses_are_those_of_the_checks_and_ranks_follow_means(seed):
    rng = np.random.default_rng(seed)
    labels, values = rng.integers(0, 6, (9, 11)).astype(np.int32), rng.normal(size=(9, 11)).astype(np.float32)
    table = relevance(values, labels)
    inside = np.stack([labels == number for number in table["label"]])
    assert table["mass"].to_numpy() == pytest.approx(relevance_mass(values, inside))
    for row in table.itertuples():
        own = values[labels == row.label].astype(float)
        assert row.mean == pytest.approx(own.mean())
        below = (table["mean"] < row.mean).mean() + (table["mean"] == row.mean).mean() / 2
        assert row.rank == pytest.approx(below)
    ranks = relevance(3 * values + 7, labels)["rank"].to_numpy()
    assert ranks == pytest.approx(table["rank"].to_numpy())


def test_maps_without_a_positive_part_and_without_a_zero():
    negative = -np.arange(1.0, 13).reshape(3, 4)
    assert relevance(negative, LABELS)["mass"].isna().all()
    unsigned = relevance(negative, LABELS, signed=False)["mass"]
    assert unsigned.to_numpy() == pytest.approx(relevance(negative + 12, LABELS)["mass"].to_numpy())
    assert len(relevance(negative, np.zeros((3, 4), np.int32))) == 0
    with pytest.raises(ValueError, match=r"\(3, 3\) does not fit labels of \(3, 4\)"):
        relevance(negative[:, :3], LABELS)


def test_a_denser_map_is_no_finer():
    own, dense = Frame(image_px=(224, 224), span_px=(224, 224)), Frame(image_px=(224, 224), span_px=(224, 224))
    assert cell_size_um(own, (7, 7), 199.1) == pytest.approx(28.4, abs=0.05)
    assert cell_size_um(dense, (28, 28), 199.1, stride_px=32) == pytest.approx(28.4, abs=0.05)
    assert cell_size_um(dense, (56, 56), 199.1) == pytest.approx(3.6, abs=0.05)
    assert too_coarse(28.4, 10.0)
    assert not too_coarse(3.6, 10.0)


def test_the_finest_layer_of_a_map_says_what_it_can_tell():
    described = [{"name": "blocks.0", "stride": 2}, {"name": "blocks.2", "stride": 8}, {"name": "bn2", "stride": 32}]
    assert own_stride_px(("features",), described) == own_stride_px(("bn2",), described) == 32
    assert own_stride_px(("blocks.2", "bn2"), described) == 8
    assert own_stride_px(("pixels",), described) is None
    assert own_stride_px(("features",), []) is None


def test_the_median_diameter_of_nuclei():
    rows, columns = np.indices((80, 80))
    first, second = (np.hypot(rows - middle, columns - middle) <= 10 for middle in (20, 55))
    labels = first + 3 * second
    assert nucleus_size_um(labels.astype(np.int32), 0.5) == pytest.approx(10, rel=0.05)
    assert np.isnan(nucleus_size_um(np.zeros((4, 4), np.int32), 0.5))
